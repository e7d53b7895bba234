"""Records events about jobs in events.k8s.io/v1, without flooding anybody.

`act` calls `record` after a decision. The same event again within ten minutes becomes a series of the first;
each job has a small budget, of which what happens all the time takes nothing. Recording is best effort: it never
fails a round and is never waited for long.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from windlass.api import meta
from windlass.api.meta import Reason
from windlass.core.decision import Event
from windlass.core.pace import announcement_interval
from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Unreachable
from windlass.shell.lease import micro_time
from windlass.shell.logging import logger
from windlass.shell.resources import EVENTS

LOG = logger("events")

NOTE_LENGTH: Final = 1024
SERIES_SECONDS: Final = 600.0
SERIES_WRITE_SECONDS: Final = 30.0
BURST: Final = 25.0
REFILL_SECONDS: Final = 60.0
"""One event more per minute and job, up to BURST."""
ROUTINE: Final = frozenset({Reason.CHECKPOINT_COMMITTED})
"""Each of these is written seldom for each job (`pace`): an event is a write, and status lists what it tells."""
REMEMBERED: Final = 2048
CONTROLLER: Final = "windlass.dev/operator"

Key = tuple[str, str, str, str]


@dataclass(slots=True)
class Recorded:
    """An event that was written, and how often it has happened since."""

    name: str
    namespace: str
    count: int
    last_at: float
    written_at: float


@dataclass(slots=True)
class Bucket:
    """Events that a job may still record."""

    tokens: float
    at: float


class Recorder:
    """Writes events with series and a rate limit per job."""

    def __init__(
        self, client: Client, *, instance: str, clock: Clock, runs: Callable[[], int] = lambda: 0
    ) -> None:
        self._client = client
        self._instance = instance
        self._clock = clock.monotonic
        self._now = clock.now
        self._runs = runs
        self._recorded: OrderedDict[Key, Recorded] = OrderedDict()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._routine: OrderedDict[tuple[str, Reason], float] = OrderedDict()
        self.dropped = 0

    async def record(self, job: dict[str, Any], event: Event) -> None:
        """Write one event about a job, or count it into a series. Errors are logged and swallowed."""
        key = (job["metadata"]["uid"], event.type, str(event.reason), event.message)
        known = self._recorded.get(key)
        at = self._clock()
        try:
            if event.reason in ROUTINE:
                if self._is_due((job["metadata"]["uid"], event.reason), at):
                    await self._first(job, event, key)
            elif known is not None and at - known.last_at < SERIES_SECONDS:
                await self._again(known, at)
            elif self._allowed(job["metadata"]["uid"], at):
                await self._first(job, event, key)
            else:
                self.dropped += 1
        except (ApiError, Unreachable) as error:
            LOG.warning("event not recorded", reason=str(event.reason), problem=str(error)[:300])

    def _is_due(self, key: tuple[str, Reason], at: float) -> bool:
        interval = announcement_interval(self._runs(), key[0]).total_seconds()
        if at - self._routine.get(key, float("-inf")) < interval:
            return False
        self._routine.pop(key, None)
        self._routine[key] = at
        if len(self._routine) > REMEMBERED:
            self._routine.popitem(last=False)
        return True

    def _allowed(self, uid: str, at: float) -> bool:
        bucket = self._buckets.pop(uid, None) or Bucket(BURST, at)
        bucket.tokens = min(BURST, bucket.tokens + (at - bucket.at) / REFILL_SECONDS)
        bucket.at = at
        self._buckets[uid] = bucket
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    async def _first(self, job: dict[str, Any], event: Event, key: Key) -> None:
        metadata = job["metadata"]
        name = f"{metadata['name'][:200]}.{secrets.token_hex(8)}"
        body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "eventTime": micro_time(self._now()),
            "type": event.type,
            "reason": str(event.reason)[:128],
            "action": "Reconcile",
            "note": cut(event.message),
            "regarding": {
                "apiVersion": meta.API_VERSION,
                "kind": job["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion"),
            },
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
        }
        await self._client.create(EVENTS, body)
        at = self._clock()
        self._recorded[key] = Recorded(name, metadata["namespace"], 1, at, at)
        if len(self._recorded) > REMEMBERED:
            self._recorded.popitem(last=False)

    async def _again(self, known: Recorded, at: float) -> None:
        known.count += 1
        known.last_at = at
        # The second one starts the series at once; later ones are written now and then.
        if known.count > 2 and at - known.written_at < SERIES_WRITE_SECONDS:
            return
        known.written_at = at
        series = {"count": known.count, "lastObservedTime": micro_time(self._now())}
        await self._client.merge(EVENTS, known.name, {"series": series}, namespace=known.namespace)


def cut(text: str) -> str:
    """The text within the API's limit for notes, counted in bytes."""
    raw = text.encode()
    return text if len(raw) <= NOTE_LENGTH else raw[: NOTE_LENGTH - 3].decode(errors="ignore") + "…"
