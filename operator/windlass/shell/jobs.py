"""The jobs of all kinds, a cache for each: two kinds may have a job of one name in one namespace.

kopf's handlers and the answers to our own writes fill it, everything else looks jobs up in it by kind, namespace and
name, or goes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from windlass.shell.cache import Cache
from windlass.shell.resources import JOB_KINDS

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace and name of a job."""


def in_namespace(body: Json) -> str | None:
    """The namespace, for looking up jobs by it."""
    return str(body["metadata"].get("namespace", ""))


def has_ended(job: Json) -> bool:
    """Whether a job is only kept for whoever asks how it went."""
    return bool((job.get("status") or {}).get("finishedAt"))


def key_of(job: Json) -> Key:
    """Kind, namespace and name."""
    return job["kind"], job["metadata"]["namespace"], job["metadata"]["name"]


class Jobs:
    """One cache for each kind that trains."""

    def __init__(self) -> None:
        self._caches = {resource.kind: Cache(index=in_namespace, packs=has_ended) for resource in JOB_KINDS}

    def __len__(self) -> int:
        return sum(map(len, self._caches.values()))

    def __iter__(self) -> Iterator[Json]:
        for cache in self._caches.values():
            yield from cache

    def of(self, kind: str) -> Cache:
        """The cache of one kind; KeyError names one that is not ours."""
        return self._caches[kind]

    def all_keys(self) -> list[Key]:
        """Of all jobs."""
        return [(kind, *name) for kind, cache in self._caches.items() for name in cache.names()]

    def get(self, key: Key) -> Json | None:
        """The job, or None."""
        kind, namespace, name = key
        return self._caches[kind].get(namespace, name)

    def find(self, namespace: str) -> list[Json]:
        """Jobs of a namespace."""
        return [body for cache in self._caches.values() for body in cache.find(namespace)]

    def upsert(self, body: Json, *, quiet: bool = False) -> bool:
        """See `Cache.upsert`."""
        return self._caches[body["kind"]].upsert(body, quiet=quiet)

    def drop(self, body: Json) -> None:
        """See `Cache.drop`."""
        self._caches[body["kind"]].drop(body)

    def when_changed(self, hear: Callable[[Json], None]) -> None:
        """Who hears of each job that was added, changed or dropped."""
        for cache in self._caches.values():
            cache.changed = hear
