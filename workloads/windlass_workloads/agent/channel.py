"""The rank's side of the pipe to its agent: what training code calls to say how it goes.

Standard library and pydantic only. Sending never raises and never blocks training: with a slow or
absent agent lines are kept, and step rows are dropped first. Threads may share a channel.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import threading
import time
from collections import deque
from typing import Any, Final

from windlass.api.contract import RankEvent
from windlass.api.meta import Phase
from windlass.api.status import CheckpointRecord, Failure, Output, Plan, TrackingStatus

PIPE_BYTES: Final = 1 << 20
KEPT_LINES: Final = 4096
FLUSH_SECONDS: Final = 5.0


class RankChannel:
    """Sends RankEvents of one rank as JSON lines. `descriptor` None throws everything away."""

    def __init__(self, descriptor: int | None, rank: int) -> None:
        self.rank = rank
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._waiting: deque[tuple[bool, bytes]] = deque()
        self._partial = b""
        self._save_requested = threading.Event()
        if descriptor is not None:
            os.set_blocking(descriptor, False)
            # A smaller pipe only means that lines wait here; the kernel's limit is not ours to raise.
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def save_requested(self) -> bool:
        """Whether SIGTERM came: save at the next step boundary (all ranks agree), send Saved, exit 0."""
        return self._save_requested.is_set()

    def request_save(self) -> None:
        """Called by the rank's SIGTERM handler."""
        self._save_requested.set()

    def send(self, event: RankEvent) -> None:
        """Sends one event; `rank` is filled in."""
        line = line_of(event.model_copy(update={"rank": self.rank}))
        with self._lock:
            self._waiting.append((event.type == "Step", line + b"\n"))
            if len(self._waiting) > KEPT_LINES:
                self._drop_one()
            self._write_waiting()

    def phase(self, phase: Phase) -> None:
        """This rank has entered a phase."""
        self.send(RankEvent(type="Phase", at=time.time(), phase=phase))

    def forward(self, step: int) -> None:
        """Entry into the forward pass of the first step (its number) after a start."""
        self.send(RankEvent(type="Forward", at=time.time(), step=step))

    def step(self, event: RankEvent) -> None:
        """A finished step; the caller makes the event, since most of its fields are optional."""
        self.send(event)

    def validation(self, step: int, loss: float) -> None:
        """A validation loss."""
        self.send(RankEvent(type="Validation", at=time.time(), step=step, loss=loss))

    def checkpoint(self, record: CheckpointRecord, *, stall_seconds: float, write_seconds: float) -> None:
        """A committed checkpoint: how long training stood still for it and how long the write took."""
        self.send(
            RankEvent(
                type="Checkpoint",
                at=time.time(),
                step=record.step,
                checkpoint=record,
                stall_seconds=stall_seconds,
                write_seconds=write_seconds,
            )
        )

    def save_failed(self, step: int, message: str) -> None:
        """A save that failed; training goes on with the last good one."""
        self.send(RankEvent(type="SaveFailed", at=time.time(), step=step, message=message))

    def plan(self, plan: Plan) -> None:
        """What the run will do, as far as this rank has found out."""
        self.send(RankEvent(type="Plan", at=time.time(), plan=plan))

    def prepared(self, name: str) -> None:
        """Prepared data is complete under this name."""
        self.send(RankEvent(type="Prepared", at=time.time(), name=name))

    def tracking(self, status: TrackingStatus | None, problem: str | None = None) -> None:
        """State of the tracking server; a problem means degraded."""
        self.send(RankEvent(type="Tracking", at=time.time(), tracking=status, message=problem))

    def output(self, output: Output) -> None:
        """What the run produced."""
        self.send(RankEvent(type="Output", at=time.time(), output=output))

    def failure(self, failure: Failure) -> None:
        """Why this rank is about to exit with an error."""
        self.send(RankEvent(type="Failure", at=time.time(), failure=failure))

    def saved(self, step: int) -> None:
        """The save asked for by SIGTERM is committed."""
        self.send(RankEvent(type="Saved", at=time.time(), step=step))

    def done(self, step: int) -> None:
        """Training is complete."""
        self.send(RankEvent(type="Done", at=time.time(), step=step))

    def close(self, limit_seconds: float = FLUSH_SECONDS) -> None:
        """Gives the agent some time to read what is left, then closes the pipe."""
        deadline = time.monotonic() + limit_seconds
        with self._lock:
            self._write_waiting()
            while self._descriptor is not None and (self._waiting or self._partial):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                select.select([], [self._descriptor], [], left)
                self._write_waiting()
            self._give_up()

    def _drop_one(self) -> None:
        for position, (is_step, _) in enumerate(self._waiting):
            if is_step:
                del self._waiting[position]
                return
        self._waiting.popleft()

    def _write_waiting(self) -> None:
        while self._descriptor is not None and (self._partial or self._waiting):
            if not self._partial:
                self._partial = self._waiting.popleft()[1]
            try:
                count = os.write(self._descriptor, self._partial)
            except BlockingIOError:
                return
            except OSError:
                self._give_up()
                return
            self._partial = self._partial[count:]

    def _give_up(self) -> None:
        self._waiting.clear()
        self._partial = b""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)


def line_of(event: RankEvent) -> bytes:
    """The event as one line of JSON. Names of files and rows may hold what is no letter: it is shown escaped."""
    try:
        return event.model_dump_json(by_alias=True, exclude_none=True).encode()
    except ValueError:
        return json.dumps(escaped(event.to_wire())).encode()


def escaped(value: Any) -> Any:
    """The same with every half letter in its texts written out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value
