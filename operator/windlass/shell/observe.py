"""Collects what one round may look at: from the caches, the inbox, and a few live reads.

`Observer.observe` is called by the reconciler before every decision. Live reads are rare and only of things
that no watch tells: events about pods that do not start, and strangers that hold a name we need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from windlass.api.jobs import TrainingJobSpec
from windlass.api.meta import LABEL_KIND, LABEL_RUN
from windlass.core import names, queues
from windlass.core.decision import Delete, Manifest
from windlass.core.observed import ClaimView, Job, ObjectView, Observed, PodView, Refusal, controller_uid
from windlass.core.settings import RenderSettings
from windlass.shell.cache import Cache
from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.errors import NotFound
from windlass.shell.inbox import Inbox
from windlass.shell.jobs import Jobs, Key, has_ended
from windlass.shell.nodes import Nodes
from windlass.shell.renderings import Renderings
from windlass.shell.resources import of
from windlass.shell.warnings import WARNING_SECONDS, Warnings

Json = dict[str, Any]

STARTING_SECONDS: Final = 3.0
STRANGER_SECONDS: Final = 5.0


@dataclass(slots=True)
class Caches:
    """One cache for each kind that is watched."""

    jobs: Jobs = field(default_factory=Jobs)
    # Most of what kubelets write about a pod is not kept, and is no reason for a round.
    pods: Cache = field(default_factory=lambda: Cache(index=controller_uid, only_content=True))
    claims: Cache = field(default_factory=Cache)
    nodes: Nodes = field(default_factory=Nodes)
    children: dict[str, Cache] = field(
        default_factory=lambda: {
            kind: Cache(index=controller_uid) for kind in ("ConfigMap", "Service", "NetworkPolicy")
        }
    )

    def of(self, kind: str) -> Cache:
        """The cache of a kind that rounds write."""
        known = {"Pod": self.pods, **self.children}
        return known[kind] if kind in known else self.jobs.of(kind)


@dataclass(slots=True)
class Memory:
    """What rounds of one job tell later rounds; lost at a restart without harm."""

    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    strangers: dict[tuple[str, str], tuple[float, str | None]] = field(default_factory=dict)
    warnings: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    starting: bool = False
    proven: tuple[str, float] | None = None
    """The job's resourceVersion that our own status write left behind, and when it did."""
    spec: tuple[int, TrainingJobSpec] | None = None
    """The job's spec as it was read last, with its generation. Ended jobs are seldom read and not remembered."""
    views: dict[str, tuple[str, PodView]] = field(default_factory=dict)
    """Pods as they were read last, by UID, with their resourceVersion: most rounds find all but one unchanged."""

    def job(self, body: Json) -> Job:
        """The job; its spec is read once for each generation."""
        generation = body["metadata"].get("generation", 1)
        known = self.spec[1] if self.spec is not None and self.spec[0] == generation else None
        job = Job.from_wire(body, known)
        self.spec = None if job.spec is None or has_ended(body) else (generation, job.spec)
        return job

    def pods(self, bodies: Iterable[Json]) -> list[PodView]:
        """Views of the pods that a run has now; those of others are forgotten."""
        views: dict[str, tuple[str, PodView]] = {}
        for body in bodies:
            uid, version = body["metadata"]["uid"], body["metadata"].get("resourceVersion", "")
            known = self.views.get(uid)
            views[uid] = (
                known if known is not None and known[0] == version else (version, PodView.from_wire(body))
            )
        self.views = views
        return [view for _, view in views.values()]


class Observer:
    """Builds Observed values."""

    def __init__(
        self,
        client: Client,
        caches: Caches,
        inbox: Inbox,
        *,
        settings: Callable[[], RenderSettings],
        clock: Clock,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.listening_since: datetime | None = None
        self.caches = caches
        self.inbox = inbox
        self._client = client
        self._settings = settings
        self._is_busy = is_busy
        self._clock = clock.monotonic
        self._now = clock.now
        self._memories: dict[str, Memory] = {}
        self._renderings = Renderings()
        self._warnings = Warnings(client, clock)

    def memory(self, uid: str) -> Memory:
        """What is remembered of a run."""
        return self._memories.setdefault(uid, Memory())

    def forget(self, uid: str) -> None:
        """The run is gone."""
        self._memories.pop(uid, None)
        self._renderings.forget(uid)

    def must_look_again(self, uid: str) -> bool:
        """Whether something is awaited that no watch tells."""
        memory = self.memory(uid)
        return bool(memory.warnings or memory.strangers or memory.starting)

    async def observe(self, job: Job) -> Observed:
        """What is seen of one run."""
        memory, settings = self.memory(job.uid), self._settings()
        bodies = self.caches.pods.find(job.uid)
        pods = memory.pods(bodies)
        await self._look_for_warnings(job, pods, memory)
        await self._look_at_strangers(job, memory)
        report, heard_at = self.inbox.report(job.uid), self.inbox.heard_at(job.uid)
        rendered = self._renderings.of(job, settings)
        return Observed(
            pods=tuple(with_warning(pod, memory) for pod in pods),
            objects=(*self._objects(job, rendered or ()), *strangers(memory)),
            claims=self._claims(job, settings),
            report=report,
            heard_at=heard_at,
            refusals=tuple(memory.refusals.values()),
            nodes=self.caches.nodes.of(bodies),
            listening_since=self.listening_since,
            runs_heard=self.inbox.runs_heard(),
            busy=self._is_busy(),
            rendered=rendered,
        )

    def _objects(self, job: Job, rendered: tuple[Manifest, ...]) -> Iterable[ObjectView]:
        """The run's own objects. One whose content was changed by somebody counts as having no digest."""
        wanted = {(item["kind"], item["metadata"]["name"]): item for item in rendered}
        for kind, cache in self.caches.children.items():
            for body in cache.find(job.uid):
                view = ObjectView.from_wire(kind, body)
                intent = wanted.get((kind, view.name))
                if intent is not None and view.digest is not None and has_drifted(intent, body):
                    view = replace(view, digest=None)
                yield view

    def _claims(self, job: Job, settings: RenderSettings) -> tuple[ClaimView, ...]:
        if job.spec is None:
            return ()
        wanted = names.unique((*names.all_claims(job.spec), *(mount.claim for mount in settings.host_root)))
        found = (self.caches.claims.get(job.namespace, name) for name in wanted)
        return tuple(ClaimView.from_wire(body) for body in found if body is not None)

    def abandoned(self, key: Key, present: str = "") -> list[Delete]:
        """Workloads of Kueue's that jobs of this name which are gone have left behind with their pods.

        `present` is the UID of the job that has the name now.
        """
        runs: dict[str, list[PodView]] = {}
        for uid, body in self._formers(key, present):
            if body["metadata"].get("deletionTimestamp"):
                runs.setdefault(uid, []).append(PodView.from_wire(body))
        return [
            delete
            for uid, pods in sorted(runs.items())
            for delete in queues.abandoned(key[2], uid, pods, is_unplaced)
        ]

    def has_formers(self, key: Key, present: str) -> bool:
        """Whether pods of a former job of this name are there, which Kueue may have to be made to let go."""
        return any(True for _ in self._formers(key, present))

    def _formers(self, key: Key, present: str) -> Iterator[tuple[str, Json]]:
        """UIDs and pods of jobs that had this name; none where no queue would keep them."""
        if not self._settings().kueue:
            return
        kind, namespace, name = key
        for body in self.caches.pods:
            metadata = body["metadata"]
            uid = controller_uid(body)
            place = tuple(metadata["labels"].get(label) for label in (LABEL_KIND, LABEL_RUN))
            ours = metadata.get("namespace") == namespace and place == (kind, name)
            if uid is not None and uid != present and ours:
                yield uid, body

    # --- live reads ---------------------------------------------------------------------------

    async def _look_for_warnings(self, job: Job, pods: list[PodView], memory: Memory) -> None:
        """Read events of pods that are placed but do not start: a mount's failure is told nowhere else."""
        present = {pod.uid for pod in pods}
        memory.starting = any(is_placed_and_waiting(pod) for pod in pods)
        for uid in set(memory.warnings) - present:
            del memory.warnings[uid]
        for pod in pods:
            if not self._is_slow_to_start(pod):
                memory.warnings.pop(pod.uid, None)
                continue
            at, _ = memory.warnings.get(pod.uid, (float("-inf"), None))
            if self._clock() - at >= WARNING_SECONDS:
                memory.warnings[pod.uid] = (self._clock(), await self._warnings.about(job.namespace, pod.uid))

    def _is_slow_to_start(self, pod: PodView) -> bool:
        if pod.created_at is None or not is_placed_and_waiting(pod):
            return False
        return (self._now() - pod.created_at).total_seconds() >= STARTING_SECONDS

    async def _look_at_strangers(self, job: Job, memory: Memory) -> None:
        """Read again the objects of others that held a name we need: they may be gone."""
        for (kind, name), (at, _) in list(memory.strangers.items()):
            if self._clock() - at < STRANGER_SECONDS:
                continue
            try:
                body = await self._client.get(of(kind), name, namespace=job.namespace)
            except NotFound:
                del memory.strangers[kind, name]
                continue
            if controller_uid(body) == job.uid:
                del memory.strangers[kind, name]
            else:
                memory.strangers[kind, name] = (self._clock(), controller_uid(body))


def is_unplaced(pod: PodView) -> bool:
    """Whether a pod of a job that is gone will never run; one that has a node is waited for."""
    return pod.node is None


def with_warning(pod: PodView, memory: Memory) -> PodView:
    """The pod with the newest warning event about it, where one was looked for."""
    _, warning = memory.warnings.get(pod.uid, (0.0, None))
    return pod if warning is None else replace(pod, warning=warning)


def is_placed_and_waiting(pod: PodView) -> bool:
    """Whether a node has the pod and has not started its container."""
    return pod.phase == "Pending" and pod.node is not None


def strangers(memory: Memory) -> Iterable[ObjectView]:
    """Objects of others under names that we need."""
    for (kind, name), (_, owner_uid) in memory.strangers.items():
        yield ObjectView(kind=kind, name=name, owner_uid=owner_uid)


def has_drifted(intent: Manifest, body: Json) -> bool:
    """Whether content differs from the rendering of the same digest. An immutable ConfigMap cannot."""
    if body.get("immutable"):
        return False
    if (body["metadata"].get("annotations") or {}) != (intent["metadata"].get("annotations") or {}):
        # Another rendering: the digests differ, which the core sees by itself.
        return False
    parts = [field for field in ("spec", "data") if field in intent]
    labels = intent["metadata"].get("labels") or {}
    same = all(contains(body.get(part), intent[part]) for part in parts)
    return not (same and contains(body["metadata"].get("labels"), labels))


def is_as_rendered(intent: Manifest, body: Json) -> bool:
    """Whether an object holds what was rendered, by its digest and by its content."""
    notes = body["metadata"].get("annotations") or {}
    wanted = intent["metadata"].get("annotations") or {}
    same = notes.get(names.ANNOTATION_DIGEST) == wanted.get(names.ANNOTATION_DIGEST)
    return same and not has_drifted(intent, body)


def contains(actual: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; the server may have added defaults. Lists count item by item."""
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(
            key in actual and contains(actual[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(actual, list)
            and len(actual) == len(wanted)
            and all(contains(one, other) for one, other in zip(actual, wanted, strict=True))
        )
    return bool(actual == wanted)
