"""What the operator saw of one run, as frozen values.

The shell fills these from its caches (`from_wire` reads the API's own JSON) and hands them to `decide`.
Views hold only what a judge reads. They must never hold data of secrets or of users' files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard

from pydantic import ValidationError

from windlass.api import meta
from windlass.api.contract import Report
from windlass.api.jobs import TrainingJobSpec
from windlass.api.kinds import KINDS, KindName
from windlass.api.meta import Reason
from windlass.api.quantities import QUANTITY
from windlass.api.status import JobStatus
from windlass.api.validation import validate
from windlass.core import kueue

Wire = Mapping[str, Any]
PLAIN = re.compile(QUANTITY)
# By whom a pod is taken away: the cluster, or the queue that had admitted it.
DISRUPTIONS = ("DisruptionTarget", kueue.TERMINATION_TARGET)


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time of the API, or None."""
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class Job:
    """One object of a kind that trains. `spec` is None when it does not parse; `spec_error` then says why."""

    kind: KindName
    namespace: str
    name: str
    uid: str
    generation: int
    created_at: datetime
    status: JobStatus
    spec: TrainingJobSpec | None = None
    spec_error: str | None = None
    deleting: bool = False
    resource_version: str = ""
    # What is stored, so that an unchanged status is not written again.
    stored_status: Wire = field(default_factory=dict)

    @classmethod
    def from_wire(cls, body: Wire, known: TrainingJobSpec | None = None) -> Job:
        """Read a job as the API server returns it, with its kind. A spec that does not parse is kept as an error.

        `known` is what its spec was read as before; the caller has checked that it has not changed since.
        """
        metadata = body["metadata"]
        spec, error = (known, None) if known is not None else parse_spec(body)
        stored = body.get("status") or {}
        return cls(
            kind=body["kind"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 1),
            created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            status=parse_status(stored),
            spec=spec,
            spec_error=error,
            deleting=metadata.get("deletionTimestamp") is not None,
            resource_version=metadata.get("resourceVersion", ""),
            stored_status=stored,
        )


def parse_spec(body: Wire) -> tuple[TrainingJobSpec | None, str | None]:
    """The spec, or what is wrong with it in the words of `windlass validate` (at most three problems).

    Only a spec that does not parse is refused: one that was accepted under older rules goes on.
    """
    try:
        return KINDS[body["kind"]].spec.model_validate(body.get("spec") or {}), None
    except ValidationError as error:
        # What was kept of it lacks the version.
        document = {"apiVersion": meta.API_VERSION, **body}
        problems = [str(problem) for problem in validate(document)] or [
            str(item["msg"]) for item in error.errors()
        ]
        return None, "; ".join(problems[:3])


def parse_status(stored: Wire) -> JobStatus:
    """The status; blocks that do not parse (written by another version) count as absent."""
    readable = dict(stored)
    while True:
        try:
            return JobStatus.model_validate(readable)
        except ValidationError as error:
            for item in error.errors():
                readable.pop(str(item["loc"][0]), None)


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod, with what the kubelet and the scheduler say about its only container."""

    name: str
    uid: str
    index: int
    ticket: int
    attempt: int
    owner_uid: str | None = None
    phase: str = "Pending"
    reason: str | None = None
    message: str | None = None
    node: str | None = None
    image: str | None = None
    ip: str | None = None
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    # The end of the grace period, as Kubernetes writes it; set means that the pod is being deleted.
    deletion_timestamp: datetime | None = None
    waiting_reason: str | None = None
    waiting_message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    terminated_reason: str | None = None
    termination_message: str = ""
    unschedulable: str | None = None
    disruption: str | None = None
    # Nodes that it may not be placed on, as it was made.
    avoids: tuple[str, ...] = ()
    # Step and time of the checkpoint that the pod's annotations name.
    noticed: tuple[str, str] | None = None
    # The newest warning event about the pod, where the shell looked for one (mounts are told by events only).
    warning: str | None = None
    # What its container asks for, by resource, as quantities.
    requests: tuple[tuple[str, str], ...] = ()
    # Scheduling gates that nobody has taken away yet.
    gates: tuple[str, ...] = ()
    # Whether a queue counts it in a group, and whether it keeps the pod in the API until it has taken note of its end.
    in_group: bool = False
    is_held: bool = False

    @property
    def is_gated(self) -> bool:
        """Whether it may not be given a node yet."""
        return bool(self.gates) and not self.is_terminal

    @property
    def is_terminal(self) -> bool:
        """Whether its container will not run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_running(self) -> bool:
        """Whether its container runs."""
        return self.phase == "Running" and self.exit_code is None

    @classmethod
    def from_wire(cls, body: Wire, *, warning: str | None = None) -> PodView:
        """Read a pod of ours as the API server returns it."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        labels = metadata.get("labels") or {}
        conditions = {item["type"]: item for item in status.get("conditions") or ()}
        scheduled = conditions.get("PodScheduled") or {}
        disruption = next((item for item in map(conditions.get, DISRUPTIONS) if is_set(item)), None)
        container: Wire = next(iter(status.get("containerStatuses") or ()), {})
        state = container.get("state") or {}
        waiting, running, ended = (state.get(key) or {} for key in ("waiting", "running", "terminated"))
        was_scheduled = scheduled.get("status") == "True"
        refused = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            index=label_number(labels, meta.LABEL_INDEX),
            ticket=label_number(labels, meta.LABEL_TICKET),
            attempt=label_number(labels, meta.LABEL_ATTEMPT),
            owner_uid=controller_uid(body),
            phase=status.get("phase", "Pending"),
            reason=status.get("reason"),
            message=status.get("message"),
            node=spec.get("nodeName"),
            image=next((item.get("image") for item in spec.get("containers") or ()), None),
            ip=status.get("podIP"),
            created_at=parse_time(metadata.get("creationTimestamp")),
            scheduled_at=parse_time(scheduled.get("lastTransitionTime")) if was_scheduled else None,
            started_at=parse_time(running.get("startedAt") or ended.get("startedAt")),
            finished_at=parse_time(ended.get("finishedAt")),
            deletion_timestamp=parse_time(metadata.get("deletionTimestamp")),
            waiting_reason=waiting.get("reason"),
            waiting_message=waiting.get("message"),
            exit_code=ended.get("exitCode"),
            signal=ended.get("signal"),
            terminated_reason=ended.get("reason"),
            termination_message=ended.get("message") or "",
            unschedulable=scheduled.get("message", "no node fits") if refused else None,
            noticed=noticed(metadata.get("annotations") or {}),
            disruption=disruption.get("reason") if disruption is not None else None,
            avoids=names_in((metadata.get("annotations") or {}).get(meta.ANNOTATION_AVOIDS)),
            warning=warning,
            requests=requests_of(spec),
            gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
            in_group=kueue.LABEL_GROUP in labels,
            is_held=kueue.FINALIZER in (metadata.get("finalizers") or ()),
        )


def is_set(condition: Wire | None) -> TypeGuard[Wire]:
    """Whether a pod has this condition and it is true."""
    return condition is not None and condition.get("status") == "True"


def names_in(text: str | None) -> tuple[str, ...]:
    """The names in a comma-separated annotation."""
    return tuple(name for name in (text or "").split(",") if name)


def noticed(annotations: Wire) -> tuple[str, str] | None:
    """The checkpoint that a pod's annotations name; None unless both are there."""
    step, time = (annotations.get(key) for key in meta.CHECKPOINT_ANNOTATIONS)
    return (str(step), str(time)) if step is not None and time is not None else None


def requests_of(spec: Wire) -> tuple[tuple[str, str], ...]:
    """What the only container of a pod asks for, as quantities that are read elsewhere; others are left out."""
    container: Wire = next(iter(spec.get("containers") or ()), {})
    asked = (container.get("resources") or {}).get("requests") or {}
    return tuple((name, str(text)) for name, text in sorted(asked.items()) if PLAIN.match(str(text)))


def label_number(labels: Wire, key: str) -> int:
    """A number in a label; -1 when it is missing or not a number, which matches no member."""
    text = str(labels.get(key, ""))
    return int(text) if text.isascii() and text.isdigit() else -1


def controller_uid(body: Wire) -> str | None:
    """The UID of an object's controlling owner, if any: what the run's own objects are known by."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that hosts a pod of the run. `ready` is false as well when its kubelet is not heard of."""

    name: str
    ready: bool = True
    taints: tuple[Taint, ...] = ()

    @classmethod
    def from_wire(cls, body: Wire) -> NodeView:
        """Read a node as the API server returns it."""
        conditions = (body.get("status") or {}).get("conditions") or ()
        taints = (body.get("spec") or {}).get("taints") or ()
        return cls(
            name=body["metadata"]["name"],
            ready=any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions),
            taints=tuple(
                Taint(item.get("key", ""), item.get("value") or "", item.get("effect", "")) for item in taints
            ),
        )


@dataclass(frozen=True, slots=True)
class ObjectView:
    """A ConfigMap, Service or NetworkPolicy: whose it is and which rendering it holds."""

    kind: str
    name: str
    owner_uid: str | None = None
    digest: str | None = None
    uid: str = ""

    @classmethod
    def from_wire(cls, kind: str, body: Wire) -> ObjectView:
        """Read such an object as the API server returns it (list items carry no kind)."""
        metadata = body["metadata"]
        digest = (metadata.get("annotations") or {}).get(f"{meta.GROUP}/digest")
        owner = controller_uid(body)
        return cls(kind, metadata["name"], owner_uid=owner, digest=digest, uid=metadata.get("uid", ""))


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A PersistentVolumeClaim."""

    name: str
    phase: str = "Bound"
    access_modes: tuple[str, ...] = ("ReadWriteMany",)
    deleting: bool = False

    @classmethod
    def from_wire(cls, body: Wire) -> ClaimView:
        """Read a claim as the API server returns it."""
        spec, status = body.get("spec") or {}, body.get("status") or {}
        return cls(
            name=body["metadata"]["name"],
            phase=status.get("phase", "Pending"),
            access_modes=tuple(status.get("accessModes") or spec.get("accessModes") or ()),
            deleting=body["metadata"].get("deletionTimestamp") is not None,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server's last refusal of one of our objects; the shell forgets it when a later try succeeds."""

    kind: str
    name: str
    reason: Reason
    message: str
    at: datetime
    count: int = 1


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything seen of one run besides the job itself."""

    pods: tuple[PodView, ...] = ()
    objects: tuple[ObjectView, ...] = ()
    # Claims that exist, of those the spec names; a missing one is not listed.
    claims: tuple[ClaimView, ...] = ()
    report: Report | None = None
    # When that report arrived, by the operator's own clock.
    heard_at: datetime | None = None
    refusals: tuple[Refusal, ...] = ()
    # Nodes that host pods of the run; none while the operator does not watch nodes.
    nodes: tuple[NodeView, ...] = ()
    # Since when this operator can hear reports; silence before that says nothing.
    listening_since: datetime | None = None
    # How many runs are heard now, this one among them: reports and writes of progress are paced by it (see `pace`).
    runs_heard: int = 0
    # Whether so many runs are due or worked on that what can wait should.
    busy: bool = False
    # The objects besides pods as this attempt should have them, if the shell has them at hand.
    rendered: tuple[Mapping[str, Any], ...] | None = None
