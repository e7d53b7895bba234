"""The session's MLflow server, up at the beginning of every test."""

from __future__ import annotations

import pytest

from tests.workloads.tracking.server import Server, shared


@pytest.fixture
def server() -> Server:
    running = shared()
    running.up()
    return running
