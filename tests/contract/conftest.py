"""Fixtures of the contract layer: one real API server per session, one namespace per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from contract.server import Client, install, running, shipped_crds

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An admin client of a real API server that knows our CRDs; stopped when the session ends."""
    with running(tmp_path_factory.mktemp("api-server")) as client:
        for crd in shipped_crds():
            install(client, crd)
        yield client


@pytest.fixture
def namespace(api_server: Client) -> str:
    """A namespace of this test alone. It is left behind: the server goes with the session."""
    name = f"test-{next(_NUMBERS)}"
    api_server.create("/api/v1/namespaces", {"metadata": {"name": name}}).expect(201)
    return name
