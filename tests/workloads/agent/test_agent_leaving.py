"""Pods are asked to leave: the gang saves, and only who must go goes."""

from __future__ import annotations

import os
import signal

import pytest

from windlass.api.meta import ExitCode
from workloads.agent.support import MakeRun, wait_for

pytestmark = pytest.mark.workloads

LONG = {"TOY_STEP_SECONDS": "0.05"}


@pytest.mark.fault("F26")
def test_one_leaving_follower_saves_exactly_and_the_others_wait_warm(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=1000, nodes=2, ranks=1, environment=LONG)
    leader, follower = run.start_all()
    run.training(1)
    warm = leader.warm()
    wait_for("some steps", lambda: run.sign().get("step", 0) >= 3)
    follower.send(signal.SIGTERM)
    assert follower.wait() == ExitCode.PREEMPTED, follower.log
    verdict = follower.verdict
    assert (verdict.result, verdict.lost_steps) == ("Preempted", 0)
    assert run.verified() == [verdict.step]
    assert leader.process.poll() is None and leader.warm() == warm
    replacement = run.start(1)
    assert leader.wait() == 0, leader.log
    assert replacement.wait() == 0
    (row,) = run.recoveries()
    assert (row["rung"], row["class"], row["lostSteps"]) == ("RecreatePod", "Preempted", 0)
    assert (row["fromStep"], row["resumedStep"]) == (verdict.step, verdict.step)
    assert run.newest().budgets.used == {}


def test_leaving_leader_saves_and_a_new_leader_goes_on_without_loss(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=1000, nodes=2, ranks=1, environment=LONG)
    leader, follower = run.start_all()
    run.training(1)
    wait_for("some steps", lambda: run.sign().get("step", 0) >= 3)
    warm = follower.warm()
    leader.send(signal.SIGTERM)
    assert leader.wait() == ExitCode.PREEMPTED, leader.log
    assert leader.verdict.lost_steps == 0
    assert follower.process.poll() is None and follower.warm() == warm
    replacement = run.start(0)
    assert replacement.wait() == 0, replacement.log
    assert follower.wait() == 0, follower.log
    (row,) = run.recoveries()
    assert (row["class"], row["lostSteps"], row["resumedStep"]) == ("Preempted", 0, leader.verdict.step)
    assert run.newest().budgets.used == {}


@pytest.mark.parametrize("nodes", [1, 2])
def test_all_pods_leaving_save_and_exit_preempted_and_a_new_attempt_resumes(
    make_run: MakeRun, nodes: int
) -> None:
    run = make_run(steps=50, every=1000, nodes=nodes, ranks=2, environment=LONG)
    agents = run.start_all()
    run.training(1)
    wait_for("some steps", lambda: run.sign().get("step", 0) >= 2)
    for agent in agents:
        agent.send(signal.SIGTERM)
    assert [agent.wait() for agent in agents] == [ExitCode.PREEMPTED] * nodes, agents[0].log
    assert agents[0].verdict.lost_steps == 0
    saved = run.verified()
    assert saved == [agents[0].verdict.step]
    later = [run.start(index, attempt=2) for index in range(nodes)]
    assert [agent.wait() for agent in later] == [0] * nodes, later[0].log
    assert run.newest().accepted[0].step == saved[0]
    assert run.newest().attempt == 2


def test_second_sigterm_ends_at_once_with_what_was_verified(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, ranks=1, grace=60)
    run.order(0, 8, "hang 60")
    agent = run.start()
    run.reach(1, 5)
    wait_for("step 7", lambda: run.sign().get("step", 0) >= 7)
    agent.send(signal.SIGTERM)
    wait_for("the save to be asked for", lambda: "Saving" in agent.log)
    agent.send(signal.SIGTERM)
    assert agent.wait(10) == ExitCode.PREEMPTED, agent.log
    assert (agent.verdict.step, agent.verdict.lost_steps) == (5, 2)


@pytest.mark.fault("F49")
def test_save_that_takes_too_long_is_cut_at_the_grace_period(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, ranks=1, grace=7)
    run.order(0, 8, "hang 60")
    agent = run.start()
    wait_for("step 7", lambda: run.sign().get("step", 0) >= 7)
    agent.send(signal.SIGTERM)
    assert agent.wait(12) == ExitCode.PREEMPTED, agent.log
    assert (agent.verdict.step, agent.verdict.lost_steps) == (5, 2)


def test_follower_without_a_leader_leaves_at_once(make_run: MakeRun) -> None:
    run = make_run(nodes=2, ranks=1)
    follower = run.start(1)
    wait_for("the follower to look for its leader", lambda: "no leader" in follower.log)
    follower.send(signal.SIGTERM)
    assert follower.wait(5) == ExitCode.PREEMPTED
    assert follower.verdict.result == "Preempted"


@pytest.mark.parametrize("when", ["at once", "when its ranks are gone"])
def test_follower_that_leaves_as_its_leader_dies_tells_what_is_verified(make_run: MakeRun, when: str) -> None:
    """Nobody can agree on a save with it then. Only the first rank, which is gone, hears of checkpoints."""
    run = make_run(steps=400, every=5, nodes=2, ranks=1, environment=LONG)
    leader, follower = run.start_all()
    run.reach(1, 10)
    wait_for("some steps beyond it", lambda: run.sign().get("step", 0) >= 12)
    leader.send(signal.SIGKILL)
    if when != "at once":
        wait_for("its ranks to end", lambda: not follower.ranks())
    follower.send(signal.SIGTERM)
    assert follower.wait(15) == ExitCode.PREEMPTED, follower.log
    verdict = follower.verdict
    assert verdict.step == max(run.verified()) >= 10
    # A save may have been under way, and a step.
    assert 0 <= verdict.lost_steps <= 5 + 5 + 1


def test_leader_that_waits_for_its_gang_leaves_at_once(make_run: MakeRun) -> None:
    run = make_run(nodes=2, ranks=1)
    leader = run.start(0)
    wait_for("the leader to gather", lambda: "Gathering" in leader.log)
    leader.send(signal.SIGTERM)
    assert leader.wait(10) == ExitCode.PREEMPTED, leader.log


def test_rank_killed_during_the_save_costs_no_budget(make_run: MakeRun) -> None:
    run = make_run(steps=40, every=5, nodes=2, ranks=1, environment=LONG)
    run.order(1, 12, "hang 30")
    leader, follower = run.start_all()
    run.reach(1, 5)
    wait_for("the follower's rank to hang", lambda: not run.store.exists("fault-1-12"))
    (rank,) = follower.ranks()
    follower.send(signal.SIGTERM)
    wait_for("the save to be asked for", lambda: "Saving" in leader.log)
    os.kill(rank, signal.SIGKILL)
    assert follower.wait(10) == ExitCode.PREEMPTED, follower.log
    assert follower.verdict.lost_steps >= 1
    replacement = run.start(1)
    assert leader.wait() == 0, leader.log
    assert replacement.wait() == 0
    assert run.newest().budgets.used == {}
