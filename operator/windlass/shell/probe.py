"""Looks now and then whether kopf still tells us about jobs: its watch cannot be asked for its age.

A cheap list of metadata is compared with the cache. A job that the list shows newer than the cache twice in
a row means that the watch is stuck; a job that the list lacks was deleted unseen and is dropped. Reads only.
"""

from __future__ import annotations

from typing import Final

from windlass.shell.cache import Name, name_of, slim_metadata, version_of
from windlass.shell.client import Client
from windlass.shell.clock import Clock, seldom
from windlass.shell.errors import ApiError, Unreachable
from windlass.shell.jobs import Jobs, Key
from windlass.shell.logging import logger
from windlass.shell.resources import JOB_KINDS, Resource

LOG = logger("probe")
INTERVAL_SECONDS: Final = 30.0
LONGEST_INTERVAL_SECONDS: Final = 50.0
"""From one list to the next, where the server takes long: one may fail before health counts the watch as stuck."""


class WatchProbe:
    """Compares the cache of jobs with the cluster."""

    def __init__(
        self,
        client: Client,
        jobs: Jobs,
        namespaces: tuple[str, ...],
        clock: Clock,
    ) -> None:
        self._client = client
        self._jobs = jobs
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._clock = clock.monotonic
        self._sleep = clock.sleep
        self._agreed_at = clock.monotonic()
        self._behind: dict[Key, int] = {}

    def age_seconds(self) -> float:
        """Seconds since the cache was last known to be complete."""
        return self._clock() - self._agreed_at

    async def run(self) -> None:
        """Compare for ever."""
        pause = INTERVAL_SECONDS
        while True:
            await self._sleep(pause)
            began = self._clock()
            try:
                await self.compare()
            except (ApiError, Unreachable) as error:
                LOG.warning("jobs not compared", problem=str(error)[:300])
            took = self._clock() - began
            pause = seldom(took, least=INTERVAL_SECONDS, most=LONGEST_INTERVAL_SECONDS - took)

    async def compare(self) -> None:
        """One comparison."""
        stuck = False
        behind: dict[Key, int] = {}
        places = [(resource, namespace) for resource in JOB_KINDS for namespace in self._namespaces]
        for resource, namespace in places:
            listing = await self._client.list(
                resource,
                namespace=namespace,
                metadata_only=True,
                slim=lambda body: {"metadata": slim_metadata(body)},
            )
            present = {name_of(body): version_of(body) for body in listing.items}
            version = int(listing.resource_version) if listing.resource_version.isdigit() else 0
            for name, newest in present.items():
                key = (resource.kind, *name)
                if self._is_behind(key, newest):
                    behind[key] = newest
                    # Behind what was there at the last comparison already: no matter of timing.
                    stuck = stuck or (key in self._behind and self._is_behind(key, self._behind[key]))
            self._drop_missing(resource, present, version, namespace)
        self._behind = behind
        if not stuck:
            self._agreed_at = self._clock()

    def _is_behind(self, key: Key, version: int) -> bool:
        known = self._jobs.get(key)
        return known is None or version_of(known) < version

    def _drop_missing(
        self, resource: Resource, present: dict[Name, int], version: int, namespace: str | None
    ) -> None:
        for body in self._jobs.of(resource.kind):
            name = name_of(body)
            outside = namespace is not None and name[0] != namespace
            if not outside and name not in present and version_of(body) <= version:
                LOG.info("job was deleted unseen", namespace=name[0], name=name[1])
                self._jobs.drop(body)
