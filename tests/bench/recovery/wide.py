"""Tries with wider tiny gangs: a rank of eight in four pods dies, and a pod of four goes and comes back."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from bench.recovery.gang import LIMIT_SECONDS, Gang
from bench.recovery.tries import progress, recovery
from windlass.api.meta import Rung
from workloads.agent import support

EIGHT: dict[str, Any] = {
    "training": {"globalBatchSize": 8},
    "resources": {"nodes": 4, "ranksPerNode": 2},
}
FOUR: dict[str, Any] = {
    "training": {"globalBatchSize": 4},
    "resources": {"nodes": 4},
    "recovery": {"elastic": {"minNodes": 3, "waitSeconds": 0}},
}
EIGHT_SETTING = {
    "gang": "four agents with two ranks each, as plain processes on the same processors",
    "try": "SIGKILL to one rank; seconds until the slowest of eight enters the forward of the step after the "
    "resumed one",
}
FOUR_SETTING = {
    "gang": "four agents with one rank each, as plain processes; recovery.elastic minNodes 3, waitSeconds 0",
    "try": "SIGKILL to an agent that does not lead; seconds until the slowest of three enters the forward of the step "
    "after the resumed one; then a replacement starts",
    "growSeconds": "from the replacement's start, its imports among them, to the forward of all four",
}


def kill_rank(gang: Gang, number: int) -> dict[str, Any]:
    """One of the ranks is killed."""
    before = gang.incarnation()
    # Kills without progress in between use a budget up, as they should.
    progress(gang, before)
    ranks = sorted(rank for agent in gang.agents for rank in agent.ranks())
    killed_at = time.time()
    os.kill(ranks[number % len(ranks)], signal.SIGKILL)
    made, began_at = gang.await_time(before)
    record = recovery(gang, made)
    return row_of(record, began_at - killed_at)


def lose_agent(gang: Gang, number: int) -> dict[str, Any]:
    """One of the agents is killed, the rest goes on, and a new one is taken in."""
    before, index = gang.incarnation(), 1 + number % (len(gang.agents) - 1)
    killed_at = time.time()
    gang.agents[index].send(signal.SIGKILL)
    made, began_at = gang.await_time(before, world=gang.world - 1, without=index)
    found = row_of(recovery(gang, made), began_at - killed_at)
    started_at = time.time()
    gang.replace(index)
    whole, grown_at = gang.await_time(made)
    record = recovery(gang, whole)
    await_checkpoint(gang, whole)
    return {
        **found,
        "ok": found["rung"] == Rung.SHRINK and record["lostSteps"] == 0,
        "growSeconds": round(grown_at - started_at, 4),
        "growLostSteps": record["lostSteps"],
    }


def await_checkpoint(gang: Gang, incarnation: int) -> None:
    """So that the next fault falls back to a checkpoint of this life."""
    support.wait_for(
        f"a checkpoint of incarnation {incarnation}",
        lambda: any(name.endswith(f".i{incarnation}") for name in gang.store.list_checkpoints()),
        LIMIT_SECONDS,
    )


def row_of(record: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A try in the form of the others."""
    return {
        "seconds": round(seconds, 4),
        "detect": record["seconds"]["detect"],
        "rung": record["rung"],
        "fromStep": record["fromStep"],
        "resumedStep": record["resumedStep"],
        "lostSteps": record["lostSteps"],
        "phases": record["seconds"],
    }
