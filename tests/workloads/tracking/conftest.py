"""The session's MLflow server, up at the beginning of every test, and one that only plays it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workloads.tracking.server import Server, shared
from workloads.tracking.fake_mlflow import FakeMLflow


@pytest.fixture
def server() -> Server:
    running = shared()
    running.up()
    return running


@pytest.fixture
def fake_server() -> Iterator[FakeMLflow]:
    running = FakeMLflow()
    yield running
    running.close()
