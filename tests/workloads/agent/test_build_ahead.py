"""What the warm parent builds before it forks ranks: done once, never in the way, given up when it does harm."""

from __future__ import annotations

import os
import signal

import pytest

from workloads.agent.support import MakeRun, wait_for

pytestmark = pytest.mark.workloads


def test_it_is_built_once_and_ranks_restart_from_it(make_run: MakeRun) -> None:
    run = make_run(steps=30, every=5)
    run.order(1, 7, "signal 9")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert run.incarnation() == 2
    assert agent.log.count("info built ahead") == 1


def test_new_warm_parent_builds_again(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=5, environment={"TOY_STEP_SECONDS": "0.05"})
    run.order(1, 40, "signal 9")
    agent = run.start()
    run.training(1)
    os.kill(agent.warm(), signal.SIGKILL)
    assert agent.wait() == 0, agent.log
    assert run.incarnation() == 2
    assert agent.log.count("info built ahead") == 2


def test_failure_to_build_is_left_to_the_ranks(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, environment={"TOY_AHEAD": "no such model"})
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert "ValueError: no such model" in agent.log
    assert run.incarnation() == 1 and run.recoveries() == []


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("thread", "the warm parent runs 2 threads"),
        ("die", "it died"),
        ("hang", "no answer for 5 s"),
    ],
)
def test_one_that_is_spoilt_by_it_is_made_anew_and_not_asked_again(
    make_run: MakeRun, problem: str, said: str
) -> None:
    run = make_run(steps=30, every=5, environment={"TOY_AHEAD": problem}, arguments=["--import-seconds", "5"])
    run.order(1, 7, "signal 9")
    agent = run.start()
    assert agent.wait() == 0, agent.log
    assert agent.log.count("nothing is built ahead any more") == 1 and said in agent.log
    assert agent.log.count("info warm parent is ready") == 2
    assert run.incarnation() == 2


def test_stop_while_it_is_being_built_is_obeyed(make_run: MakeRun) -> None:
    run = make_run(steps=30, every=5, environment={"TOY_AHEAD": "hang"})
    agent = run.start()
    wait_for("the data to be prepared", lambda: any("prepared" in row for row in run.rows()))
    agent.send(signal.SIGTERM)
    agent.wait(25)
    assert agent.verdict.result == "Preempted", agent.log
