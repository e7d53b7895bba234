"""One program that forks gloo ranks, shared by all tests that train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.store import RunStore
from workloads.checkpoint.support import incarnation

RANKS = Path(__file__).with_name("ranks.py")
Gang = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def gang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """Runs a scenario of ranks.train and returns what each rank answered."""
    root = Path(__file__).parents[3]
    scratch = tmp_path_factory.mktemp("ranks")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(root / each) for each in ("operator", "workloads", "tests")),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HOME": str(scratch),
        "TORCH_EXTENSIONS_DIR": str(scratch),
    }
    log = scratch / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(RANKS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            cwd=scratch,
        )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(**args: Any) -> list[dict[str, Any]]:
        process.stdin.write(json.dumps({**args, "root": str(args["root"])}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, log.read_text()[-4000:]
        answers: list[dict[str, Any]] = json.loads(line)
        # A rank whose peer was killed may see that before it is ended itself.
        killed = any("signal" in answer for answer in answers)
        errors = [] if killed else [answer["error"] for answer in answers if "error" in answer]
        assert not errors, "\n".join([*errors, log.read_text()[-2000:]])
        return answers

    yield run
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A probed store, owned by incarnation 1."""
    store = RunStore(tmp_path / "run")
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    return store
