"""A script of a user's own on two gloo ranks, under real agents: killed, stopped, fed with broken numbers and files."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from windlass_workloads.checkpoint import manifest as manifests
from workloads.agent.support import wait_for
from workloads.custom.conftest import PATIENCE, Scripted

pytestmark = [pytest.mark.workloads, pytest.mark.timeout(3600)]
Make = Callable[..., Scripted]


def test_a_killed_rank_goes_on_in_place_and_bit_for_bit(scripted: Make) -> None:
    whole = scripted("whole")
    whole.finish()
    broken = scripted("broken", fault="1:8:signal 9")
    agent = broken.finish()
    assert (agent.verdict.result, agent.verdict.step, agent.verdict.incarnation) == ("Succeeded", 20, 2)
    (row,) = broken.run.recoveries()
    assert (row["rung"], row["class"], row["signal"], row["firstFailed"]["rank"]) == (
        "InPlace",
        "Crash",
        9,
        1,
    )
    assert (row["fromStep"], row["resumedStep"], row["lostSteps"]) == (7, 5, 2)
    assert [step for step, _, _ in broken.lives()] == [*range(1, 8), *range(6, 21)]
    # Losses are of all ranks' weights and of random numbers drawn in each step.
    assert broken.losses() == whole.losses()
    assert len(set(whole.losses().values())) == 20
    assert broken.run.verified() == [20, 15, 10, 5]
    first = broken.variables(0)
    assert (first["WORLD_SIZE"], first["LOCAL_WORLD_SIZE"], first["TORCHELASTIC_RESTART_COUNT"]) == (
        "2",
        "2",
        "1",
    )


def test_told_to_leave_it_saves_and_a_new_pod_loses_nothing(scripted: Make) -> None:
    made = scripted(environment={"STEP_SECONDS": "0.2", "STEPS": "60"}, every=50, grace=600)
    agent = made.start()
    wait_for("some steps", lambda: (made.home / "losses").exists() and len(made.lives()) > 3, PATIENCE)
    agent.send(signal.SIGTERM)
    agent.wait(PATIENCE)
    assert (agent.verdict.result, agent.verdict.lost_steps) == ("Preempted", 0), agent.log
    (saved,) = made.run.verified()
    assert saved == agent.verdict.step == len(made.lives()) < 50
    made.run.environment["STEP_SECONDS"] = "0"
    second = made.finish()
    assert (second.verdict.result, second.verdict.step) == ("Succeeded", 60)
    assert [step for step, _, _ in made.lives()] == list(range(1, 61)), "no step was done twice"


def test_a_loss_that_is_no_number_goes_back_and_past_its_batch(scripted: Make) -> None:
    made = scripted(fault="1:8:nan")
    agent = made.finish()
    assert agent.verdict.result == "Succeeded"
    (row,) = made.run.recoveries()
    assert (row["class"], row["resumedStep"], row["firstFailed"]["rank"]) == ("Numeric", 5, 1)
    assert any("step 8: loss nan on rank 1" in line for line in row["evidence"]), row["evidence"]
    batches = {step: batch for step, batch, _ in made.lives()}
    assert [batches[step] for step in (6, 7, 8, 20)] == [5, 6, 8, 20], "batch 7 is left out"
    newest = made.run.store.list_checkpoints()[0]
    assert manifests.read(made.run.store, newest).skipped_windows == [(7, 8)]


def test_a_damaged_checkpoint_is_left_for_the_one_before(scripted: Make) -> None:
    made = scripted(fault="0:13:damage", ranks=1)
    agent = made.finish()
    assert agent.verdict.result == "Succeeded", agent.log
    rows = made.run.recoveries()
    assert [row["class"] for row in rows] == ["Crash", "Storage", "Storage"]
    assert [row["resumedStep"] for row in rows] == [10, 10, 5]
    assert any(".distcp" in line for line in rows[1]["evidence"]), rows[1]["evidence"]
    assert made.run.newest().poisoned == ["step-00000010.i1"]


def test_a_script_that_raises_before_its_first_step_fails_with_its_words(scripted: Make) -> None:
    made = scripted(environment={"STEPS": "ten"}, ranks=1)
    agent = made.start()
    assert agent.wait(PATIENCE) != 0
    verdict = agent.verdict
    assert verdict.result == "Failed" and verdict.failure is not None
    assert str(verdict.failure.failure_class) == "Crash"
    assert any("invalid literal for int() with base 10: 'ten'" in line for line in verdict.failure.evidence)
