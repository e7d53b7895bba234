"""A run that goes on from the checkpoint of another one that has ended, with real agents and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import RunIdentity
from windlass_workloads.checkpoint import manifest as manifests
from workloads.agent import support
from workloads.agent.support import MakeRun

pytestmark = pytest.mark.workloads


def heir_of(elder: support.Run, tmp_path: Path, source: str, **changes: Any) -> support.Run:
    """Another run in the same claim, which is mounted where the tests keep everything."""
    made = support.config(tmp_path / "team" / "heir" / "uid-2", resume=source, **changes)
    run = RunIdentity(kind="FineTuneJob", namespace="team", name="heir", uid="uid-2")
    heir = support.Run(directory=tmp_path / "heir", config=made.model_copy(update={"run": run}))
    heir.environment = dict(elder.environment)
    return heir


def test_a_new_job_goes_on_where_a_failed_one_ended(make_run: MakeRun, tmp_path: Path) -> None:
    elder = make_run(steps=40, every=5, budgets={"crash": 0})
    elder.order(1, 13, "signal 9")
    agent = elder.start()
    assert agent.wait() != 0
    assert (agent.verdict.result, agent.verdict.step) == ("Failed", 10), agent.log
    heir = heir_of(elder, tmp_path, "pvc://store/store", steps=30, every=5)
    try:
        agent = heir.start()
        assert agent.wait() == 0, agent.log
        assert (agent.verdict.result, agent.verdict.step) == ("Succeeded", 30)
        record = heir.newest()
        assert record is not None
        assert (record.incarnation, record.resume) == (1, "step-00000010.i0")
        assert [each.step for each in record.accepted] == [10]
        assert heir.recoveries() == []
        assert heir.verified()[0] == 30
        assert manifests.read(heir.store, "step-00000030.i1").run_uid == "uid-2"
    finally:
        heir.close()
    # The one that ended has what it had.
    assert elder.store.list_checkpoints()[0] == "step-00000010.i1"


def test_a_checkpoint_that_cannot_be_taken_over_fails_the_run_with_what_can(
    make_run: MakeRun, tmp_path: Path
) -> None:
    elder = make_run(steps=10, every=5)
    agent = elder.start()
    assert agent.wait() == 0, agent.log
    heir = heir_of(elder, tmp_path, "pvc://store/store/step-00000007.i1", steps=30)
    try:
        agent = heir.start()
        assert agent.wait() != 0
        failure = agent.verdict.failure
        assert agent.verdict.result == "Failed" and failure is not None
        assert failure.reason == "Configuration"
        assert "step-00000007.i1: is not there" in failure.message
        assert "step-00000010.i1, step-00000005.i1" in failure.message
        assert failure.hint
        assert heir.newest() is None, "no incarnation was begun"
    finally:
        heir.close()


def test_an_adopted_checkpoint_that_does_not_load_fails_the_run_and_never_starts_it_anew(
    make_run: MakeRun, tmp_path: Path
) -> None:
    elder = make_run(steps=10, every=5)
    agent = elder.start()
    assert agent.wait() == 0, agent.log
    state = elder.store.path("step-00000010.i1/state.json")
    state.write_bytes(state.read_bytes().replace(b"0.5", b"0.6", 1))
    heir = heir_of(elder, tmp_path, "pvc://store/store/step-00000010.i1", steps=30, budgets={"storage": 5})
    try:
        agent = heir.start()
        assert agent.wait() != 0
        failure = agent.verdict.failure
        assert agent.verdict.result == "Failed" and failure is not None
        assert "nothing is left to go on from" in failure.message, failure
        newest = heir.newest()
        assert newest is not None and newest.resume == "step-00000010.i0"
        assert heir.store.list_checkpoints() == ["step-00000010.i0"], "not a step was taken anew"
    finally:
        heir.close()
