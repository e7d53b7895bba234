"""What judges look at: the job, the world and the report, sorted out once.

`gather` is called by `decide` before the chain. Facts hold no judgement; a judge that needs a new fact
gets a property here, so that two judges cannot see one thing differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from windlass.api.contract import Orders, Report, TerminationMessage, Verdict
from windlass.api.jobs import TrainingJobSpec
from windlass.api.meta import ConditionType, Rung
from windlass.api.running import Elastic
from windlass.api.status import JobStatus, Member
from windlass.core import names, suspects
from windlass.core.decision import Delete, Event, Manifest
from windlass.core.gang import is_same_member
from windlass.core.observed import Job, NodeView, Observed, PodView
from windlass.core.pace import unheard_after
from windlass.core.render.gang import shared_objects
from windlass.core.settings import RenderSettings
from windlass.core.status import progress
from windlass.core.status.conditions import Aspect, is_true, merge

# A pod that outlives its grace period by this much has no kubelet that could end it.
DEAD_KUBELET = timedelta(seconds=30)
LOST_NODE = ("DeletionByTaintManager",)


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in the gang, and the pod in it, if it is there."""

    member: Member
    pod: PodView | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a judge says. `quiet` means that status stays as stored."""

    status: JobStatus
    applies: tuple[Manifest, ...] = ()
    creates: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    requeue_after_seconds: float | None = None
    orders: Orders = field(default_factory=Orders)
    confirm_absent: tuple[str, ...] = ()
    # What leaves no trace in status and is to be told all the same.
    events: tuple[Event, ...] = ()
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one round. `status` has folded in what was told; `report` is None if it does not count."""

    job: Job
    seen: Observed
    now: datetime
    settings: RenderSettings
    status: JobStatus
    report: Report | None
    pods: tuple[PodView, ...]
    slots: tuple[Slot, ...]
    # Objects of the present attempt besides pods, as they should be; nothing while there is no gang.
    shared: tuple[Manifest, ...] = ()
    # Nodes of the run's pods by name, where nodes are watched.
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    # The leader's newest word: its report, or what it left in its pod when that is newer; that may have been cut.
    told: Report | None = None
    is_told_whole: bool = True

    @property
    def spec(self) -> TrainingJobSpec:
        """The spec; judges behind `spec_is_invalid` may use it."""
        if self.job.spec is None:
            raise ValueError(f"spec: does not parse (got {self.job.spec_error}); judges must check first")
        return self.job.spec

    @property
    def job_now(self) -> Job:
        """The job with the status as it is now, for rendering pods: what has expired counts no more."""
        return replace(self.job, status=self.status)

    @property
    def leader(self) -> PodView | None:
        """The pod of index 0, if it is there."""
        return next((slot.pod for slot in self.slots if slot.member.index == 0), None)

    @property
    def elastic(self) -> Elastic | None:
        """How far the gang may shrink, None when it may not."""
        recovery = self.spec.recovery
        return recovery.elastic if Rung.SHRINK in recovery.ladder else None

    @property
    def former(self) -> tuple[PodView, ...]:
        """Pods of this run that are no members any more."""
        current = {slot.pod.uid for slot in self.slots if slot.pod is not None}
        return tuple(pod for pod in self.pods if pod.uid not in current)

    @property
    def newest_step(self) -> int:
        """The step of the newest verified checkpoint."""
        return max((item.step for item in self.status.checkpoints), default=0)

    def has(self, type: ConditionType) -> bool:
        """Whether a condition is true in the stored status."""
        return is_true(self.job.status.conditions, type)

    def verdict(self, pod: PodView | None) -> Verdict | None:
        """How an agent says it ended: by its report or by its termination message."""
        if pod is None:
            return None
        if self.report is not None and self.report.pod_uid == pod.uid and self.report.verdict is not None:
            return self.report.verdict
        return parse_verdict(pod.termination_message) if pod.is_terminal else None

    def node(self, pod: PodView) -> NodeView | None:
        """The node of a pod, where nodes are watched."""
        return self.nodes.get(pod.node or "")

    def is_heard(self, pod: PodView) -> bool:
        """Whether the pod's agent spoke not long ago; unknown counts as yes."""
        if self.seen.listening_since is None or self.settings.report_url is None:
            return True
        known = (self.seen.listening_since, self.seen.heard_at)
        newest = max(at for at in known if at is not None)
        # Agents are heard by way of the leader, who misses a silent one after ten seconds.
        if self.now - newest >= unheard_after(self.seen.runs_heard):
            return False
        if self.report is None:
            return True
        return any(member.pod_uid == pod.uid for member in self.report.members)

    def is_on_lost_node(self, pod: PodView) -> bool:
        """Whether its node is not ready and its agent not heard. A kubelet alone may fail while ranks go on."""
        node = self.node(pod)
        return node is not None and not node.ready and not self.is_heard(pod)

    def is_out_of_reach(self, pod: PodView) -> bool:
        """Whether the pod is being deleted and its node does not answer any more."""
        if pod.deletion_timestamp is None:
            return False
        if pod.disruption in LOST_NODE or self.is_on_lost_node(pod):
            return True
        return self.now >= pod.deletion_timestamp + DEAD_KUBELET

    def blocks(self, pod: PodView) -> bool:
        """Whether nothing that replaces this pod may start yet. A zombie on a lost node is fenced instead."""
        return not pod.is_terminal and not self.is_out_of_reach(pod)

    def state(self, aspects: Iterable[Aspect], **update: Any) -> JobStatus:
        """The status with conditions set and fields updated."""
        beside = progress.degradations(self.status, self.told) if self.told is not None else ()
        if not self.is_told_whole:
            # That a trouble is over is not told by a word that may lack it.
            beside = [aspect for aspect in beside if aspect.status == "True"]
        conditions = merge(
            self.status.conditions, [*aspects, *beside], now=self.now, generation=self.job.generation
        )
        return self.status.model_copy(update={"conditions": conditions, **update})

    @property
    def config_name(self) -> str:
        """The name under which the present attempt's configuration would be rendered now."""
        return str(self.shared[0]["metadata"]["name"])

    def deletes(self, pods: Iterable[PodView]) -> tuple[Delete, ...]:
        """Deletes of those pods that are not being deleted yet."""
        return tuple(
            Delete(kind="Pod", name=pod.name, uid=pod.uid) for pod in pods if pod.deletion_timestamp is None
        )


def parse_verdict(text: str) -> Verdict | None:
    """The verdict in a termination message, None if it is something else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return Verdict.model_validate_json(text)
    except ValidationError:
        return None


def parse_last_report(text: str) -> TerminationMessage | None:
    """A termination message with its report, None without one that this version can read."""
    if parse_verdict(text) is None:
        return None
    try:
        message = TerminationMessage.model_validate_json(text)
    except ValidationError:
        return None
    return message if message.report is not None else None


def gather(job: Job, seen: Observed, now: datetime, settings: RenderSettings) -> Facts:
    """Sort out what was seen. Pods count by their owner's UID, never by labels alone."""
    pods = tuple(
        sorted(
            (pod for pod in seen.pods if pod.owner_uid == job.uid), key=lambda pod: (pod.index, pod.ticket)
        )
    )
    slots = tuple(Slot(member, find_pod(job, pods, member)) for member in job.status.gang.members)
    leader = next((slot.pod for slot in slots if slot.member.index == 0), None)
    report = seen.report
    if report is not None and not progress.is_of_leader(report, leader, job.status):
        report = None
    told, is_whole = newest_word(report, leader, job)
    status = job.status if told is None else progress.fold(job.status, told)
    status = status.model_copy(update={"suspect_nodes": suspects.current(status.suspect_nodes, now)})
    shared: tuple[Manifest, ...] = ()
    if job.spec is not None and slots and seen.rendered is not None:
        shared = seen.rendered
    elif job.spec is not None and slots:
        shared = shared_objects(job, job.spec, attempt=job.status.gang.attempt, settings=settings)
    return Facts(
        job=job,
        seen=seen,
        now=now,
        settings=settings,
        status=status,
        report=report,
        pods=pods,
        slots=slots,
        shared=shared,
        nodes={node.name: node for node in seen.nodes},
        told=told,
        is_told_whole=is_whole,
    )


def newest_word(report: Report | None, leader: PodView | None, job: Job) -> tuple[Report | None, bool]:
    """What the leader said last, and whether that is whole.

    An operator that was away when it ended finds that in its pod only.
    """
    if leader is None or not leader.is_terminal or job.status.finished_at is not None:
        return report, True
    left = parse_last_report(leader.termination_message)
    if left is None or left.report is None or not progress.is_of_leader(left.report, leader, job.status):
        return report, True
    if report is not None and left.report.sequence <= report.sequence:
        return report, True
    known = job.status if report is None else progress.fold(job.status, report)
    word = progress.with_known_numbers(left.report, known)
    return (progress.completed(word, known), False) if left.is_cut else (word, True)


def find_pod(job: Job, pods: Iterable[PodView], member: Member) -> PodView | None:
    """The member's pod: by name and labels, and by UID once that is known."""
    name = names.pod_name(job.name, member.index, member.ticket)
    for pod in pods:
        if pod.name == name and is_same_member(member, index=pod.index, ticket=pod.ticket):
            return pod if member.pod_uid in (None, pod.uid) else None
    return None
