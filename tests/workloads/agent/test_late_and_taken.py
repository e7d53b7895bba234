"""A pod that comes late and a port that is still held: both are waited for, and neither counts as a failure."""

from __future__ import annotations

import json
import socket

import pytest

from workloads.agent.support import MakeRun, Run, wait_for

pytestmark = pytest.mark.workloads


def signs(run: Run, count: int) -> None:
    """Waits until the leader has given this many different signs of life."""
    seen: set[float] = set()

    def look() -> bool:
        seen.add(json.loads(run.store.read("leader.json") or b"{}").get("at", 0.0))
        return len(seen - {0.0}) >= count

    wait_for(f"{count} signs of the leader", look)


@pytest.mark.fault("F46")
@pytest.mark.parametrize("late", ["pod", "imports"])
def test_a_late_pod_is_waited_for_and_costs_nothing(make_run: MakeRun, late: str) -> None:
    run = make_run(steps=10, every=5, nodes=2, ranks=1)
    leader = run.start(0)
    if late == "imports":
        # Its image is cold: the agent joins long before its warm parent is ready.
        run.environment["TOY_PRELOAD"] = "wait"
        run.start(1)
    wait_for("the leader to gather", lambda: "Gathering" in leader.log)
    signs(run, 4)
    assert not run.rows("forward.jsonl") and leader.process.poll() is None
    if late == "imports":
        run.store.write("release", b"")
    else:
        run.start(1)
    follower = run.agents[-1]
    assert leader.wait() == 0, leader.log
    assert follower.wait() == 0, follower.log
    assert run.recoveries() == []
    assert (run.incarnation(), run.newest().budgets.used) == (1, {})
    states = [row for row in run.rows() if "state" in row]
    began = next(row["at"] for row in states if row["state"] == "Training")
    assert [row["state"] for row in states if row["at"] < began][-1] in ("Starting", "Loading")
    assert began - states[0]["at"] >= 2.0, "the wait is accounted for before training"


@pytest.mark.fault("F51")
def test_a_leftover_listener_on_the_leaders_port_is_waited_for(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, nodes=2, ranks=1)
    with socket.create_server(("127.0.0.1", run.port)):
        leader, follower = run.start_all()
        wait_for("the follower to be answered by nobody", lambda: "no leader" in follower.log)
        wait_for("the leader to have prepared", lambda: "Gathering" in leader.log)
        assert not run.rows("forward.jsonl")
    assert leader.wait() == 0, leader.log
    assert follower.wait() == 0, follower.log
    assert (run.recoveries(), run.incarnation()) == ([], 1)
