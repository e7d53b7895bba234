"""Which job is looked at again when something changes, and how soon.

The caches and the inbox tell it of every change; it adds keys to the queue and decides nothing else. What ends or goes
is looked at before all else. What may be followed at once by more of the same waits a little, since each round may be
a write: pods of a gang that come up, the pods of an attempt that is over, numbers of many runs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from windlass.api.contract import Report
from windlass.api.kinds import KINDS
from windlass.api.meta import LABEL_ATTEMPT
from windlass.core.observed import controller_uid, label_number
from windlass.core.pace import progress_interval
from windlass.shell.cache import Cache
from windlass.shell.inbox import Inbox
from windlass.shell.jobs import Key, key_of
from windlass.shell.observe import Caches
from windlass.shell.queue import KeyedQueue

GATHER_SECONDS: Final = 0.2
"""How long a pod that comes up, or goes with others, may wait for those: each would be a round of its own."""
BUSY_GATHER_SECONDS: Final = 5.0
"""The same while many jobs are due: what only counts pods must not delay those that have none yet."""
MANY_RUNS: Final = 50
"""Up to so many, each report is a round: what it costs is nothing beside following closely."""

Json = dict[str, Any]


class Waker:
    """Adds keys of jobs to the queue."""

    def __init__(self, queue: KeyedQueue[Key], caches: Caches, inbox: Inbox) -> None:
        self._queue = queue
        self._caches = caches
        self._inbox = inbox

    def connect(self) -> None:
        """Hear of every change from now on."""
        self._caches.jobs.when_changed(self.on_job)
        self._caches.pods.changed = self.on_pod
        for cache in self._caches.children.values():
            cache.changed = partial(self.on_object, cache)
        self._caches.claims.changed = self.on_claim
        self._caches.nodes.cache.changed = self.on_node
        self._inbox.arrived = self.on_report

    def all_jobs(self) -> None:
        """Look at every job, and at what jobs that are gone have left behind."""
        for key in self._caches.jobs.all_keys():
            self._queue.add(key)
        for pod in self._caches.pods:
            # Its job may be gone, and then nothing else leads to it.
            if pod["metadata"].get("deletionTimestamp") and pod["metadata"].get("finalizers"):
                self._add_owner(pod)

    def on_job(self, body: Json) -> None:
        """A job changed."""
        self._queue.add(key_of(body))

    def on_report(self, report: Report, routine: bool) -> None:
        """Look at the run at once; where many run and numbers alone moved, only when they may be written."""
        key = (report.run.kind, report.run.namespace, report.run.name)
        runs = self._inbox.runs_heard()
        if routine and runs > MANY_RUNS:
            self._queue.add_after(key, progress_interval(runs, report.run.uid).total_seconds())
        else:
            self._queue.add(key, urgent=True)

    def on_object(self, cache: Cache, body: Json) -> None:
        """An object that goes is made anew at once; one that is there may be the answer to our own write."""
        metadata = body["metadata"]
        self._add_owner(body, gather=cache.get(metadata["namespace"], metadata["name"]) is not None)

    def on_pod(self, body: Json) -> None:
        """A pod that ends or goes is looked at now; those that come up, or leave with their attempt, together."""
        metadata = body["metadata"]
        present = self._caches.pods.get(metadata["namespace"], metadata["name"]) is not None
        comes_up = (body.get("status") or {}).get("phase", "Pending") in ("Pending", "Running")
        calm = present and comes_up and not metadata.get("deletionTimestamp")
        self._add_owner(body, gather=calm or self._leaves_with_others(body))

    def on_claim(self, body: Json) -> None:
        """A claim changed: any job of its namespace may wait for it."""
        for job in self._caches.jobs.find(body["metadata"]["namespace"]):
            if not (job.get("status") or {}).get("finishedAt"):
                self.on_job(job)

    def on_node(self, node: Json) -> None:
        """The runs that have pods on a node of which there is news."""
        if self._caches.nodes.is_news(node):
            for body in self._caches.nodes.pods_on(node["metadata"]["name"], self._caches.pods):
                self._add_owner(body)

    def _leaves_with_others(self, body: Json) -> bool:
        """Whether more of an attempt that is over are on their way out: nothing can be done before the last is gone."""
        uid, attempt, name = controller_uid(body), attempt_of(body), body["metadata"]["name"]
        others = (
            one
            for one in (self._caches.pods.find(uid) if uid is not None else ())
            if one["metadata"]["name"] != name and one["metadata"].get("deletionTimestamp")
        )
        return any(attempt_of(one) == attempt for one in others) and self._is_over(body, attempt)

    def _is_over(self, body: Json, attempt: int) -> bool:
        """Whether the owner of a pod, if it is still there, is at a later attempt by now."""
        metadata = body["metadata"]
        for owner in metadata.get("ownerReferences") or ():
            job = self._caches.jobs.get(key) if (key := owner_key(body, owner)) else None
            if job is not None and job["metadata"]["uid"] == owner["uid"]:
                gang = (job.get("status") or {}).get("gang") or {}
                return int(gang.get("attempt", 0)) > attempt
        return False

    def _add_owner(self, body: Json, *, gather: bool = False) -> None:
        """Look at the owner: at once and before others, or a little later together with what follows."""
        metadata = body["metadata"]
        for owner in metadata.get("ownerReferences") or ():
            if key := owner_key(body, owner):
                if gather:
                    pause = BUSY_GATHER_SECONDS if self._queue.is_busy else GATHER_SECONDS
                    self._queue.add_after(key, pause)
                else:
                    self._queue.add(key, urgent=True)


def owner_key(body: Json, owner: Json) -> Key | None:
    """The job that an owner reference of an object names as its controller; None for other objects' owners."""
    ours = owner.get("controller") and owner.get("kind") in KINDS
    return (owner["kind"], body["metadata"]["namespace"], owner["name"]) if ours else None


def attempt_of(pod: Json) -> int:
    """The attempt in a pod's labels; -1 without one."""
    return label_number(pod["metadata"].get("labels") or {}, LABEL_ATTEMPT)
