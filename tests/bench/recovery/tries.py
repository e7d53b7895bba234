"""Tries with the tiny gang: an agent is told to leave, and the newest checkpoint is damaged before a rank dies."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from bench.recovery.gang import LIMIT_SECONDS, Gang, problems_of
from windlass.api.meta import ExitCode
from windlass_workloads.checkpoint import incarnations
from workloads.agent import support
from workloads.checkpoint.damage import KINDS, damage

LEAVING = {
    "try": "SIGTERM to the agent of one of two ranks, at a random moment of training; the agent ends, the store's own "
    "deep verification reads what it saved, a replacement joins and the gang trains on",
    "verified": "the agent ends as preempted with lost 0, and the checkpoint of its verdict's step has no fault",
    "lostSteps": "the gang's last step minus the step that training went on from",
}
FALLING_BACK = {
    "try": "both ranks are frozen, the newest sound checkpoint is damaged in one of seven ways, one rank is killed; "
    "the agents choose, the ranks load and train",
    "ok": "the incarnation that trains again resumed from the sound checkpoint before the damaged one",
}
GANG = {
    "gang": "two agents with one rank each, as plain processes",
    "model": "tiny Llama, 100 thousand parameters, DDP, asynchronous saves every 40 steps",
}


def leave(gang: Gang, index: int, rng: random.Random) -> dict[str, Any]:
    """One agent is told to leave and replaced."""
    before = gang.incarnation()
    time.sleep(rng.uniform(0.0, 2.0))
    agent = gang.agents[index]
    began = time.monotonic()
    agent.send(signal.SIGTERM)
    code = agent.wait(LIMIT_SECONDS)
    seconds = time.monotonic() - began
    verdict = agent.verdict
    saved = [each for each in gang.sound() if each.step == verdict.step]
    gang.replace(index)
    number = gang.await_began(before)
    record = recovery(gang, number)
    return {
        "index": index,
        "verified": code == ExitCode.PREEMPTED and verdict.lost_steps == 0 and bool(saved),
        "savedStep": verdict.step,
        "fromStep": record["fromStep"],
        "resumedStep": record["resumedStep"],
        "lostSteps": record["fromStep"] - record["resumedStep"],
        "class": record["class"],
        "secondsToEnd": round(seconds, 3),
    }


def recovery(gang: Gang, incarnation: int) -> dict[str, Any]:
    """The account of how an incarnation began."""

    def look() -> dict[str, Any] | None:
        return next((row for row in gang.run.recoveries() if row["incarnation"] == incarnation), None)

    found: dict[str, Any] = support.wait_for(f"the account of incarnation {incarnation}", look, LIMIT_SECONDS)
    return found


def fall_back(gang: Gang, number: int, rng: random.Random) -> dict[str, Any]:
    """The newest checkpoint is damaged, a rank is killed, and the gang goes on."""
    kind = KINDS[number % len(KINDS)]
    before = gang.incarnation()
    progress(gang, before)
    time.sleep(rng.uniform(0.0, 0.5))
    ranks = [rank for agent in gang.agents for rank in agent.ranks()]
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    newest, older = gang.sound()[:2]
    damage(gang.store.path(newest.name), kind, rng)
    damaged = problems_of(gang.store, newest.name)
    os.kill(ranks[number % len(ranks)], signal.SIGKILL)
    began = gang.await_began(before)
    made = incarnations.read(gang.store, began)
    resumed = made.resume if made is not None else None
    return {
        "kind": kind,
        "evidence": damaged[:1],
        "ok": bool(damaged) and resumed == older.name,
        "damaged": newest.name,
        "resumed": resumed,
        "incarnations": began - before,
    }


def progress(gang: Gang, number: int) -> None:
    """Waits until this incarnation has made two checkpoints, both newer than any before."""

    def look() -> bool:
        names = gang.store.list_checkpoints()
        found = [name for name in names if name.endswith(f".i{number}")][:2]
        return (
            len(found) == 2
            and names[:2] == found
            and not any(problems_of(gang.store, name) for name in found)
        )

    support.wait_for(f"two checkpoints of incarnation {number}", look, LIMIT_SECONDS)
