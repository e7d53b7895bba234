"""The only handlers that kopf calls: they put a job into the cache and its key into the queue.

They run in kopf's thread and hand over to the main loop; they do no I/O, decide nothing, return nothing and
never raise. kopf drops errors of such handlers, so retrying is the queue's work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

import kopf

from windlass.api.meta import GROUP, VERSION
from windlass.shell.cache import slim_job
from windlass.shell.jobs import Jobs
from windlass.shell.resources import JOB_KINDS

UNTAKEN: Final = 256
"""Jobs that may be on their way to the main loop. Without a limit a list of ten thousand took 80 MB on its way."""
PATIENCE_SECONDS: Final = 1.0
"""A main loop that takes nothing for so long hangs or has ended; its probe tells the former."""


class Intake:
    """Passes what kopf saw from its thread into the main loop's cache, no faster than that takes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, jobs: Jobs) -> None:
        self._loop = loop
        self._jobs = jobs
        self._room = threading.Semaphore(UNTAKEN)

    def take(self, kind: str | None, body: dict[str, Any]) -> None:
        """One event: `kind` is ADDED, MODIFIED, DELETED, or None for an object of a list. May wait for room."""
        slim = slim_job(body)
        method = self._jobs.drop if kind == "DELETED" else self._jobs.upsert
        counted = self._room.acquire(timeout=PATIENCE_SECONDS)
        try:
            self._loop.call_soon_threadsafe(self._hand_over, method, slim, counted)
        except RuntimeError:
            # The main loop is closed: the process is ending.
            return

    def _hand_over(
        self, method: Callable[[dict[str, Any]], Any], slim: dict[str, Any], counted: bool
    ) -> None:
        try:
            method(slim)
        finally:
            if counted:
                self._room.release()


def register(registry: kopf.OperatorRegistry, intake: Intake) -> None:
    """Register the handler of each kind with kopf."""

    for resource in JOB_KINDS:
        kopf.on.event(GROUP, VERSION, resource.plural, registry=registry, id="take")(
            taker(resource.kind, intake)
        )


def taker(kind: str, intake: Intake) -> Callable[..., Any]:
    """The handler of one kind, which items of a list do not say."""

    async def take(event: Any, **_: Any) -> None:
        intake.take(event.get("type"), {**event["object"], "kind": kind})

    return take
