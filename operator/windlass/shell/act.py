"""Carries out a decision: status first, then objects, pods, deletes and events.

`Actor.act` is called by the reconciler once per round. Each write is safe to repeat and safe to lose, so a
crash between two of them is just another state that the next round observes. It judges nothing; what the API
server refuses is remembered for the next decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from windlass.api.meta import Reason
from windlass.core.decision import Decision, Delete, Manifest
from windlass.core.observed import Refusal, controller_uid
from windlass.shell.cache import slim_child, slim_job, slim_pod
from windlass.shell.client import Client, Json
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Conflict, Forbidden, Invalid, NotFound, NotOurs
from windlass.shell.logging import logger
from windlass.shell.notices import NoticeBoard
from windlass.shell.observe import Caches, Memory, is_as_rendered
from windlass.shell.ownership import as_applied
from windlass.shell.postbox import Recorder
from windlass.shell.resources import PODS, WORKLOADS, Resource, of
from windlass.shell.together import LARGEST_BATCH, batches, together

LOG = logger("act")

QUOTA: Final = "exceeded quota"
LIMIT: Final = re.compile(r"(maximum|minimum|must specify) .*(per (Pod|Container)|for)|failed quota")
SECURITY: Final = "violates PodSecurity"
DENIED: Final = "denied"
RIGHTS: Final = re.compile(r"cannot \w+ resource")
NAMESPACE_ENDS: Final = "is being terminated"
PROOF_SECONDS: Final = 2.0
"""How long a status write of ours proves that the job at its version is the job as it is."""


class Stale(Exception):
    """The decision was made on an old view; observe and decide again."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a round did. `again` asks for another round at once."""

    writes: int = 0
    again: bool = False


class Actor:
    """Writes to the API server and puts the answers into the caches."""

    def __init__(
        self,
        client: Client,
        caches: Caches,
        recorder: Recorder,
        *,
        clock: Clock,
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._noticeboard = NoticeBoard(client, caches, clock=clock)
        self._clock = clock.monotonic
        self._now = clock.now

    async def act(self, job: Json, decision: Decision, memory: Memory) -> Done:
        """Do what was decided about `job`, in order. Stale if the world has moved on."""
        await self._confirm_absent(job, decision.confirm_absent)
        before = self._client.writes
        renewed, written = False, False
        if decision.status is not None and decision.status != job.get("status"):
            renewed = members(decision.status) != members(job.get("status") or {})
            job, written = await self._write_status(job, decision), True
            memory.proven = job["metadata"]["resourceVersion"], self._clock()
        if renewed:
            # Tickets are given out by this write alone; pods follow from what is stored then.
            await self._tell(job, decision)
            return Done(self._client.writes - before, again=True)
        # A status that was just written at the version that was seen has checked that already.
        if decision.creates and not written and not self._is_proven(job, memory):
            await self._check_current(job)
        refused = await self._apply_all(job, decision.applies, memory)
        if not refused:
            refused = await self._create_all(job, decision.creates, memory)
        await self._delete_all(job, decision.deletes)
        await self._tell(job, decision)
        await self._noticeboard.post(job, decision.annotates)
        return Done(self._client.writes - before, again=refused)

    async def _tell(self, job: Json, decision: Decision) -> None:
        for event in decision.events:
            await self._recorder.record(job, event)

    async def _confirm_absent(self, job: Json, absent: Iterable[str]) -> None:
        for name in absent:
            try:
                body = await self._client.get(PODS, name, namespace=job["metadata"]["namespace"])
            except NotFound:
                continue
            self._caches.pods.upsert(slim_pod(body))
            raise Stale

    async def _write_status(self, job: Json, decision: Decision) -> Json:
        """The job as stored. What a leader told is no reason for another round; all else is."""
        assert decision.status is not None  # noqa: S101 - the caller has looked
        try:
            answer = slim_job(await self._client.replace_status(of(job["kind"]), job, decision.status))
        except NotFound:
            self._caches.jobs.drop(job)
            raise Stale from None
        self._caches.jobs.upsert(answer, quiet=decision.only_tells)
        return answer

    def _is_proven(self, job: Json, memory: Memory) -> bool:
        """Whether the version that was seen is the one that our write of a moment ago made."""
        version, at = memory.proven or ("", 0.0)
        return job["metadata"]["resourceVersion"] == version and self._clock() - at < PROOF_SECONDS

    async def _check_current(self, job: Json) -> None:
        """Pods are made only for the job as it is now: a cache may be behind, a job may be on its way out."""
        metadata = job["metadata"]
        try:
            live = await self._client.get(of(job["kind"]), metadata["name"], namespace=metadata["namespace"])
        except NotFound:
            self._caches.jobs.drop(job)
            raise Stale from None
        slim = slim_job(live)
        self._caches.jobs.upsert(slim)
        same = live["metadata"]["uid"] == metadata["uid"] and not live["metadata"].get("deletionTimestamp")
        if not same or members(live.get("status") or {}) != members(job.get("status") or {}):
            raise Stale

    # --- objects ------------------------------------------------------------------------------

    async def _apply_all(self, job: Json, manifests: Iterable[Manifest], memory: Memory) -> bool:
        async def one(manifest: Manifest) -> bool:
            body = dict(manifest)
            kind, name = body["kind"], body["metadata"]["name"]
            try:
                await self._apply(job, body, memory)
            except (Forbidden, Invalid) as error:
                self._remember(memory, kind, name, error)
                return True
            except NotOurs:
                return True
            memory.refusals.pop((kind, name), None)
            return False

        refused = False
        for batch in batches(tuple(manifests), first=LARGEST_BATCH):
            refused = any(await together(one, batch)) or refused
        return refused

    async def _apply(self, job: Json, body: Json, memory: Memory) -> None:
        """Make an object that is not there, correct one that is. The caches show labelled objects only."""
        kind, metadata = body["kind"], body["metadata"]
        cache, resource = self._caches.children[kind], of(kind)
        try:
            if cache.get(metadata["namespace"], metadata["name"]) is None:
                # A POST costs the server half of an apply, and finds out by itself whose the name is.
                made = await self._client.create(resource, body)
                cache.upsert(slim_child(made))
                if body.get("immutable") or is_as_rendered(body, made):
                    return
            cache.upsert(slim_child(await self._correct(job, resource, body)))
        except NotOurs as error:
            memory.strangers[kind, metadata["name"]] = (self._clock(), error.owner_uid)
            raise

    async def _correct(self, job: Json, resource: Resource, body: Json) -> Json:
        """Apply over an object that is there. What a POST of ours made counts as applied first.

        Fields of a POST belong to an Update by our name, and an apply would leave those that it no longer names.
        """
        metadata = body["metadata"]
        try:
            live = await self._client.get(resource, metadata["name"], namespace=metadata["namespace"])
        except NotFound:
            return await self._client.create(resource, body)
        if controller_uid(live) != job["metadata"]["uid"]:
            raise NotOurs(resource.kind, metadata["name"], controller_uid(live))
        fields = as_applied(live["metadata"].get("managedFields") or [])
        if fields is not None:
            version = live["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version, "managedFields": fields}}
            await self._client.merge(resource, metadata["name"], patch, namespace=metadata["namespace"])
        return await self._client.apply(resource, body)

    async def _create_all(self, job: Json, manifests: Iterable[Manifest], memory: Memory) -> bool:
        made = 0
        for batch in batches(tuple(manifests)):
            errors = [error for error in await together(self._create, batch) if error is not None]
            if errors:
                # The rest of a gang would be refused alike; pods that exist stay.
                self._note(memory, *errors[0])
                return True
            made += len(batch)
        if made:
            # Whatever was refused under an older ticket is over.
            memory.refusals = {key: item for key, item in memory.refusals.items() if key[0] != "Pod"}
        return False

    async def _create(self, manifest: Manifest) -> tuple[str, Forbidden | Invalid | NotOurs] | None:
        """Make one pod; its name and what is wrong if it may not be made."""
        body = dict(manifest)
        try:
            self._caches.pods.upsert(slim_pod(await self._client.create(PODS, body)))
        except (Forbidden, Invalid, NotOurs) as error:
            return body["metadata"]["name"], error
        return None

    def _note(self, memory: Memory, name: str, error: Forbidden | Invalid | NotOurs) -> None:
        if isinstance(error, NotOurs):
            self._keep(memory, "Pod", name, Reason.OBJECT_CONFLICT, str(error))
        else:
            self._remember(memory, "Pod", name, error)

    async def _delete_all(self, job: Json, deletes: Iterable[Delete]) -> None:
        async def one(delete: Delete) -> None:
            await self._delete(job["metadata"]["namespace"], delete)

        for batch in batches(tuple(deletes), first=LARGEST_BATCH):
            await together(one, batch)

    async def _delete(self, namespace: str, delete: Delete) -> None:
        if delete.force:
            await self._delete_by_force(namespace, delete)
            return
        if delete.kind == WORKLOADS.kind:
            await self.release(namespace, delete)
            return
        known = self._caches.of(delete.kind).get(namespace, delete.name)
        version = None
        if known is not None and known["metadata"]["uid"] == delete.uid:
            version = known["metadata"].get("resourceVersion")
        try:
            answer = await self._client.delete(
                of(delete.kind),
                delete.name,
                namespace=namespace,
                uid=delete.uid,
                resource_version=version,
            )
        except Conflict as error:
            # It changed since it was seen: the change may be why it should stay.
            raise Stale from error
        if delete.kind == PODS.kind and (answer.get("metadata") or {}).get("deletionTimestamp"):
            # The next round may come before the watch tells, and must not delete it once more.
            self._caches.pods.upsert(slim_pod(answer))

    async def release(self, namespace: str, delete: Delete) -> None:
        """Let Kueue go of a group whose pods will never all be there; it removes its finalizers from them then."""
        await self._client.delete(WORKLOADS, delete.name, namespace=namespace, uid=delete.uid)
        LOG.info("workload released", namespace=namespace, name=delete.name)

    async def _delete_by_force(self, namespace: str, delete: Delete) -> None:
        """By UID alone: a dead kubelet changes nothing any more, and whoever else did is of no matter."""
        try:
            await self._client.delete_by_force(
                of(delete.kind), delete.name, namespace=namespace, uid=delete.uid
            )
        except Conflict as error:
            raise Stale from error
        LOG.warning("pod removed by force", namespace=namespace, name=delete.name)

    # --- refusals -----------------------------------------------------------------------------

    def _remember(self, memory: Memory, kind: str, name: str, error: ApiError) -> None:
        reason = classify(error)
        if reason is None:
            raise error
        self._keep(memory, kind, name, reason, error.message)

    def _keep(self, memory: Memory, kind: str, name: str, reason: Reason, message: str) -> None:
        known = memory.refusals.get((kind, name))
        if kind == "Pod":
            # A place that is tried again has another name: pods are refused in a row whatever they are called.
            before = [key for key in memory.refusals if key[0] == "Pod"]
            known = max((memory.refusals.pop(key) for key in before), key=lambda one: one.count, default=None)
        count = known.count + 1 if known is not None and known.reason == reason else 1
        LOG.warning(
            "object refused", kind=kind, name=name, reason=str(reason), problem=message[:300], count=count
        )
        memory.refusals[kind, name] = Refusal(kind, name, reason, message[:2048], self._now(), count)


def classify(error: ApiError) -> Reason | None:
    """Which reason a refusal by the API server has; None when the job is not to blame for it."""
    message = error.message
    if NAMESPACE_ENDS in message or RIGHTS.search(message):
        return None
    if QUOTA in message or LIMIT.search(message):
        return Reason.QUOTA_EXCEEDED
    if SECURITY in message or DENIED in message:
        return Reason.POD_SECURITY_DENIED
    return Reason.INVALID_SPEC if isinstance(error, Invalid) else None


def members(status: Json) -> list[tuple[Any, ...]]:
    """Attempt and places of a gang: what may change by a status write alone."""
    gang = status.get("gang") or {}
    return [(gang.get("attempt", 0),), *((one["index"], one["ticket"]) for one in gang.get("members") or ())]
