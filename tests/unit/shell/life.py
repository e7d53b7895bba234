"""One life of an operator in a unit test: real caches, observer, actor and `decide` against the fake API.

A life begins with empty memory and fills its caches by lists, as a process does after a crash. `settle` runs
rounds until nothing is due; delayed keys wait for the test to move the clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi
from windlass.api.kinds import KINDS
from windlass.core.reconcile import decide
from windlass.core.settings import RenderSettings
from windlass.shell.act import Actor
from windlass.shell.cache import slim_child, slim_claim, slim_job, slim_pod
from windlass.shell.events import Recorder
from windlass.shell.inbox import Inbox
from windlass.shell.metrics import Metrics
from windlass.shell.observe import Caches, Key, Observer
from windlass.shell.queue import KeyedQueue
from windlass.shell.reconciler import Reconciler

SETTINGS = RenderSettings(
    workload_image="workload:1",
    report_url="https://windlass-reports.windlass-system.svc:8443/v1/reports",
    report_server_name="windlass-reports.windlass-system.svc",
    ca_pem="CA",
)
KEY: Key = ("FineTuneJob", "team", "ft")
SPEC: dict[str, Any] = {
    "model": {"uri": "pvc://models/tiny"},
    "data": {"sources": [{"uri": "pvc://data/train.jsonl"}]},
    "training": {"globalBatchSize": 4, "maxSteps": 40},
    "resources": {"nodes": 2},
    "checkpoint": {"store": "pvc://checkpoints"},
}


def world(api: FakeApi, **spec: Any) -> dict[str, Any]:
    """A namespace with all claims and one job."""
    for name in ("models", "data", "checkpoints"):
        status = {"phase": "Bound", "accessModes": ["ReadWriteMany"]}
        api.put("persistentvolumeclaims", {"metadata": {"name": name, "namespace": "team"}, "status": status})
    return api.put("finetunejobs", {"metadata": {"name": "ft", "namespace": "team"}, "spec": SPEC | spec})


class Life:
    """From start to crash."""

    def __init__(self, api: FakeApi, hand: Hand, **options: Any) -> None:
        self.api, self.hand = api, hand
        self.client = api.client(**options)
        self.caches, self.inbox, self.metrics = Caches(), Inbox(hand.now), Metrics()
        self.queue: KeyedQueue[Key] = KeyedQueue(hand.monotonic)
        clock = hand.clock()
        self.observer = Observer(self.client, self.caches, self.inbox, settings=lambda: SETTINGS, clock=clock)
        self.reconciler = Reconciler(
            queue=self.queue,
            observer=self.observer,
            actor=Actor(
                self.client, self.caches, Recorder(self.client, instance="op", clock=clock), clock=clock
            ),
            metrics=self.metrics,
            decide=lambda job, seen: decide(job, seen, hand.now(), SETTINGS),
            clock=clock,
        )
        self.load()

    def load(self) -> None:
        """What lists and watches would bring by now."""
        kinds = [
            *((kind.plural, self.caches.jobs.of(name), slim_job) for name, kind in KINDS.items()),
            ("pods", self.caches.pods, slim_pod),
            ("persistentvolumeclaims", self.caches.claims, slim_claim),
            ("configmaps", self.caches.children["ConfigMap"], slim_child),
            ("services", self.caches.children["Service"], slim_child),
            ("networkpolicies", self.caches.children["NetworkPolicy"], slim_child),
        ]
        for plural, cache, slim in kinds:
            bodies = [
                slim(copy.deepcopy(body)) for (kind, _, _), body in self.api.objects.items() if kind == plural
            ]
            cache.replace(bodies, version=self.api.version)

    async def settle_without_load(self) -> int:
        """Rounds until nothing is due; the caches see only what the operator wrote itself."""
        return await self.settle(load=lambda: None)

    async def settle(self, rounds: int = 30, load: Callable[[], None] | None = None, job: Key = KEY) -> int:
        """Rounds of a job until nothing is due now; returns how many wrote."""
        wrote = 0
        self.queue.add(job)
        for _ in range(rounds):
            key = self.queue.take()
            if key is None:
                return wrote
            before = self.client.writes
            try:
                await self.reconciler.attempt(key)
            finally:
                self.queue.done(key)
            if self.client.writes != before:
                wrote += 1
                # Every write is seen by a watch, which brings the key back.
                (load or self.load)()
                self.queue.add(key)
        raise AssertionError("the run never comes to rest")

    async def close(self) -> None:
        await self.client.close()
