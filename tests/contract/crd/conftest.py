"""The CRD alone: a server of its own, so that no operator acts on the documents of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.server import Client, install, running, shipped_crds


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An admin client of an API server that knows our CRDs and nobody watches."""
    with running(tmp_path_factory.mktemp("crd-server")) as client:
        for crd in shipped_crds():
            install(client, crd)
        yield client
