"""Real agents that go on with fewer of them, and take back who comes later."""

from __future__ import annotations

import signal

import pytest

from workloads.agent.support import MakeRun, wait_for

pytestmark = pytest.mark.workloads


def worlds(run) -> list[int]:
    """How many ranks began their first step in each incarnation, in order."""
    begun: dict[int, set[int]] = {}
    for row in run.rows("forward.jsonl"):
        begun.setdefault(row["incarnation"], set()).add(row["rank"])
    return [len(ranks) for _, ranks in sorted(begun.items())]


@pytest.mark.fault("F23")
def test_three_go_on_as_two_and_are_three_again_when_the_third_returns(make_run: MakeRun) -> None:
    run = make_run(nodes=3, ranks=1, steps=600, every=20, elastic={"minNodes": 2, "waitSeconds": 0})
    leader, _, third = run.start_all()
    run.training(1)
    third.send(signal.SIGKILL)
    wait_for("two of them to train", lambda: worlds(run)[-1:] == [2] and run.incarnation() == 2)
    run.start(2)
    wait_for("all of them to train", lambda: worlds(run)[-1:] == [3] and run.incarnation() == 3)
    assert leader.wait(60) == 0, leader.log
    shrunk, whole = run.recoveries()
    assert (shrunk["rung"], shrunk["class"], shrunk["firstFailed"]["pod"]) == (
        "Shrink",
        "Infrastructure",
        "toy-2-3",
    )
    assert shrunk["lostSteps"] <= 21
    assert (whole["rung"], whole["class"], whole["lostSteps"]) == ("RecreatePod", "Preempted", 0)
    assert whole["evidence"] == ["back in the gang: toy-2-4"]


def test_too_few_wait_for_their_replacement(make_run: MakeRun) -> None:
    run = make_run(nodes=2, ranks=1, steps=200, every=20, elastic={"minNodes": 2, "waitSeconds": 0})
    leader, second = run.start_all()
    run.training(1)
    second.send(signal.SIGKILL)
    wait_for("the next incarnation", lambda: run.incarnation() == 2)
    run.start(1)
    assert leader.wait(60) == 0, leader.log
    assert [row["rung"] for row in run.recoveries()] == ["RecreatePod"]
    assert worlds(run) == [2, 2]
