"""One operator process per session, shared by the tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.operator.harness import JOBS, Cluster, Operator, prepare, start_shared
from contract.server import Client


@pytest.fixture(scope="session")
def system(api_server: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the operator needs to be installed; the directory holds its certificate in `tls`."""
    directory = tmp_path_factory.mktemp("operator")
    prepare(api_server, directory / "tls")
    return directory


@pytest.fixture(scope="session")
def operator(api_server: Client, system: Path) -> Iterator[Operator]:
    """A leading operator that watches nodes."""
    running = start_shared(api_server, system)
    try:
        yield running.await_ready().await_leading()
    finally:
        running.stop()


@pytest.fixture
def cluster(api_server: Client, namespace: str) -> Iterator[Cluster]:
    """The administrator's view of this test's namespace.

    Its jobs go with the test: a gang that nobody reports for is written to a minute later, in another test's time.
    """
    yield Cluster(api_server, namespace)
    api_server.delete(JOBS.format(namespace)).expect(200)
