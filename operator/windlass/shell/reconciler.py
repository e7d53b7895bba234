"""One round for one job: observe, decide, act; and the workers that run rounds.

Workers run on the leader only. A round that fails is retried by the queue, later each time; a round that
finds its view stale is run again at once. Timers come back as delayed keys, recomputed each round, so that
a restart loses none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from windlass.core.decision import Decision
from windlass.core.observed import Job, Observed
from windlass.shell.act import Actor, Stale
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Conflict, Unreachable
from windlass.shell.jobs import Key
from windlass.shell.logging import logger
from windlass.shell.metrics import Metrics
from windlass.shell.observe import Observer
from windlass.shell.queue import Closed, KeyedQueue
from windlass.shell.warnings import WARNING_SECONDS

LOG = logger("reconciler")

WORKERS: Final = 32
"""Rounds at a time. They wait for the API server most of their time: with eight, changes queued behind slow writes."""
ROUND_SECONDS: Final = 120.0
STALE_SECONDS: Final = 0.2
SOONEST_SECONDS: Final = 0.1
"""No timer is sooner than that: a decision that wants another look at once must not keep a worker busy for good."""

Decide = Callable[[Job, Observed], Decision]
"""`core.reconcile.decide` with the present time and settings bound."""


class Reconciler:
    """Runs rounds."""

    def __init__(
        self,
        *,
        queue: KeyedQueue[Key],
        observer: Observer,
        actor: Actor,
        metrics: Metrics,
        decide: Decide,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._caches = observer.caches
        self._observer = observer
        self._actor = actor
        self._inbox = observer.inbox
        self._metrics = metrics
        self._decide = decide
        self._clock = clock.monotonic
        self._uids: dict[Key, dict[str, Any]] = {}
        self._followers: set[Key] = set()
        """Jobs whose name another may have had before, as long as that one's pods are there."""

    async def work(self) -> None:
        """Take keys and run rounds until the queue is closed."""
        while True:
            try:
                key = await self._queue.get()
            except Closed:
                return
            try:
                await self.attempt(key)
            finally:
                self._queue.done(key)
            # A round that only looks never waits for anything, and neither does the queue while it has keys.
            await asyncio.sleep(0)

    async def run(self, workers: int = WORKERS) -> None:
        """Run workers until the queue is closed."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self.work())

    async def attempt(self, key: Key) -> None:
        """One round; its outcome goes to the queue and the metrics."""
        began = self._clock()
        result = await self._guard(key, self.round)
        self._metrics.reconciles.labels(result).inc()
        self._metrics.reconcile_seconds.observe(self._clock() - began)

    async def _guard(self, key: Key, body: Callable[[Key], Awaitable[str]]) -> str:
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                result = await body(key)
        except (Stale, Conflict):
            # Our own write or somebody's came between: the watch brings the news within moments.
            self._queue.add_after(key, STALE_SECONDS)
            return "conflict"
        except (ApiError, Unreachable, TimeoutError) as error:
            pause = self._queue.retry(key)
            LOG.warning(
                "round failed",
                namespace=key[1],
                name=key[2],
                problem=str(error)[:500],
                retry_seconds=round(pause, 2),
            )
            return "error"
        except Exception as error:  # one broken job must not stop the others
            pause = self._queue.retry(key)
            LOG.error(
                "round broke", error=error, namespace=key[1], name=key[2], retry_seconds=round(pause, 2)
            )
            return "error"
        self._queue.forget(key)
        return result

    async def round(self, key: Key) -> str:
        """Observe, decide and act for one job; the result's name for the metrics."""
        body = self._caches.jobs.get(key)
        self._leave_former(key, body)
        if body is None:
            return await self._release_former(key)
        if key in self._followers:
            # The garbage collector may come to the former's pods long after its name was taken again.
            await self._release_former(key, present=body["metadata"]["uid"])
            if not self._observer.has_formers(key, body["metadata"]["uid"]):
                self._followers.discard(key)
        memory = self._observer.memory(body["metadata"]["uid"])
        job = memory.job(body)
        seen = await self._observer.observe(job)
        decided_at = self._clock()
        decision = self._decide(job, seen)
        self._inbox.set_orders(job.uid, decision.orders)
        done = await self._actor.act(body, decision, memory)
        self._schedule(key, job.uid, decision, again=done.again, late_seconds=self._clock() - decided_at)
        newest = self._caches.jobs.get(key) if done.writes else body
        if newest is not None:
            self._metrics.count_recoveries(newest)
        return "written" if done.writes else "done"

    async def _release_former(self, key: Key, present: str = "") -> str:
        """A job is gone. Pods that never got a node may wait for Kueue, and Kueue for others of their group."""
        deletes = self._observer.abandoned(key, present)
        for delete in deletes:
            await self._actor.release(key[1], delete)
        return "written" if deletes else "gone"

    def _schedule(self, key: Key, uid: str, decision: Decision, *, again: bool, late_seconds: float) -> None:
        if again:
            # What was just begun is finished before the next is begun: what it proved is still fresh.
            self._queue.add(key, urgent=True)
        if decision.requeue_after_seconds is not None:
            # Counted from the decision: its writes may have taken long, and no round need follow them.
            wait = decision.requeue_after_seconds - late_seconds
            self._queue.add_after(key, max(wait, SOONEST_SECONDS))
        if self._observer.must_look_again(uid):
            self._queue.add_after(key, WARNING_SECONDS)

    def _leave_former(self, key: Key, body: dict[str, Any] | None) -> None:
        """Forget what was remembered of a job of this name that is gone."""
        former = self._uids.get(key)
        if former is not None and (body is None or body["metadata"]["uid"] != former["metadata"]["uid"]):
            self._inbox.forget(former["metadata"]["uid"])
            self._observer.forget(former["metadata"]["uid"])
            self._metrics.forget(former)
            del self._uids[key]
        if body is None:
            self._followers.discard(key)
        elif former is None or former["metadata"]["uid"] != body["metadata"]["uid"]:
            self._followers.add(key)
        if body is not None:
            identity = {name: body["metadata"][name] for name in ("namespace", "name", "uid")}
            self._uids[key] = {"kind": body["kind"], "metadata": identity}
