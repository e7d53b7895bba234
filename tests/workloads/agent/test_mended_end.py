"""An agent's end: its verdict is there before anything is cleaned up, and nothing that hangs keeps it alive."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from windlass.api.contract import Verdict
from windlass.api.meta import ExitCode
from windlass_workloads.agent.identity import Identity, options_from
from windlass_workloads.agent.pod import Pod
from windlass_workloads.agent.reaper import Reaper
from workloads.agent.support import MakeRun, config, wait_for


async def test_a_verdict_is_written_as_soon_as_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reaper, "install", lambda *_: None)
    path = tmp_path / "termination-log"
    me = Identity("toy-0-1", "u", "127.0.0.1", "n", index=0, ticket=1, attempt=1)
    pod = Pod(me, options_from(["--termination-log", str(path)]), config(tmp_path))
    pod.end(Verdict(result="Preempted", step=7))
    pod.end(Verdict(result="Failed", step=9))
    assert Verdict.model_validate_json(path.read_bytes()) == await pod.ended
    assert (await asyncio.wait_for(pod.ended, 1)).step == 7


def make_pipe(path: Path) -> None:
    """Whoever opens this file waits for ever, like one whose network volume does not answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.workloads
def test_a_follower_whose_store_hangs_ends_when_it_is_told_to(make_run: MakeRun) -> None:
    run = make_run(nodes=2, ranks=1)
    make_pipe(run.store.path("gang.key"))
    follower = run.start(1)
    wait_for("its warm parent", lambda: "warm parent is ready" in follower.log)
    follower.send(signal.SIGTERM)
    assert follower.wait(10) == ExitCode.PREEMPTED, follower.log
    assert follower.verdict.result == "Preempted"


@pytest.mark.workloads
def test_a_leader_whose_records_hang_still_ends(make_run: MakeRun) -> None:
    run = make_run(steps=5, every=5, ranks=1)
    make_pipe(run.store.path(".tmp-leader.json"))
    leader = run.start(0)
    assert leader.wait(25) == ExitCode.SUCCESS, leader.log
    assert leader.verdict.result == "Succeeded"
