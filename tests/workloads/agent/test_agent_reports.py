"""The leader tells the operator everything, obeys it, and does without it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from windlass.api.contract import Orders
from windlass.api.meta import ExitCode, Phase
from windlass_workloads.agent.reports import pause_after
from workloads.agent.operator_fake import FakeOperator
from workloads.agent.support import MakeRun, wait_for

LONG = {"TOY_STEP_SECONDS": "0.05"}


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[FakeOperator]:
    fake = FakeOperator(tmp_path / "operator")
    yield fake
    fake.close()


@pytest.mark.workloads
def test_reports_tell_the_whole_state_through_a_recovery_to_the_verdict(
    make_run: MakeRun, operator: FakeOperator
) -> None:
    run = make_run(
        steps=60,
        every=5,
        nodes=2,
        ranks=1,
        report=operator.target,
        arguments=operator.arguments,
        environment=LONG,
    )
    leader, follower = run.start_all()
    run.reach(1, 10)
    (rank,) = leader.ranks()
    os.kill(rank, signal.SIGKILL)
    assert leader.wait() == 0, leader.log
    assert follower.wait() == 0
    last = operator.last
    assert last.verdict is not None and last.verdict.result == "Succeeded"
    assert (last.run.uid, last.pod, last.ticket, last.attempt) == ("uid-1", "toy-0-1", 1, 1)
    sequence = [report.sequence for report in operator.reports]
    assert len(sequence) == len(set(sequence)) and sequence[0] == 1
    assert last.incarnation == 2
    assert last.progress.step == 60 and last.progress.total_steps == 60 and last.progress.loss is not None
    assert last.plan.train_samples == 8
    assert last.checkpoints[0].step == 60
    (row,) = last.recoveries
    assert (last.restarts, last.lost_steps) == (1, row.lost_steps)
    assert last.resume.step == row.resumed_step
    assert {member.index for member in last.members} == {0, 1}
    assert {report.phase for report in operator.reports} >= {Phase.IMPORTS, Phase.TRAIN}
    assert set(operator.bearers) == {"Bearer a-token"} and set(operator.paths) == {"/v1/reports"}
    timeline = last.timeline
    parts = timeline.model_dump(exclude={"started_at", "until"})
    assert sum(parts.values()) == pytest.approx(
        (timeline.until - timeline.started_at).total_seconds(), abs=0.05
    )
    assert parts["training"] > 0 and parts["recovering"] > 0 and parts["checkpoint_stall"] > 0
    during = [report.failure for report in operator.reports if report.failure is not None]
    assert during and during[0].first_failed.rank == 0


@pytest.mark.workloads
def test_order_to_save_and_exit_ends_all_pods_preempted(make_run: MakeRun, operator: FakeOperator) -> None:
    run = make_run(
        steps=4000, every=1000, nodes=2, ranks=1, report=operator.target, arguments=operator.arguments
    )
    leader, follower = run.start_all()
    run.training(1)
    wait_for("steps", lambda: run.sign().get("step", 0) >= 3)
    operator.orders = Orders(action="SaveAndExit", reason="Suspended")
    assert [leader.wait(), follower.wait()] == [ExitCode.PREEMPTED] * 2, leader.log
    assert leader.verdict.lost_steps == 0
    assert run.verified() == [leader.verdict.step]
    assert operator.last.verdict.result == "Preempted"


@pytest.mark.workloads
def test_order_to_stop_ends_failed_with_the_operators_reason(
    make_run: MakeRun, operator: FakeOperator
) -> None:
    run = make_run(steps=4000, every=1000, ranks=1, report=operator.target, arguments=operator.arguments)
    leader = run.start()
    run.training(1)
    operator.orders = Orders(action="Stop", reason="DeadlineExceeded")
    assert leader.wait() == ExitCode.PREEMPTED, leader.log
    assert leader.verdict.result == "Failed"
    assert leader.verdict.failure.reason == "DeadlineExceeded"


@pytest.mark.workloads
@pytest.mark.fault("F22")
def test_run_recovers_and_finishes_while_the_operator_is_away(
    make_run: MakeRun, operator: FakeOperator
) -> None:
    operator.close()
    run = make_run(steps=40, every=5, ranks=2, report=operator.target, arguments=operator.arguments)
    run.order(1, 8, "signal 9")
    leader = run.start()
    assert leader.wait() == 0, leader.log
    assert run.incarnation() == 2
    assert "the operator does not answer" in leader.log


def test_an_operator_that_came_back_is_told_within_five_seconds() -> None:
    """A new installation has thirty seconds to take a run over; an old Lease may take 17 of them."""
    pauses = [pause_after(failures, interval_seconds=2.0) for failures in range(1, 2000)]
    assert pauses[0] == 4.0 and pauses == sorted(pauses)
    assert pauses[-1] == 5.0
