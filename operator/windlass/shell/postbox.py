"""Takes events about jobs and has them written beside the rounds, so that no round waits for them.

The actor puts events in, a few writers bring them to the recorder. Status and pods go first: with a thousand jobs at
once a fifth of all writes are events, which nobody's decision depends on. A full box drops new events and
counts them. What is in it when the process dies is lost; the status that it tells of is not.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from windlass.core.decision import Event

WRITERS: Final = 4
MOST: Final = 2500
"""Events that one writer may have before it."""

Json = dict[str, Any]


class Recorder(Protocol):
    """Who writes events (`events.Recorder`)."""

    async def record(self, job: Json, event: Event) -> None:
        """Write one event; errors are its own to bear."""
        ...


class Postbox:
    """Bounded queues of events in front of a recorder, with the recorder's own method. A job has one writer, always."""

    def __init__(self, recorder: Recorder, *, writers: int = WRITERS, most: int = MOST) -> None:
        self._recorder = recorder
        self._boxes: list[asyncio.Queue[tuple[Json, Event]]] = [asyncio.Queue(most) for _ in range(writers)]
        self.dropped = 0

    def __len__(self) -> int:
        return sum(box.qsize() for box in self._boxes)

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
            for box in self._boxes:
                group.create_task(self._write(box))

    async def _write(self, box: asyncio.Queue[tuple[Json, Event]]) -> None:
        while True:
            await self._recorder.record(*await box.get())

    async def flush(self, seconds: float) -> None:
        """After `run` has ended: write what is left, for so many seconds at most."""
        try:
            async with asyncio.timeout(seconds):
                for box in self._boxes:
                    while not box.empty():
                        await self._recorder.record(*box.get_nowait())
        except TimeoutError:
            self.dropped += len(self)
