"""The single faults: how each is caused, and what may follow from it.

A deed returns what is worth writing down. It returns when the fault has happened, not when it is mended, and puts
right what would not come right by itself (a full disk, an absent operator).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.faults.gang import Gang, Stuck, is_guarded, warm_of
from bench.faults.witness import HIT, read_losses
from windlass.api.meta import ExitCode
from workloads.agent import support
from workloads.checkpoint.damage import KINDS as DAMAGES
from workloads.checkpoint.damage import damage

Facts = dict[str, Any]
Deed = Callable[[Gang, random.Random], Facts]

CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE)
"""Not SIGBUS, which in a pod mostly means that its shared memory is full, and is judged so."""
OUTAGE_SECONDS = 1.0
AWAY_SECONDS = 1.5
SAVE_OPERATIONS = 24
"""Changes of the store in about one save of one rank."""
STEP_LIMIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. `restarts` None: it depends on the moment."""

    name: str
    what: str
    deed: Deed
    classes: frozenset[str] = frozenset()
    """Classes that rows about it may have; empty for a fault without a row."""
    restarts: bool | None = True
    charges: int = 1
    """Failures that it may cost of the budgets."""
    needs_volume: bool = False
    needs_guard: bool = False
    quick: bool = False
    """Whether it is mended in place, without a new pod."""

    def possible(self, gang: Gang) -> bool:
        """Whether it can be caused here."""
        return (gang.volume is not None or not self.needs_volume) and (not self.needs_guard or is_guarded())


KINDS: dict[str, Kind] = {}


def kind(name: str, *classes: str, **more: Any) -> Callable[[Deed], Deed]:
    """Puts a deed among the kinds; its docstring says what it does."""

    def add(deed: Deed) -> Deed:
        KINDS[name] = Kind(name, (deed.__doc__ or "").strip(), deed, frozenset(classes), **more)
        return deed

    return add


def rank_of(gang: Gang, rng: random.Random) -> tuple[int, int]:
    """(rank, process) of a random one that runs, as far as indices tell."""
    agent = rng.choice(gang.agents)
    found = sorted(agent.ranks())
    if not found:
        return agent.index * gang.ranks_per_node, 0
    place = rng.randrange(len(found))
    return agent.index * gang.ranks_per_node + place, found[place]


def kill(process: int, number: int = signal.SIGKILL) -> float:
    """A signal to a process that may be gone; when it was sent."""
    at = time.time()
    if process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    return at


# --- ranks -------------------------------------------------------------------------------------------------


@kind("rank-killed", "Crash", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A rank gets SIGKILL, SIGSEGV, SIGABRT or SIGFPE."""
    rank, process = rank_of(gang, rng)
    number = rng.choice(CRASHES)
    at = kill(process, number)
    return {"rank": rank, "signal": number.name, "at": at}


@kind("rank-exits", "Crash", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A rank ends with an exit code and without a word."""
    return ordered(gang, rng, f"exit {rng.choice((1, 3, 255))}")


@kind("rank-raises", "Crash", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A step raises an error of its own."""
    return ordered(gang, rng, "raise the weights caught fire")


@kind("rank-out-of-memory", "OutOfMemory", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A step raises for want of memory."""
    return ordered(gang, rng, "raise MemoryError")


@kind("rank-cannot-read", "Storage", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A step raises an input/output error."""
    return ordered(gang, rng, "raise OSError")


def ordered(gang: Gang, rng: random.Random, text: str) -> Facts:
    """Has a random rank do something, and waits until it has read so."""
    rank = rng.randrange(gang.world)
    gang.order(rank, text)
    path = gang.witness / f"order-{rank}"
    gang.wait(f"rank {rank} to read its order", lambda: not path.exists(), STEP_LIMIT_SECONDS)
    return {"rank": rank, "order": text}


@kind("rank-stands-still", "Stall", "Infrastructure", needs_guard=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A rank gets SIGSTOP and is never woken."""
    rank, process = rank_of(gang, rng)
    return {"rank": rank, "at": kill(process, signal.SIGSTOP)}


@kind("warm-parent-killed", restarts=False, charges=0, quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The process that ranks are forked from gets SIGKILL; ranks go on, a new one is made."""
    agent = rng.choice(gang.agents)
    before = warm_of(agent)
    kill(before or 0)
    gang.wait("another warm parent", lambda: warm_of(agent) not in (None, before))
    return {"index": agent.index}


# --- pods --------------------------------------------------------------------------------------------------


@kind("follower-killed", "Infrastructure")
def _(gang: Gang, rng: random.Random) -> Facts:
    """The follower's pod is gone without a word."""
    return {"index": 1, "at": kill(gang.agents[1].pid)}


@kind("leader-killed", "Infrastructure")
def _(gang: Gang, rng: random.Random) -> Facts:
    """The leader's pod is gone without a word."""
    return {"index": 0, "at": kill(gang.agents[0].pid)}


@kind("follower-leaves", "Preempted", charges=0)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The follower's pod gets SIGTERM."""
    return leave(gang, 1)


@kind("leader-leaves", "Preempted", charges=0)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The leader's pod gets SIGTERM."""
    return leave(gang, 0)


def leave(gang: Gang, index: int) -> Facts:
    """SIGTERM to a pod, and its verdict."""
    agent = gang.agents[index]
    at = kill(agent.pid, signal.SIGTERM)
    return {"index": index, "at": at, "leaving": [verdict_of(gang, agent)]}


@kind("all-leave", charges=0)
def _(gang: Gang, rng: random.Random) -> Facts:
    """Both pods get SIGTERM, as in a suspension; the next attempt goes on."""
    agents = gang.played.drain()
    at = min(kill(agent.pid, signal.SIGTERM) for agent in rng.sample(agents, len(agents)))
    return {"at": at, "leaving": [verdict_of(gang, agent) for agent in agents]}


def verdict_of(gang: Gang, agent: support.Agent) -> Facts:
    """How an agent that was asked to leave has left."""
    code = gang.wait(f"the end of agent {agent.index}", lambda: ended(agent))[0]
    try:
        verdict = agent.verdict
    except (OSError, ValueError):
        # A process that was still being started has nothing to save and nobody to say so.
        return {"code": code, "begun": "[agent]" in agent.log}
    return {"code": code, "step": verdict.step, "lost": verdict.lost_steps, "result": verdict.result}


def ended(agent: support.Agent) -> tuple[int] | None:
    """(exit code,) of an agent that has ended."""
    code = agent.process.poll()
    return None if code is None else (code,)


@kind("follower-frozen", "Infrastructure", "Crash")
def _(gang: Gang, rng: random.Random) -> Facts:
    """All of the follower's pod stands still for longer than the leader waits, and wakes."""
    agent = gang.agents[1]
    family = [agent.pid, *agent.children()]
    with stopped(family):
        time.sleep(gang.silence + 0.5)
    return {"index": 1}


@kind("zombie-leader", "Infrastructure")
def _(gang: Gang, rng: random.Random) -> Facts:
    """The leader's pod is cut off and frozen, replaced, and wakes when its successor leads: it must end fenced."""
    number = gang.newest().incarnation
    agent = gang.agents[0]
    family = [agent.pid, *agent.children()]
    with stopped(family):
        gang.played.renew(0)
        gang.wire.cut()
        gang.wait("a new incarnation", lambda: gang.newest().incarnation > number)
    gang.old.append(agent)
    (code,) = gang.wait("the end of the old leader", lambda: ended(agent))
    return {"index": 0, "zombie": code == ExitCode.FENCED}


@contextlib.contextmanager
def stopped(family: list[int]) -> Iterator[None]:
    """Processes that stand still for a while."""
    for process in family:
        kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(family):
            kill(process, signal.SIGCONT)


# --- network and operator ----------------------------------------------------------------------------------


@kind("connection-cut", "Infrastructure", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The connection between leader and follower is reset."""
    at = time.time()
    return {"connections": gang.wire.cut(), "at": at}


@kind("partition", "Infrastructure", "Crash")
def _(gang: Gang, rng: random.Random) -> Facts:
    """Nothing arrives between leader and follower for longer than they wait."""
    gang.wire.silent = True
    try:
        time.sleep(gang.silence + 1.0)
    finally:
        gang.wire.silent = False
    return {}


@kind("operator-away", restarts=False, charges=0)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The operator neither answers nor makes pods; nothing else happens."""
    gang.played.away(True)
    try:
        before = last_step(gang)
        time.sleep(AWAY_SECONDS)
        return {"stepsMeanwhile": last_step(gang) - before}
    finally:
        gang.played.away(False)


@kind("operator-away-rank-killed", "Crash", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A rank is killed while the operator is away: the agents mend it alone."""
    number = gang.newest().incarnation
    gang.played.away(True)
    try:
        rank, process = rank_of(gang, rng)
        at = kill(process)
        gang.wait("training without an operator", lambda: gang.began(number) is not None)
    finally:
        gang.played.away(False)
    return {"rank": rank, "at": at}


@kind("operator-away-pod-killed", "Infrastructure")
def _(gang: Gang, rng: random.Random) -> Facts:
    """A pod is lost while the operator is away: it is replaced when the operator is back."""
    index = rng.randrange(len(gang.agents))
    gang.played.away(True)
    try:
        at = kill(gang.agents[index].pid)
        time.sleep(AWAY_SECONDS)
    finally:
        gang.played.away(False)
    return {"index": index, "at": at}


def last_step(gang: Gang) -> int:
    """The step of the last loss that was written down."""
    rows = read_losses(gang.witness)
    return int(rows[-1]["step"]) if rows else 0


# --- checkpoints and their volume --------------------------------------------------------------------------


@kind("checkpoint-damaged", "Crash", "Storage", charges=3, quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The newest checkpoint is damaged in one of seven ways, and a rank is killed."""
    ranks = [rank for agent in gang.agents for rank in agent.ranks()]
    with stopped(ranks):
        found = gang.sound()
        if len(found) < 2:
            raise Stuck("fewer than two sound checkpoints")
        how = rng.choice(DAMAGES)
        name = found[0].name
        damage(gang.store.path(name), how, rng)
        if not gang.problems_of(name):
            raise Stuck(f"{how}: {name} is as sound as before")
        gang.damaged.add(name)
        at = kill(rng.choice(ranks))
    return {"how": how, "damaged": name, "at": at}


@kind("killed-in-a-save", "Crash", quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A rank is killed at one of the operations of a save."""
    return in_a_save(gang, rng, "disk-kills")


@kind("save-fails", restarts=False, charges=0, quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """One operation of a save fails: no space, input/output error, stale handle or quota."""
    number = rng.choice((errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EDQUOT))
    return {"error": errno.errorcode[number], **in_a_save(gang, rng, f"disk-fails {number}")}


def in_a_save(gang: Gang, rng: random.Random, order: str) -> Facts:
    """Orders a fault at an operation of the next saves, and waits until it has struck."""
    hit = gang.witness / HIT
    hit.unlink(missing_ok=True)
    facts = ordered(gang, rng, f"{order} {rng.randrange(1, SAVE_OPERATIONS)}")
    gang.wait("the operation to come", hit.exists, STEP_LIMIT_SECONDS)
    return {**facts, "operation": hit.read_text()}


@kind("disk-full", restarts=False, charges=0, needs_volume=True, quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The volume has no byte left for a while."""
    with full(gang):
        time.sleep(OUTAGE_SECONDS)
    return {}


@kind("disk-read-only", restarts=False, charges=0, needs_volume=True, quick=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """The volume is read-only for a while."""
    with read_only(gang):
        time.sleep(OUTAGE_SECONDS)
    return {}


@kind("disk-outage-rank-killed", "Crash", "Storage", charges=6, needs_volume=True)
def _(gang: Gang, rng: random.Random) -> Facts:
    """A rank is killed while the volume is full or read-only: no incarnation can be made until it works again."""
    how = rng.choice((full, read_only))
    with how(gang):
        rank, process = rank_of(gang, rng)
        at = kill(process)
        time.sleep(OUTAGE_SECONDS)
    return {"rank": rank, "how": how.__name__, "at": at}


@contextlib.contextmanager
def full(gang: Gang) -> Iterator[None]:
    """A volume without a free byte."""
    assert gang.volume is not None
    gang.volume.fill()
    try:
        yield
    finally:
        gang.volume.free()


@contextlib.contextmanager
def read_only(gang: Gang) -> Iterator[None]:
    """A volume that can only be read."""
    assert gang.volume is not None
    gang.volume.freeze()
    try:
        yield
    finally:
        gang.volume.free()
