"""One fork server, one tiny model and one data set for all training tests of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_data, write_model, write_texts
from tests.workloads.train.support import PRETRAINING, SPEC, ForkServer, Job, merge


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    write_model(root / "models" / "tiny")
    write_data(root / "data" / "train.jsonl", count=40)
    write_texts(root / "texts")
    return root


@pytest.fixture
def make_job(fork_server: ForkServer, volumes: Path, tmp_path: Path) -> Callable[..., Job]:
    made: list[Job] = []

    def make(**changes: Any) -> Job:
        made.append(Job(fork_server, volumes, tmp_path / f"job-{len(made)}", merge(SPEC, changes)))
        return made[-1]

    return make


@pytest.fixture
def make_pretraining(fork_server: ForkServer, volumes: Path, tmp_path: Path) -> Callable[..., Job]:
    made: list[Job] = []

    def make(**changes: Any) -> Job:
        root, spec = tmp_path / f"pretraining-{len(made)}", merge(PRETRAINING, changes)
        made.append(Job(fork_server, volumes, root, spec, kind="PretrainJob"))
        return made[-1]

    return make
