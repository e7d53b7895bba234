"""Real agents and ranks: some stop, hang, go past a collective or are slow; the leader finds out which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workloads.agent.operator_fake import FakeOperator
from workloads.agent.support import MakeRun, Run

pytestmark = pytest.mark.workloads

FIVE = {"limitSeconds": 5, "phaseLimitSeconds": 60}


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[FakeOperator]:
    fake = FakeOperator(tmp_path / "operator")
    yield fake
    fake.close()


def stacks_of(run: Run, rank: int, incarnation: int = 1) -> str:
    found = run.store.read(f"logs/incarnation-{incarnation:08d}-rank-{rank}.stacks.log")
    return (found or b"").decode()


def only_row(run: Run) -> dict[str, Any]:
    (row,) = run.recoveries()
    assert (row["class"], row["rung"]) == ("Stall", "InPlace")
    assert 5.0 <= row["seconds"]["detect"] <= 15.0
    return row


@pytest.mark.fault("F40")
def test_a_stopped_rank_is_found_and_the_gang_goes_on_in_place(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=5, ranks=2, stall=FIVE)
    run.order(1, 12, "stop")
    agent = run.start()
    assert agent.wait(60) == 0, agent.log
    row = only_row(run)
    assert row["firstFailed"] == {"rank": 1, "pod": "toy-0-1", "node": "node-0"}
    assert "rank 1: no stack, the process is stopped by a signal" in row["evidence"]
    assert (row["fromStep"], row["resumedStep"]) == (12, 10)
    assert " in meet" in stacks_of(run, 0), "the other one waited for it"
    assert stacks_of(run, 1) == ""
    assert run.newest().budgets.used == {"Stall": 1}


def test_a_rank_that_hangs_is_named_with_its_stack_and_all_pods_tell_theirs(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=5, nodes=2, ranks=2, stall=FIVE)
    run.order(3, 12, "hang 600")
    leader, follower = run.start_all()
    assert leader.wait(60) == 0, leader.log
    assert follower.wait() == 0, follower.log
    row = only_row(run)
    assert row["firstFailed"] == {"rank": 3, "pod": "toy-1-2", "node": "node-1"}
    assert any(line.startswith("rank 3 in act (toy_tasks.py:") for line in row["evidence"]), row["evidence"]
    assert all("(most recent call first)" in stacks_of(run, rank) for rank in range(4))
    assert " in act" in stacks_of(run, 3) and " in meet" in stacks_of(run, 2)
    assert "[rank 3]   File" in follower.log, "stacks are in the pod's log as well"


def test_who_wants_to_know_only_is_told_and_the_run_goes_on_by_itself(
    make_run: MakeRun, operator: FakeOperator
) -> None:
    run = make_run(
        steps=20,
        every=5,
        ranks=2,
        stall={**FIVE, "action": "Notify"},
        report=operator.target,
        arguments=operator.arguments,
    )
    run.order(1, 12, "hang 12")
    agent = run.start()
    assert agent.wait(60) == 0, agent.log
    assert (run.incarnation(), run.recoveries()) == (1, [])
    told = [report.stall for report in operator.reports if report.stall is not None]
    assert told and len(set(told)) == 1
    assert told[0].startswith(
        "no step was finished for more than 5 s, the last was 11: rank 1 did not get as far"
    )
    assert " in act" in stacks_of(run, 1)
    assert operator.last.stall is None


@pytest.mark.fault("F41")
def test_a_rank_that_goes_past_a_collective_is_named_among_three(make_run: MakeRun) -> None:
    run = make_run(ranks=3, stall=FIVE)
    run.config = run.config.model_copy(update={"tasks": "torch_tasks"})
    run.store.root.mkdir(parents=True, exist_ok=True)
    run.store.write("skip-2-7", b"once")
    agent = run.start()
    assert agent.wait(120) == 0, agent.log
    row = only_row(run)
    assert row["firstFailed"]["rank"] == 2
    evidence = "\n".join(row["evidence"])
    assert "rank 2: waits in meet_the_others (torch_tasks.py:" in evidence
    assert "ranks 0, 1: waits in share_gradients (torch_tasks.py:" in evidence
    assert row["fromStep"] == 6


@pytest.mark.fault("F42")
def test_a_slow_rank_is_told_and_nothing_is_done_about_it(make_run: MakeRun, operator: FakeOperator) -> None:
    run = make_run(
        steps=70,
        every=100,
        ranks=3,
        report=operator.target,
        arguments=[*operator.arguments, "--pace-window-seconds", "1"],
        environment={"TOY_SLOW_RANK": "2", "TOY_STEP_SECONDS": "0.04"},
    )
    agent = run.start()
    assert agent.wait(60) == 0, agent.log
    assert (run.incarnation(), run.recoveries()) == (1, [])
    told = {report.straggler for report in operator.reports} - {None}
    assert len(told) == 1
    (text,) = told
    assert text.startswith("rank 2 (pod toy-0-1, node node-0) takes ")
    assert operator.last.straggler is None, "said only while ranks train"
