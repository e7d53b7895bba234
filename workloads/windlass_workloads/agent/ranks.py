"""Starts, watches and ends the ranks of this pod.

Used by leader and follower alike; tells everything through one callback as messages for the gang.
Ranks are the agent's own children and are watched by pidfd; a killed incarnation leaves no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from pydantic import ValidationError

from windlass.api.contract import RankContext, RankEvent
from windlass.api.meta import Phase
from windlass_workloads.agent import oom
from windlass_workloads.agent.console import show_now
from windlass_workloads.agent.dumps import stacks_of
from windlass_workloads.agent.forking import ForkFailed
from windlass_workloads.agent.messages import Exited, Idle, Said, Stacks, Upward
from windlass_workloads.agent.pumps import LinePump, LogPump
from windlass_workloads.agent.reaper import Ending, Reaper

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 0.3
TAIL_LINES: Final = 60
CLEAR_SECONDS: Final = 0.005


@dataclass(slots=True)
class Rank:
    """One running rank."""

    context: RankContext
    process: int
    descriptor: int
    """pidfd, -1 once the process is reaped."""
    ending: asyncio.Future[Ending]
    output: LogPump
    ordered: bool = False
    watcher: asyncio.Task[None] | None = field(default=None, repr=False)


class Starter(Protocol):
    """What makes processes of ranks: a warm parent, or Commands."""

    ready: asyncio.Event

    @property
    def has_built(self) -> bool:
        """Whether there is nothing to build ahead."""

    async def build_ahead(self, context: RankContext) -> None:
        """Makes what all ranks begin with. Never fails."""

    async def fork(self, context: RankContext, events: int, output: int) -> int:
        """Process id of a new rank that writes to these descriptors."""


class RankHost:
    """The ranks of one incarnation in this pod; at most one incarnation at a time."""

    def __init__(
        self,
        warm: Starter,
        reaper: Reaper,
        tell: Callable[[Upward], None],
        show: Callable[[bytes], None] = show_now,
    ) -> None:
        self._warm = warm
        self._show = show
        self._reaper = reaper
        self._tell = tell
        self._ranks: dict[int, Rank] = {}
        self._starting: asyncio.Task[None] | None = None
        self._building: asyncio.Task[None] | None = None
        self._clearing: asyncio.Task[None] | None = None
        self._dumps: set[asyncio.Task[None]] = set()
        self._abandoned = asyncio.Event()
        self._saving = False
        self._oom_before = 0
        self.incarnation = 0
        """Incarnation whose ranks are here; 0 when there are none."""

    def start(self, incarnation: int, contexts: Sequence[RankContext]) -> None:
        """Starts ranks; refused silently while others are still here (the leader waits for Idle)."""
        if self.incarnation:
            log.error("ranks are still here", extra={"incarnation": self.incarnation, "asked": incarnation})
            return
        self.incarnation = incarnation
        self._abandoned.clear()
        self._saving = False
        self._oom_before = oom.count()
        self._starting = asyncio.get_running_loop().create_task(self._start_all(contexts))

    def stop(self, mode: Literal["Kill", "Save"]) -> None:
        """Kill all ranks now, or ask them to save and exit: also those that are still to be started."""
        if mode == "Kill":
            self._abandoned.set()
        else:
            self._saving = True
        # Who has ended already was not ended by this order, even if nobody has looked yet.
        self._reaper.reap()
        for rank in self._ranks.values():
            if mode == "Kill" and not rank.ending.done():
                rank.ordered = True
            self._signal(rank, signal.SIGKILL if mode == "Kill" else signal.SIGTERM)

    def dump(self, incarnation: int) -> None:
        """Has the ranks write their stacks, and tells what each wrote."""
        if incarnation != self.incarnation:
            return
        for rank in self._ranks.values():
            task = asyncio.get_running_loop().create_task(self._dump(rank))
            self._dumps.add(task)
            task.add_done_callback(self._dumps.discard)

    async def _dump(self, rank: Rank) -> None:
        state, lines = await stacks_of(rank.process, rank.descriptor, rank.output)
        context = rank.context
        self._tell(Stacks(incarnation=context.incarnation, rank=context.rank, state=state, lines=lines))

    async def kill_and_wait(self, limit_seconds: float) -> bool:
        """Kills all ranks and waits until they are gone; False when the limit passes first."""
        self.stop("Kill")
        deadline = time.monotonic() + limit_seconds
        while self.incarnation:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    async def _build_ahead(self, context: RankContext) -> None:
        """Has the warm parent make what all ranks begin with. An order to kill does not wait for it."""
        await first_of(self._warm.ready, self._abandoned)
        if self._abandoned.is_set() or self._warm.has_built:
            return
        loading = RankEvent(type="Phase", at=time.time(), rank=context.rank, phase=Phase.LOAD)
        self._tell(Said(incarnation=context.incarnation, event=loading))
        self._building = asyncio.get_running_loop().create_task(self._warm.build_ahead(context))
        abandoned = asyncio.ensure_future(self._abandoned.wait())
        await asyncio.wait([self._building, abandoned], return_when=asyncio.FIRST_COMPLETED)
        abandoned.cancel()

    async def _start_all(self, contexts: Sequence[RankContext]) -> None:
        if contexts and contexts[0].task == "train":
            await self._build_ahead(contexts[0])
        for context in contexts:
            # Only the wait for a warm parent can be abandoned: a fork that is under way must be answered.
            await first_of(self._warm.ready, self._abandoned)
            if self._abandoned.is_set():
                break
            try:
                await self._start_one(context)
            except (ForkFailed, OSError) as error:
                log.error("rank could not be started", extra={"rank": context.rank, "reason": str(error)})
                self._kill_strays()
                self._tell(
                    Exited(
                        incarnation=self.incarnation,
                        rank=context.rank,
                        code=1,
                        at=time.time(),
                        tail=[f"rank could not be started: {error}"],
                    )
                )
        self._starting = None
        self._idle_if_empty()

    async def _start_one(self, context: RankContext) -> None:
        event_reader, event_writer = os.pipe()
        log_reader, log_writer = os.pipe()
        try:
            process = await self._warm.fork(context, event_writer, log_writer)
        except BaseException:  # also when cancelled: nobody else would close these
            os.close(event_reader)
            os.close(log_reader)
            raise
        finally:
            os.close(event_writer)
            os.close(log_writer)
        ending = self._reaper.claim(process)
        descriptor = -1 if ending.done() else os.pidfd_open(process)
        name = "prepare" if context.task == "prepare" else f"rank {context.rank}"
        output = LogPump(log_reader, name, self._show)
        rank = Rank(context=context, process=process, descriptor=descriptor, ending=ending, output=output)
        self._ranks[context.rank] = rank
        events = LinePump(event_reader, lambda line: self._on_event(context, line))
        rank.watcher = asyncio.get_running_loop().create_task(self._watch(rank, events))
        if self._abandoned.is_set():
            rank.ordered = True
            self._signal(rank, signal.SIGKILL)
        elif self._saving:
            # The others cannot reach a step to save at without this one.
            self._signal(rank, signal.SIGTERM)

    def _on_event(self, context: RankContext, line: bytes) -> None:
        try:
            event = RankEvent.model_validate_json(line)
        except ValidationError:
            log.warning("unreadable event", extra={"rank": context.rank})
            return
        self._tell(Said(incarnation=context.incarnation, event=event))

    async def _watch(self, rank: Rank, events: LinePump) -> None:
        result = await rank.ending
        at = time.time()
        if rank.descriptor >= 0:
            os.close(rank.descriptor)
            rank.descriptor = -1
        # What the rank said last (Saved, Done, Failure) must arrive before its end does.
        await asyncio.gather(events.drain(DRAIN_SECONDS), rank.output.drain(DRAIN_SECONDS))
        killed_for_memory = result.signal == signal.SIGKILL and oom.count() > self._oom_before
        self._tell(
            Exited(
                incarnation=rank.context.incarnation,
                rank=rank.context.rank,
                code=result.code,
                signal=result.signal,
                oom=killed_for_memory,
                ordered=rank.ordered and result.signal == signal.SIGKILL,
                at=at,
                tail=rank.output.tail(TAIL_LINES),
            )
        )
        self._ranks.pop(rank.context.rank, None)
        self._idle_if_empty()

    def _idle_if_empty(self) -> None:
        if self._ranks or self._starting is not None or self._clearing is not None or not self.incarnation:
            return
        if self._kill_strays():
            self._clearing = asyncio.get_running_loop().create_task(self._clear())
        else:
            self._tell_idle()

    async def _clear(self) -> None:
        """What a stray has started becomes the agent's own only when the stray is gone; then it is killed as well."""
        left = True
        while left:
            await asyncio.sleep(CLEAR_SECONDS)
            left = self._kill_strays()
        self._clearing = None
        self._tell_idle()

    def _tell_idle(self) -> None:
        incarnation, self.incarnation = self.incarnation, 0
        self._tell(Idle(incarnation=incarnation))

    def _kill_strays(self) -> bool:
        """Ends what dead ranks left behind: their own children, or a rank forked into nowhere. False: nothing is."""
        known = {rank.process for rank in self._ranks.values()}
        strays = [process for process in self._reaper.strays() if process not in known]
        for process in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return bool(strays)

    def _signal(self, rank: Rank, number: signal.Signals) -> None:
        if rank.descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(rank.descriptor, number)


async def first_of(one: asyncio.Event, other: asyncio.Event) -> None:
    """Returns when either event is set."""
    waits = [asyncio.ensure_future(one.wait()), asyncio.ensure_future(other.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
