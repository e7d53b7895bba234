"""An agent's end: its verdict is there before anything is cleaned up, and nothing that hangs keeps it alive."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from windlass.api.contract import RankContext, RankEvent, Verdict
from windlass.api.meta import ExitCode
from windlass_workloads.agent.identity import Identity, options_from
from windlass_workloads.agent.messages import Said, Start
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


@pytest.mark.parametrize(
    ("resume", "said", "verified", "told"),
    [
        (None, [], 0, (0, 0)),
        (None, [3, 4], 0, (0, 4)),
        ("step-00000020.i1", [], 0, (20, 0)),
        ("step-00000020.i1", [21, 22, 23], 0, (20, 3)),
        ("step-00000020.i1", [21, 22, 23], 22, (22, 1)),
        ("step-00000020.i1", [21], 10, (20, 1)),
        ("step-00000020.i1", [21], 30, (30, 0)),
    ],
)
async def test_what_a_pod_loses_is_counted_from_where_its_ranks_began(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resume: str | None,
    said: list[int],
    verified: int,
    told: tuple[int, int],
) -> None:
    monkeypatch.setattr(Reaper, "install", lambda *_: None)
    me = Identity("toy-1-1", "u", "127.0.0.1", "n", index=1, ticket=1, attempt=1)
    pod = Pod(me, options_from(["--termination-log", str(tmp_path / "log")]), config(tmp_path))
    monkeypatch.setattr(pod.host, "start", lambda *_: None)
    # An incarnation before it had come further, and was rolled back.
    pod.tell(Said(incarnation=1, event=RankEvent(type="Step", rank=1, at=0.0, step=99)))
    context = RankContext(task="train", config=pod.config, incarnation=2, rank=1, resume=resume)
    pod.start_ranks(Start(incarnation=2, contexts=[context]))
    for step in said:
        pod.tell(Said(incarnation=2, event=RankEvent(type="Step", rank=1, at=0.0, step=step)))
    pod.verified(verified)
    verdict = pod.parting()
    assert (verdict.step, verdict.lost_steps) == told


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
