"""The only handlers that kopf calls: they put a job into the cache and its key into the queue.

They run in kopf's thread and hand over to the main loop; they do no I/O, decide nothing, return nothing and
never raise. kopf drops errors of such handlers, so retrying is the queue's work.
"""

from __future__ import annotations

import asyncio
from typing import Any

import kopf

from windlass.api.meta import GROUP, VERSION
from windlass.shell.cache import Cache, slim_job
from windlass.shell.resources import FINE_TUNE_JOBS


class Intake:
    """Passes what kopf saw from its thread into the main loop's cache."""

    def __init__(self, loop: asyncio.AbstractEventLoop, jobs: Cache) -> None:
        self._loop = loop
        self._jobs = jobs

    def take(self, kind: str | None, body: dict[str, Any]) -> None:
        """One event: `kind` is ADDED, MODIFIED, DELETED, or None for an object of a list."""
        slim = slim_job(body)
        method = self._jobs.drop if kind == "DELETED" else self._jobs.upsert
        try:
            self._loop.call_soon_threadsafe(method, slim)
        except RuntimeError:
            # The main loop is closed: the process is ending.
            return


def register(registry: kopf.OperatorRegistry, intake: Intake) -> None:
    """Register the handler of each kind with kopf."""

    async def take(event: Any, **_: Any) -> None:
        intake.take(event.get("type"), dict(event["object"]))

    kopf.on.event(GROUP, VERSION, FINE_TUNE_JOBS.plural, registry=registry, id="take")(take)
