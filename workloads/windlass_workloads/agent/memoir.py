"""The leader's writing hand: timeline, sign of life, forward times, logs, retention.

Writes go through one thread in order, so that a slow volume never holds up the gang. Losing the last
ones in a crash costs accuracy of accounts, never correctness.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from windlass.api.contract import Incarnation, RankEvent
from windlass.api.status import CheckpointRecord
from windlass_workloads.agent import events as ev
from windlass_workloads.agent import timeline
from windlass_workloads.checkpoint import ledger, retention
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.store import LOGS, TIMELINE, RunStore

log = logging.getLogger(__name__)

FORWARD: Final = "forward.jsonl"


class Memoir:
    """Records of one leader. `past` folds what earlier leaders wrote and goes on from there."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memoir")
        self._last: Future[None] | None = None
        self._signing: Future[None] | None = None
        self._retaining: Future[None] | None = None
        self._leading = False
        self._waiting: list[Mapping[str, object]] = []
        self.past = timeline.read_past([], None)
        self.ledger: list[CheckpointRecord] = []
        self.newest: Incarnation | None = None
        """The newest incarnation that there is: an earlier leader's, until this one leads."""

    def read(self, newest: Incarnation | None) -> None:
        """Reads what is in the store; called once, in a thread."""
        rows = self._store.read_lines(TIMELINE)
        self.past = timeline.read_past(rows, self._store.read(timeline.ALIVE))
        self.ledger = ledger.rows(self._store, newest)
        self.newest = newest
        totals = self.past.totals
        if totals.started_at is not None and rows and not _ends_down(rows):
            row = timeline.state_row(ev.State.DOWN, totals.since, 0, "")
            self._waiting.append(row)

    def lead(self, record: Incarnation) -> None:
        """This agent owns an incarnation: from now on it may write."""
        self._leading, self.newest = True, record
        waiting, self._waiting = self._waiting, []
        for row in waiting:
            self._append(TIMELINE, row)

    def note(self, command: ev.Command) -> None:
        """Writes down what the gang wants remembered."""
        totals = self.past.totals
        if isinstance(command, ev.Mark):
            totals.change(command.state, command.at)
            row = timeline.state_row(command.state, totals.since, command.incarnation, command.left)
            self._timeline(row)
        elif isinstance(command, ev.Stalled):
            totals.stall(command.seconds)
            self._timeline(timeline.stall_row(command.seconds, time.time()))
        elif isinstance(command, ev.Remember):
            self._timeline({"at": round(time.time(), 3), **dict(command.facts)})
        elif isinstance(command, ev.KeepLog):
            self._keep_log(command)

    def hear(self, event: RankEvent, incarnation: int) -> None:
        """Writes down what ranks say that a later leader or a benchmark wants to know."""
        if event.type == "Forward":
            row = {"incarnation": incarnation, "rank": event.rank, "step": event.step, "at": event.at}
            self._append(FORWARD, row)
        facts = {"plan": event.plan, "output": event.output, "tracking": event.tracking}
        for name, fact in facts.items():
            if fact is not None:
                self._timeline({"at": round(event.at, 3), name: fact.to_wire()})

    def sign(self, step: int, highest_step: int, *, last: bool = False) -> None:
        """Leaves a sign of life; but for the last one, skipped while another is still being written."""
        if last or self._signing is None or self._signing.done():
            self._signing = self._do(
                self._write_sign, timeline.alive(time.time(), step, highest_step, last=last)
            )

    def retain(self, incarnation: int, keep_last: int) -> None:
        """Clears superfluous checkpoints."""
        if self._retaining is None or self._retaining.done():
            self._retaining = self._do(self._clear, incarnation, keep_last)

    async def close(self, limit_seconds: float) -> None:
        """Waits for what is still to be written."""
        if self._last is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(self._last), limit_seconds)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _timeline(self, row: Mapping[str, object]) -> None:
        if self._leading:
            self._append(TIMELINE, row)
        else:
            self._waiting.append(row)

    def _append(self, name: str, row: Mapping[str, object]) -> None:
        self._do(self._store.append_line, name, row)

    def _keep_log(self, command: ev.KeepLog) -> None:
        kind = "log" if command.what == "log" else f"{command.what}.log"
        name = f"{LOGS}/incarnation-{command.incarnation:08d}-rank-{command.rank}.{kind}"
        self._do(self._store.write, name, "\n".join([*command.lines, ""]).encode())

    def _write_sign(self, data: bytes) -> None:
        """Without fsync: it is written every second and worth little."""
        path = self._store.path(timeline.ALIVE)
        temporary = path.with_name(f".tmp-{timeline.ALIVE}")
        temporary.write_bytes(data)
        os.replace(temporary, path)

    def _clear(self, incarnation: int, keep_last: int) -> None:
        retention.retain(self._store, incarnation=incarnation, keep_last=keep_last)
        retention.purge(self._store, incarnation=incarnation)

    def _do(self, work: Callable[..., object], *arguments: Any) -> Future[None]:
        def run() -> None:
            try:
                work(*arguments)
            except (OSError, CheckpointError) as error:
                log.warning("record not written", extra={"reason": str(error)})

        self._last = self._writer.submit(run)
        return self._last


def _ends_down(rows: list[dict[str, object]]) -> bool:
    states = [row["state"] for row in rows if "state" in row]
    return bool(states) and states[-1] == str(ev.State.DOWN)
