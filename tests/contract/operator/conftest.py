"""One operator process per session, shared by the tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.operator.harness import Cluster, Operator, prepare, start_shared
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
def cluster(api_server: Client, namespace: str) -> Cluster:
    """The administrator's view of this test's namespace."""
    return Cluster(api_server, namespace)
