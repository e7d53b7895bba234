"""The operator as the world sees it: observe, decide, act, with the three perturbations built in.

`crash_after` stops it right after its k-th write and loses its memory. `stale_round` serves that round
an old read. `lost_round` makes it sleep through that wake-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from perturb.world import Api, Body, ConflictError, Gang, QuotaError
from unit.core.builders import SETTINGS, UID
from windlass.api.contract import Orders, Report
from windlass.api.meta import Reason
from windlass.core.decision import Decision, Delete
from windlass.core.judges.gang import PARTIAL_REFUSALS
from windlass.core.observed import ClaimView, Job, NodeView, ObjectView, Observed, PodView, Refusal
from windlass.core.queues import abandoned
from windlass.core.reconcile import decide
from windlass.shell.renderings import Renderings

SHARED_KINDS = ("ConfigMap", "Service", "NetworkPolicy")
WATCHING = replace(SETTINGS, health_taints=("sick",), kueue=True)
RESYNC = timedelta(seconds=20)
Snapshot = dict[tuple[str, str], Body]


class CrashError(Exception):
    """The operator's process ended."""


@dataclass(frozen=True)
class Perturbation:
    """At most one fault of the operator; the index counts writes or rounds from 0."""

    kind: Literal["none", "crash", "stale-children", "stale-all", "lost"] = "none"
    index: int = -1


class Operator:
    """One operator process after another."""

    def __init__(self, api: Api, gang: Gang, perturbation: Perturbation) -> None:
        self.api, self.gang, self.perturbation = api, gang, perturbation
        self.writes = 0
        self.rounds = 0
        self.status_writes = 0
        self.wake_at: datetime | None = None
        self.seen_version = -1
        self.previous: Snapshot = {}
        self.is_away = False
        self.restart()

    def __getstate__(self) -> dict[str, Any]:
        """Without what it has rendered: that follows from the rest, and would be most of the bytes."""
        return self.__dict__ | {"renderings": Renderings()}

    def restart(self) -> None:
        """What a new process knows: nothing."""
        self.renderings = Renderings()
        self.report: Report | None = None
        self.heard_at: datetime | None = None
        self.orders = Orders()
        self.refused: Refusal | None = None
        self.listening_since = self.api.now
        self.seen_version = -1

    def wake(self) -> None:
        """Everything that the operator does in one tick of the world."""
        if self.is_away:
            self.gang.report = None
            return
        if self.gang.report is not None:
            self.report, self.heard_at, self.gang.report = self.gang.report, self.api.now, None
            self.seen_version = -1
            answer = True
        else:
            answer = False
        for _ in range(12):
            due = self.wake_at is not None and self.api.now >= self.wake_at
            if self.seen_version == self.api.version and not due:
                break
            self.seen_version = self.api.version
            self.wake_at = self.api.now + RESYNC
            if not self.is_chosen("lost", self.rounds):
                self.round()
            else:
                self.rounds += 1
        else:
            raise AssertionError("the operator does not come to rest")
        if answer:
            self.gang.obey(self.orders)

    @property
    def has_been_struck(self) -> bool:
        """Whether the perturbation is behind it."""
        counter = self.writes if self.perturbation.kind == "crash" else self.rounds
        return self.perturbation.kind != "none" and counter > self.perturbation.index

    def state(self) -> tuple[Any, ...]:
        """What it remembers. Since when it listens is told by every report that it has heard since."""
        since = self.listening_since if self.heard_at is None else None
        return self.report, self.heard_at, self.orders, self.wake_at, self.refused, since

    def is_chosen(self, kind: str, index: int) -> bool:
        return self.perturbation.kind == kind and self.perturbation.index == index

    def round(self) -> None:
        fresh = self.api.objects
        jobs = fresh
        children = fresh
        if self.is_chosen("stale-children", self.rounds):
            children = self.previous
        elif self.is_chosen("stale-all", self.rounds):
            jobs = children = self.previous
        self.rounds += 1
        body = jobs.get(("FineTuneJob", "triage"))
        if children is self.previous:
            self.seen_version = -1  # the cache catches up right afterwards
        try:
            if body is not None:
                job = Job.from_wire(body)
                decision = decide(job, self.observe(job, children), self.api.now, WATCHING)
                self.orders = decision.orders
                if decision.requeue_after_seconds is not None:
                    wait = timedelta(seconds=decision.requeue_after_seconds)
                    self.wake_at = min(self.wake_at or self.api.now + wait, self.api.now + wait)
                self.act(job, decision, children)
            else:
                self.orders = Orders(action="Stop", reason="deleted")
                self.release(children)
        except CrashError:
            self.restart()
        except ConflictError:
            self.seen_version = -1

    def observe(self, job: Job, objects: Snapshot) -> Observed:
        bodies = list(objects.values())
        return Observed(
            pods=tuple(PodView.from_wire(body) for body in bodies if body["kind"] == "Pod"),
            objects=tuple(
                ObjectView.from_wire(body["kind"], body) for body in bodies if body["kind"] in SHARED_KINDS
            ),
            claims=tuple(
                ClaimView.from_wire(body) for body in bodies if body["kind"] == "PersistentVolumeClaim"
            ),
            nodes=tuple(NodeView.from_wire(body) for body in bodies if body["kind"] == "Node"),
            report=self.report,
            heard_at=self.heard_at,
            listening_since=self.listening_since,
            refusals=(self.refused,) if self.refused is not None else (),
            rendered=self.renderings.of(job, WATCHING),
        )

    def act(self, job: Job, decision: Decision, seen: Snapshot) -> None:
        if any(("Pod", name) in self.api.objects for name in decision.confirm_absent):
            raise ConflictError("a pod that was believed to be gone is there")
        if decision.status is not None:
            self.api.write_status(job.name, decision.status, job.resource_version)
            self.status_writes += 1
            self.wrote()
        for item in decision.applies:
            self.api.apply(dict(item))
            self.wrote()
        for item in decision.creates:
            try:
                self.api.create(dict(item))
            except ConflictError:
                self.check_owner(dict(item))
            except QuotaError as error:
                # As the shell does: the rest would be refused alike, and the count goes on. It begins near its
                # limit, so that the story need not sit through the pauses before.
                name = item["metadata"]["name"]
                count = self.refused.count + 1 if self.refused else PARTIAL_REFUSALS - 1
                self.refused = Refusal("Pod", name, Reason.QUOTA_EXCEEDED, str(error), self.api.now, count)
                self.seen_version = -1
                break
            self.wrote()
        else:
            self.refused = None if decision.creates else self.refused
        for each in decision.deletes:
            if not each.force and self.has_changed(each, seen):
                raise ConflictError(f"{each.name} has changed since it was seen")
            self.api.delete(each.kind, each.name, each.uid, force=each.force)
            self.wrote()

    def release(self, seen: Snapshot) -> None:
        """What the shell does about the pods of a job that is gone."""
        pods = [PodView.from_wire(body) for body in seen.values() if body["kind"] == "Pod"]
        leaving = [pod for pod in pods if pod.deletion_timestamp is not None]
        for each in abandoned("triage", UID, leaving, lambda pod: pod.node is None):
            self.api.delete(each.kind, each.name, each.uid)
            self.wrote()

    def has_changed(self, delete: Delete, seen: Snapshot) -> bool:
        """Whether the precondition on the version fails, as the API server judges it for the shell."""
        key = delete.kind, delete.name
        known, present = seen.get(key), self.api.objects.get(key)
        if known is None or present is None or known["metadata"]["uid"] != delete.uid:
            return False
        return bool(known["metadata"]["resourceVersion"] != present["metadata"]["resourceVersion"])

    def check_owner(self, item: Body) -> None:
        found = self.api.objects[item["kind"], item["metadata"]["name"]]["metadata"]
        owners: list[Any] = found["ownerReferences"]
        assert owners[0]["uid"] == item["metadata"]["ownerReferences"][0]["uid"]

    def wrote(self) -> None:
        self.writes += 1
        if self.is_chosen("crash", self.writes - 1):
            raise CrashError
