"""Runs that must end: budgets, settings, stores and orders; each verdict says why and what to do."""

from __future__ import annotations

import json

import pytest

from windlass.api.meta import ExitCode
from workloads.agent.support import MakeRun

pytestmark = pytest.mark.workloads


@pytest.mark.fault("F50")
def test_exhausted_budget_ends_failed_with_evidence(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=50, ranks=2, budgets={"crash": 1})
    run.order(1, 4, "always:raise shape of tensor is cursed")
    agent = run.start()
    assert agent.wait() == ExitCode.BUDGET, agent.log
    failure = agent.verdict.failure
    assert failure is not None and agent.verdict.result == "Failed"
    assert failure.reason == "BudgetExhausted"
    assert failure.first_failed.rank == 1
    assert any("shape of tensor is cursed" in line for line in failure.evidence)
    assert failure.hint
    assert run.incarnation() == 2


@pytest.mark.fault("F52")
def test_same_failure_three_times_without_progress_ends_the_run(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=50, ranks=1, budgets={"crash": 50})
    run.order(0, 4, "always:raise it is always the same")
    agent = run.start()
    assert agent.wait() == ExitCode.BUDGET, agent.log
    assert agent.verdict.failure.reason == "NoProgress"
    assert run.incarnation() == 3


def test_setting_that_cannot_work_is_tried_once_more_and_then_explained(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=50, ranks=1)
    run.order("prepare", 0, "always:fail Configuration DataNotFound")
    agent = run.start()
    assert agent.wait() == ExitCode.CONFIGURATION, agent.log
    failure = agent.verdict.failure
    assert (failure.reason, str(failure.failure_class)) == ("DataNotFound", "Configuration")
    assert (failure.message, failure.hint) == ("the toy failed", "mend the toy")
    assert run.incarnation() == 2
    assert "the toy failed" in (agent.directory / "termination-log").read_text()


def test_tasks_that_cannot_be_imported_end_the_run_with_the_traceback(make_run: MakeRun) -> None:
    run = make_run(steps=20, environment={"TOY_PRELOAD": "no module named torchh"})
    agent = run.start()
    assert agent.wait(60) == ExitCode.CONFIGURATION, agent.log
    assert any("torchh" in line for line in agent.verdict.failure.evidence), agent.verdict


def test_ranks_that_end_without_saying_done_have_failed(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, ranks=1, budgets={"crash": 0})
    run.order(0, 7, "exit 0")
    agent = run.start()
    assert agent.wait() == ExitCode.BUDGET, agent.log
    assert any("none said Done" in line for line in agent.verdict.failure.evidence)


def test_back_off_is_kept_and_counted(make_run: MakeRun) -> None:
    run = make_run(steps=12, every=50, ranks=1, back_off=1)
    run.order(0, 3, "signal 9")
    run.order(0, 4, "signal 11")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    rows = [row for row in run.rows() if "state" in row]
    (at,) = [number for number, row in enumerate(rows) if row["state"] == "BackOff"]
    assert rows[at + 1]["at"] - rows[at]["at"] >= 0.8
    assert [row["signal"] for row in run.recoveries()] == [9, 11]


def test_wish_for_a_checkpoint_that_is_not_there_is_refused_with_the_steps_that_are(
    make_run: MakeRun,
) -> None:
    run = make_run(steps=10, every=5, ranks=1, resume="77")
    agent = run.start()
    assert agent.wait() == ExitCode.CONFIGURATION, agent.log
    assert 'got "77"' in agent.verdict.failure.message
    assert agent.verdict.failure.hint


def test_finished_run_is_not_trained_again_by_a_later_pod(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, ranks=1)
    assert run.start().wait() == 0
    later = run.start()
    assert later.wait() == 0, later.log
    assert later.verdict.result == "Succeeded" and run.incarnation() == 1


def test_unreadable_run_configuration_is_named(make_run: MakeRun) -> None:
    run = make_run()
    agent = run.start(arguments=["--run-config", str(run.directory / "absent.json")])
    assert agent.wait() == ExitCode.CONFIGURATION
    verdict = json.loads((agent.directory / "termination-log").read_text())
    assert "absent.json: cannot be read" in verdict["failure"]["message"]


def test_checkpoint_that_fails_to_load_twice_is_poisoned_and_the_one_before_is_used(
    make_run: MakeRun,
) -> None:
    run = make_run(steps=30, every=5, ranks=1)
    run.order(0, 12, "spoil step-00000010.i1")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert run.newest().poisoned == ["step-00000010.i1"]
    assert [row["resumedStep"] for row in run.recoveries()] == [10, 10, 5]
