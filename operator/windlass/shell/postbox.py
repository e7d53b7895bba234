"""Takes events about jobs and has them written beside the rounds, so that no round waits for them.

The actor puts events in, a few writers bring them to the recorder. Status and pods go first: with a thousand jobs at
once a fifth of all writes are events, which nobody's decision depends on. A full box drops new events and
counts them. While the operator is busy each writer pauses before every event, for a second at most: an event costs
the server as much as a pod. What is in the box when the process dies is lost; the status that it tells of is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from windlass.core.decision import Event

WRITERS: Final = 4
MOST: Final = 2500
"""Events that one writer may have before it."""

BUSY_PAUSE_SECONDS: Final = 1.0
"""Longest pause of a writer before an event while rounds are waiting."""

Json = dict[str, Any]


async def always_calm() -> None:
    """For whoever has no rounds to wait for."""


class Recorder(Protocol):
    """Who writes events (`events.Recorder`)."""

    async def record(self, job: Json, event: Event) -> None:
        """Write one event; errors are its own to bear."""
        ...


class Postbox:
    """Bounded queues of events in front of a recorder, with the recorder's own method. A job has one writer, always."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        calm: Callable[[], Awaitable[None]] = always_calm,
        writers: int = WRITERS,
        most: int = MOST,
        pause_seconds: float = BUSY_PAUSE_SECONDS,
    ) -> None:
        self._recorder = recorder
        self._calm = calm
        self._pause_seconds = pause_seconds
        self._boxes: list[asyncio.Queue[tuple[Json, Event]]] = [asyncio.Queue(most) for _ in range(writers)]
        # What a writer has taken out and not begun to write.
        self._held: dict[int, tuple[Json, Event]] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return sum(box.qsize() for box in self._boxes) + len(self._held)

    async def record(self, job: Json, event: Event) -> None:
        """Put an event in and return at once."""
        box = self._boxes[hash(job["metadata"]["uid"]) % len(self._boxes)]
        try:
            box.put_nowait((job, event))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Write until cancelled. Events of one job are written in their order."""
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._boxes)):
                group.create_task(self._write(number))

    async def _write(self, number: int) -> None:
        while True:
            self._held[number] = await self._boxes[number].get()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds):
                    await self._calm()
            await self._recorder.record(*self._held.pop(number))

    async def flush(self, seconds: float) -> None:
        """After `run` has ended: write what is left, for so many seconds at most."""
        try:
            async with asyncio.timeout(seconds):
                for number, box in enumerate(self._boxes):
                    if number in self._held:
                        await self._recorder.record(*self._held.pop(number))
                    while not box.empty():
                        await self._recorder.record(*box.get_nowait())
        except TimeoutError:
            self.dropped += len(self)
