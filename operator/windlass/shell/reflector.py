"""Keeps a cache equal to one kind of objects in the cluster: list once, then watch.

One reflector per kind and watched namespace. Bookmarks move the version on, 410 means listing again, a
silent stream is cut by the client and opened again. It never writes, and it never gives up: errors pause it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from windlass.shell.cache import Cache
from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Gone, Silent, Unreachable
from windlass.shell.logging import logger
from windlass.shell.resources import Resource

LOG = logger("reflector")
LONGEST_PAUSE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are reflected, and what is kept of each. No namespace means all of them."""

    resource: Resource
    slim: Callable[[dict[str, Any]], dict[str, Any]]
    labels: str = ""
    namespace: str | None = None


class Reflector:
    """List and watch of one kind into one cache."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        selection: Selection,
        clock: Clock,
    ) -> None:
        self.resource = selection.resource
        self.synced = asyncio.Event()
        self.heard_at = clock.monotonic()
        self._client = client
        self._cache = cache
        self._slim = selection.slim
        self._labels = selection.labels
        self._namespace = selection.namespace
        self._clock = clock.monotonic
        self._sleep = clock.sleep
        self._since = ""
        self._failures = 0

    def age_seconds(self) -> float:
        """Seconds since the server last said anything on this watch, bookmarks included."""
        return self._clock() - self.heard_at

    async def run(self) -> None:
        """List and watch for ever."""
        while True:
            try:
                await self.once()
                self._failures = 0
            except (Gone, Silent):
                # A server without progress notifications sends no bookmarks for a kind on which nothing happens,
                # so silence alone is no fault: the next list tells, and counts as an answer.
                self._since = ""
            except (ApiError, Unreachable, TimeoutError, ValueError) as error:
                self._failures += 1
                pause = self.pause()
                LOG.warning(
                    "watch broke",
                    kind=self.resource.kind,
                    problem=str(error)[:300],
                    pause_seconds=round(pause, 2),
                )
                await self._sleep(pause)

    def pause(self) -> float:
        """Seconds to wait after a failure."""
        return float(
            min(0.25 * 2 ** min(self._failures, 10), LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0)
        )

    async def once(self) -> None:
        """List if there is no version to go on from, then watch until the stream ends."""
        if not self._since:
            await self.list()
        stream = self._client.watch(
            self.resource, namespace=self._namespace, labels=self._labels, since=self._since
        )
        # Opening counts as hearing only once the first line is there; the list before it was an answer too.
        async for event in stream:
            self.heard_at = self._clock()
            self._failures = 0
            self.take(event)

    async def list(self) -> None:
        """Replace the cache by a complete list."""
        listing = await self._client.list(
            self.resource, namespace=self._namespace, labels=self._labels, slim=self._slim
        )
        version = int(listing.resource_version) if listing.resource_version.isdigit() else 0
        self._cache.replace(listing.items, version=version, namespace=self._namespace)
        self._since = listing.resource_version
        self.heard_at = self._clock()
        self.synced.set()

    def take(self, event: dict[str, Any]) -> None:
        """Put one event into the cache and move the version on."""
        body = event.get("object") or {}
        kind = event.get("type")
        if kind in ("ADDED", "MODIFIED"):
            self._cache.upsert(self._slim(body))
        elif kind == "DELETED":
            self._cache.drop(self._slim(body))
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version:
            self._since = str(version)
