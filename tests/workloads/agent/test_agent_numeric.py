"""Real agents whose ranks' numbers go wrong: back and past the data in place, or a pause that says why."""

from __future__ import annotations

import pytest

from windlass.api.meta import ExitCode
from windlass_workloads.checkpoint import incarnations
from workloads.agent.support import MakeRun

pytestmark = pytest.mark.workloads


@pytest.mark.fault("F43")
def test_a_script_whose_loss_is_no_number_goes_back_in_place_and_past_the_data(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=5)
    run.order(1, 13, "raise step 13: loss nan")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    (row,) = run.recoveries()
    assert (row["rung"], row["class"], row["exitCode"]) == ("InPlace", "Numeric", 10)
    assert row["resumedStep"] == 10
    # Steps of two samples each; rank 0 may have told of step 13 before rank 1 failed in it.
    first = 2 * row["fromStep"]
    assert row["skipped"] == {"first": first, "last": first + 1, "steps": 1}
    assert run.newest().skipped_windows == [(first, first + 2)]
    assert run.newest().budgets.used == {"Numeric": 1}


def test_windows_outlive_other_failures_and_the_agent(make_run: MakeRun) -> None:
    run = make_run(steps=30, every=5)
    run.order(0, 8, "raise step 8: loss nan")
    run.order(1, 22, "signal 9")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert [row["class"] for row in run.recoveries()] == ["Numeric", "Crash"]
    records = [incarnations.read(run.store, number) for number in (1, 2, 3)]
    assert records[0].skipped_windows == []
    assert len(records[1].skipped_windows) == 1
    assert records[2].skipped_windows == records[1].skipped_windows


def test_a_guard_that_pauses_ends_the_agent_with_the_reason_and_leaves_the_store_as_it_is(
    make_run: MakeRun,
) -> None:
    run = make_run(steps=20, every=5, guards={"nonFinite": {"action": "Pause"}})
    run.order(1, 13, "raise step 13: loss nan")
    agent = run.start()
    assert agent.wait() == ExitCode.PREEMPTED, agent.log
    assert (agent.verdict.result, agent.verdict.step) == ("Paused", 10)
    assert agent.verdict.failure.reason == "NonFinite"
    assert "guards.nonFinite.action" in agent.verdict.failure.hint
    assert run.incarnation() == 1
    # Started again, as after a change of the spec, it goes on from where it was.
    again = run.start()
    assert again.wait() == 0, again.log
    assert run.newest().resume == "step-00000010.i1"
    assert run.newest().budgets.used == {}
