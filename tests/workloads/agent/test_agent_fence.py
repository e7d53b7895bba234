"""Only one leader counts: replaced, racing, frozen and outdated ones stop and change nothing."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from windlass.api.meta import ExitCode
from workloads.agent.support import MakeRun, wait_for

pytestmark = pytest.mark.workloads

LONG = {"TOY_STEP_SECONDS": "0.05"}


def test_pod_with_a_lower_ticket_is_fenced(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, ranks=1)
    agent = run.start(0, ticket=5)
    assert agent.wait() == 0, agent.log
    late = run.start(0, ticket=4)
    assert late.wait(20) == ExitCode.FENCED, late.log
    assert late.verdict.result == "Fenced"
    assert run.incarnation() == 1


def test_pod_of_an_older_attempt_is_fenced_whatever_its_ticket(make_run: MakeRun) -> None:
    run = make_run(steps=10, every=5, ranks=1)
    agent = run.start(0, ticket=2, attempt=3)
    assert agent.wait() == 0, agent.log
    late = run.start(0, ticket=9, attempt=2)
    assert late.wait(20) == ExitCode.FENCED, late.log


@pytest.mark.fault("F62")
def test_of_two_racing_leaders_the_one_made_later_wins(make_run: MakeRun) -> None:
    # It gives the other the time that a leaving pod has, here 10 seconds, and no more.
    run = make_run(steps=300, every=5, ranks=1, grace=5, environment=LONG)
    first = run.start(0, ticket=1, arguments=["--port", "0"])
    second = run.start(0, ticket=2, arguments=["--port", "0"])
    assert first.wait() == ExitCode.FENCED, first.log
    assert second.wait() == 0, second.log
    assert run.newest().ticket == 2
    owners = {row.get("incarnation") for row in run.rows("forward.jsonl")}
    assert run.incarnation() in owners


@pytest.mark.fault("F25")
def test_frozen_leader_that_wakes_cannot_commit_and_stops(make_run: MakeRun) -> None:
    run = make_run(steps=60, every=5, ranks=1, environment=LONG)
    old = run.start(0)
    run.reach(1, 10)
    (rank,) = old.ranks()
    old.send(signal.SIGSTOP)
    os.kill(rank, signal.SIGSTOP)
    new = run.start(0, arguments=["--port", "0"])
    run.training(2, ranks=1)
    before = run.newest().accepted
    os.kill(rank, signal.SIGCONT)
    old.send(signal.SIGCONT)
    assert old.wait() == ExitCode.FENCED, old.log
    assert new.wait() == 0, new.log
    accepted = {each.name for each in before}
    strange = [name for name in run.store.list_checkpoints() if name.endswith(".i1") and name not in accepted]
    assert [name for name in strange if run.store.exists(f"{name}/manifest.json")] == []
    assert run.newest().ticket == new.ticket


def test_older_pod_of_a_follower_is_fenced_when_a_newer_one_has_joined(make_run: MakeRun) -> None:
    run = make_run(steps=4000, every=5, nodes=2, ranks=1, environment=LONG)
    leader = run.start(0, ticket=1)
    newer = run.start(1, ticket=7)
    run.training(1)
    older = run.start(1, ticket=3)
    assert older.wait() == ExitCode.FENCED, older.log
    assert leader.process.poll() is None and newer.process.poll() is None
    assert run.incarnation() == 1


def test_stranger_without_the_key_is_turned_away(make_run: MakeRun) -> None:
    run = make_run(nodes=2, ranks=1)
    leader = run.start(0)
    wait_for("the leader to gather", lambda: "Gathering" in leader.log)
    with socket.create_connection(("127.0.0.1", run.port), timeout=5) as stranger:
        stranger.sendall(b'{"hello": "{}", "challenge": "00", "proof": "00"}\n')
        received = b""
        while part := stranger.recv(4096):
            received += part
    assert b"challenge" in received and b"proof" not in received
    wait_for("the refusal in the log", lambda: "wrong key" in leader.log)
    assert leader.process.poll() is None
