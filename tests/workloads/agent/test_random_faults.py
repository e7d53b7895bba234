"""A sample of the fault benchmark: one run of real agents, disturbed twenty times at random by a fixed seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.faults.kinds import KINDS

pytestmark = pytest.mark.workloads

ROOT = Path(__file__).resolve().parents[3]
SEED, SINGLES, DOUBLES = 11, 17, 3
LIMIT_SECONDS = 300


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the benchmark wrote down; a process of its own, since it takes mounts of its own."""
    name = f"faults-sample-{os.getpid()}"
    path = ROOT / "build" / "bench" / f"{name}.json"
    counts = ["--singles", str(SINGLES), "--doubles", str(DOUBLES), "--seed", str(SEED)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.faults", "--task", "chain", *counts, "--name", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert path.exists(), done.stderr[-4000:]
    try:
        return dict(json.loads(path.read_text()))
    finally:
        path.unlink()


def test_every_promise_holds_after_each_of_twenty_random_faults(found: dict[str, Any]) -> None:
    assert [row["stuck"] for row in found["rows"] if "stuck" in row] == []
    assert found["brokenPromises"] == []
    assert (found["singles"], found["doubles"]) == (SINGLES, DOUBLES)
    assert found["lostCheckpoints"] == 0


def test_the_losses_are_those_of_an_undisturbed_run(found: dict[str, Any]) -> None:
    curve = found["lossCurve"]
    assert curve["equal"] and curve["missing"] == [], curve
    assert curve["doneAgain"] > 0, "nothing was disturbed"


def test_the_sample_has_faults_of_many_kinds_and_a_last_save(found: dict[str, Any]) -> None:
    kinds = {name for row in found["rows"] for name in row["kinds"]}
    possible = set(KINDS) - set(found["leftOut"])
    assert len(kinds) >= min(15, len(possible)), sorted(kinds)
    assert found["end"]["ok"], found["end"]
    assert found["incarnations"] >= SINGLES // 2
