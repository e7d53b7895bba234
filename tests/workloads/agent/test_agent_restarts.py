"""Ranks, warm parents and pods die, and the gang goes on from the newest verified checkpoint."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from workloads.agent.support import Agent, MakeRun, state_of, wait_for

pytestmark = pytest.mark.workloads

SLOW = {"TOY_STEP_SECONDS": "0.05"}
IMPATIENT = ["--silence-seconds", "1.5", "--heartbeat-seconds", "0.25"]


def ranks_of(agent: Agent, count: int) -> list[int]:
    return wait_for(f"{count} ranks", lambda: found if len(found := agent.ranks()) == count else None)


def check_row(row: dict[str, Any]) -> None:
    """Parts of a recovery are not negative and sum to its total, back-off aside."""
    seconds = row["seconds"]
    parts = sum(value for name, value in seconds.items() if name != "total")
    assert all(value >= 0 for value in seconds.values()), seconds
    assert parts <= seconds["total"] + 0.05, seconds
    assert row["fromStep"] - row["resumedStep"] == row["lostSteps"] or row["fromStep"] < row["resumedStep"]


@pytest.mark.fault("F37")
def test_killed_rank_resumes_in_place_from_the_newest_verified_checkpoint(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, environment=SLOW)
    agent = run.start()
    run.reach(1, 10)
    warm, ranks = agent.warm(), ranks_of(agent, 2)
    os.kill(ranks[1], signal.SIGKILL)
    run.training(2)
    assert agent.warm() == warm
    assert agent.wait() == 0, agent.log
    assert (agent.verdict.result, agent.verdict.step) == ("Succeeded", 40)
    (row,) = run.recoveries()
    check_row(row)
    assert (row["rung"], row["class"], row["signal"]) == ("InPlace", "Crash", 9)
    assert row["firstFailed"] == {"rank": 1, "pod": "toy-0-1", "node": "node-0"}
    assert row["lostSteps"] <= 5 + 1
    assert run.newest().resume == f"step-{row['resumedStep']:08d}.i1"
    assert run.newest().budgets.used == {"Crash": 1}
    assert run.store.exists("logs/incarnation-00000001-rank-1.log")
    print("in place seconds", row["seconds"])


@pytest.mark.fault("F36")
def test_rank_that_raises_is_named_with_its_traceback_and_followers_are_listed(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=5, ranks=3)
    run.order(2, 8, "raise the weights caught fire")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    (row,) = run.recoveries()
    assert row["firstFailed"]["rank"] == 2
    assert row["exitCode"] == 10
    assert any("the weights caught fire" in line for line in row["evidence"]), row["evidence"]


def test_rank_killed_twice_counts_two_recoveries_and_the_budget_starts_anew(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=5, environment=SLOW)
    agent = run.start()
    for incarnation in (1, 2):
        run.training(incarnation)
        run.reach(incarnation, 5 * incarnation)
        os.kill(ranks_of(agent, 2)[0], signal.SIGKILL)
    assert agent.wait() == 0, agent.log
    assert [row["incarnation"] for row in run.recoveries()] == [2, 3]
    assert run.incarnation() == 3
    assert run.newest().budgets.used == {"Crash": 1}


def test_death_of_the_warm_parent_kills_no_rank_and_a_new_one_forks_later(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=5, environment=SLOW)
    agent = run.start()
    run.training(1)
    ranks, warm = ranks_of(agent, 2), agent.warm()
    os.kill(warm, signal.SIGKILL)
    wait_for("a new warm parent", lambda: [p for p in agent.children() if p not in (*ranks, warm)])
    assert agent.ranks() == ranks
    assert run.incarnation() == 1
    run.reach(1, 5)
    os.kill(ranks[0], signal.SIGKILL)
    assert agent.wait() == 0, agent.log
    assert run.incarnation() == 2


def test_children_of_a_dead_rank_are_ended_with_it(make_run: MakeRun) -> None:
    run = make_run(steps=20, every=5)
    run.order(0, 3, "child")
    run.order(0, 7, "signal 9")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert run.incarnation() == 2


def test_two_pods_restart_in_place_together(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, nodes=2, ranks=2, environment=SLOW)
    leader, follower = run.start_all()
    run.training(1)
    run.reach(1, 5)
    os.kill(ranks_of(follower, 2)[1], signal.SIGKILL)
    assert leader.wait() == 0, leader.log
    assert follower.wait() == 0, follower.log
    (row,) = run.recoveries()
    check_row(row)
    assert row["firstFailed"] == {"rank": 3, "pod": "toy-1-2", "node": "node-1"}
    assert follower.verdict == leader.verdict


@pytest.mark.fault("F24")
def test_lost_follower_pod_is_waited_for_and_its_replacement_joins(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, nodes=2, ranks=1, environment=SLOW)
    leader, follower = run.start_all()
    run.training(1)
    run.reach(1, 5)
    warm = leader.warm()
    follower.send(signal.SIGKILL)
    wait_for("the leader's rank to be gone", lambda: not leader.ranks())
    replacement = run.start(1)
    assert leader.wait() == 0, leader.log
    assert replacement.wait() == 0, replacement.log
    assert state_of(warm) in ("Z", "gone") and "warm parent ended" not in leader.log
    (row,) = run.recoveries()
    check_row(row)
    assert (row["rung"], row["class"]) == ("RecreatePod", "Infrastructure")
    assert row["firstFailed"] == {"pod": "toy-1-2", "node": "node-1"}
    assert row["seconds"]["place"] > 0


def test_lost_leader_pod_is_replaced_by_a_higher_ticket_and_followers_stay_warm(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, nodes=2, ranks=1, environment=SLOW)
    leader, follower = run.start_all()
    run.training(1)
    run.reach(1, 5)
    warm = follower.warm()
    leader.send(signal.SIGKILL)
    wait_for("the follower's rank to be gone", lambda: not follower.ranks())
    assert follower.warm() == warm
    replacement = run.start(0)
    assert replacement.wait() == 0, replacement.log
    assert follower.wait() == 0, follower.log
    (row,) = run.recoveries()
    check_row(row)
    assert (row["rung"], row["class"]) == ("RecreatePod", "Infrastructure")
    assert row["firstFailed"] == {"pod": "toy-0-1"}
    assert run.newest().owner_pod == "toy-0-3"
    states = [line["state"] for line in run.rows() if "state" in line]
    assert "Down" in states[:-1] and states[-1] == "Down"


@pytest.mark.fault("F64")
def test_frozen_follower_is_left_behind_and_rejoins_when_it_wakes(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=5, nodes=2, ranks=1, environment=SLOW, arguments=IMPATIENT)
    leader, follower = run.start_all()
    run.training(1)
    run.reach(1, 5)
    rank = ranks_of(follower, 1)[0]
    follower.send(signal.SIGSTOP)
    os.kill(rank, signal.SIGSTOP)
    wait_for("the leader to stop its rank", lambda: not leader.ranks(), 10)
    assert state_of(rank) == "T"
    os.kill(rank, signal.SIGCONT)
    follower.send(signal.SIGCONT)
    wait_for("the old rank to be gone", lambda: state_of(rank) in ("Z", "gone"))
    assert leader.wait() == 0, leader.log
    assert follower.wait() == 0, follower.log
    assert run.incarnation() == 2


def test_rank_that_dies_before_its_first_step_is_restarted(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5)
    run.order("rendezvous-1", 0, "signal 11")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    (row,) = run.recoveries()
    assert (row["signal"], row["fromStep"], row["resumedStep"]) == (11, 0, 0)


def test_prepare_that_fails_once_is_tried_again(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5)
    run.order("prepare", 0, "raise connection to the hub was odd")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert run.incarnation() == 2
    assert [row["prepared"] for row in run.rows() if "prepared" in row] == ["toy"]


def test_parent_that_is_not_safe_to_fork_starts_ranks_the_slow_way(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, environment={"TOY_PRELOAD": "thread"})
    run.order(1, 7, "signal 9")
    agent = run.start()
    assert agent.wait(60) == 0, agent.log
    assert "the warm parent runs 2 threads, one is allowed" in agent.log
    assert run.incarnation() == 2


def test_dead_agent_takes_its_ranks_with_it(make_run: MakeRun) -> None:
    run = make_run(steps=4000, every=5)
    agent = run.start()
    run.training(1)
    family = agent.children()
    assert len(family) == 3
    agent.send(signal.SIGKILL)
    wait_for("its children to be gone", lambda: all(state_of(pid) in ("Z", "gone") for pid in family), 5)
