"""Random worlds for `decide`: any job at any point of its life, and anything that may be seen of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from unit.core.builders import SETTINGS, JobBuilder, a_checkpoint, a_job, a_pod, at, claims, shared
from windlass.api.contract import Report, RunIdentity, Suspicion, Timeline, Verdict
from windlass.api.meta import Exclusion, ExitCode, FailureClass, Phase, Reason, Rung, SuspectReason
from windlass.api.status import (
    Condition,
    Counters,
    FailedRank,
    Failure,
    Gang,
    JobStatus,
    Member,
    Progress,
    RecoveryRecord,
    SuspectNode,
)
from windlass.core import names
from windlass.core.decision import Decision
from windlass.core.observed import NodeView, ObjectView, Observed, PodView, Refusal, Taint
from windlass.core.reconcile import decide

NOW = at(600)
TIMES = st.integers(0, 600).map(at)
MAYBE_TIMES = st.none() | TIMES
FAILURES = st.builds(
    Failure,
    reason=st.sampled_from([*Reason, "FromTheFuture"]).map(str),
    failure_class=st.sampled_from(list(FailureClass)),
    message=st.sampled_from(["", "boom", "no such file."]),
    hint=st.sampled_from(["", "check it"]),
)
VERDICTS = st.builds(
    Verdict,
    result=st.sampled_from(["Succeeded", "Failed", "Preempted", "Fenced"]),
    step=st.integers(0, 100),
    failure=st.none() | FAILURES,
    suspicion=st.none()
    | st.builds(
        Suspicion,
        reason=st.sampled_from(list(SuspectReason)),
        exclusion=st.sampled_from(list(Exclusion)),
        failure_class=st.sampled_from(list(FailureClass)),
    ),
)
ROWS = st.builds(
    RecoveryRecord,
    incarnation=st.integers(1, 6),
    rung=st.sampled_from(list(Rung)),
    failure_class=st.sampled_from(list(FailureClass)),
    first_failed=st.builds(FailedRank, rank=st.none() | st.integers(0, 3), pod=st.just("triage-0-1")),
    resumed_step=st.sampled_from([0, 20, 40]),
)


SUSPECTS = st.builds(
    SuspectNode,
    name=st.sampled_from(["node-0", "node-1", "node-2", "node-9"]),
    reason=st.sampled_from(list(SuspectReason)),
    failure_class=st.just(FailureClass.INFRASTRUCTURE),
    exclusion=st.sampled_from(list(Exclusion)),
    since=st.just(at(100)),
    until=st.sampled_from([at(500), at(600), at(700)]),
)
TAINTS = st.sampled_from([(), (Taint("other"),), (Taint("sick"),)])
NODES = st.builds(
    lambda ready, taints: tuple(
        NodeView(f"node-{index}", each, each_taints)
        for index, (each, each_taints) in enumerate(zip(ready, taints, strict=True))
    ),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.lists(TAINTS, min_size=3, max_size=3),
)
WATCHING = replace(SETTINGS, health_taints=("sick",))


@dataclass(frozen=True)
class World:
    """One job, what is seen of it, and when."""

    job: JobBuilder
    seen: Observed
    now: datetime

    def decided(self) -> Decision:
        return decide(self.job.build(), self.seen, self.now, WATCHING)

    def after(self, decision: Decision) -> World:
        """The same world once the status is written; nothing else has happened yet."""
        return replace(self, job=self.job.after(decision))


def truths(kinds: list[str]) -> list[Condition]:
    return [
        Condition(type=kind, status="True", reason="Starting", message="m", last_transition_time=at(5))
        for kind in kinds
    ]


@st.composite
def gangs(draw: st.DrawFn, nodes: int) -> Gang:
    attempt = draw(st.integers(0, 3))
    if attempt == 0:
        return Gang()
    tickets = list(range(1, nodes + 1))
    last = nodes
    for index in range(nodes):
        if draw(st.booleans()):
            last += 1
            tickets[index] = last
    members = [
        Member(index=index, ticket=ticket, pod_uid=f"pod-{index}-{ticket}" if draw(st.booleans()) else None)
        for index, ticket in enumerate(tickets)
    ]
    return Gang(attempt=attempt, last_ticket=last, members=draw(st.sampled_from([members, members, []])))


@st.composite
def statuses(draw: st.DrawFn, nodes: int) -> JobStatus:
    ended = draw(st.sampled_from([[], [], [], [], ["Complete"], ["Failed"]]))
    others = draw(st.lists(st.sampled_from(["Running", "Suspended", "Stalled"]), unique=True, max_size=2))
    gang = draw(gangs(nodes))
    return JobStatus(
        gang=gang,
        conditions=truths([*others, *ended]),
        finished_at=draw(TIMES) if ended else None,
        admitted_at=at(1) if gang.attempt else None,
        started_at=draw(MAYBE_TIMES),
        suspended_at=draw(st.sampled_from([None, None, at(100)])),
        back_off_until=draw(st.sampled_from([None, at(500), at(700)])),
        run_config=draw(st.sampled_from([None, "triage-config-00000000"])) if gang.attempt else None,
        incarnation=draw(st.integers(0, 3)),
        progress=Progress(step=draw(st.integers(0, 60)), updated_at=draw(MAYBE_TIMES)),
        checkpoints=[a_checkpoint(step) for step in draw(st.sampled_from([(), (20,), (40, 20)]))],
        recoveries=draw(st.lists(ROWS, max_size=4)),
        suspect_nodes=draw(st.lists(SUSPECTS, max_size=3, unique_by=lambda item: item.name)),
        counters=Counters(back_off_seconds=draw(st.integers(0, 90)), suspended_seconds=7),
    )


@st.composite
def pods_of(draw: st.DrawFn, status: JobStatus) -> tuple[PodView, ...]:
    """Some of the members' pods, some of earlier tickets, now and then a stranger's."""
    found = []
    places = [(member.index, member.ticket, status.gang.attempt) for member in status.gang.members]
    places += draw(st.lists(st.sampled_from([(0, 1, 1), (1, 2, 1), (0, 3, 1)]), max_size=2))
    # A name is an index and a ticket: there is one pod of it.
    for (index, ticket), attempt in {place[:2]: place[2] for place in reversed(places)}.items():
        if draw(st.integers(0, 3)) == 0:
            continue
        pod = a_pod(index, ticket, attempt=attempt)
        found.append(replace(pod, **draw(STATES)))
    return tuple(found)


def ended(verdict: Verdict | None, code: int, reason: str) -> dict[str, Any]:
    text = verdict.model_dump_json(by_alias=True, exclude_none=True) if verdict is not None else "Traceback"
    return {
        "phase": "Succeeded" if code == 0 else "Failed",
        "exit_code": code,
        "terminated_reason": reason,
        "termination_message": text,
        "finished_at": at(580),
    }


STATES = st.one_of(
    st.just({}),
    st.just({}),
    st.just({"phase": "Pending", "started_at": None}),
    st.just({"phase": "Pending", "node": None, "unschedulable": "0/3 nodes: Insufficient cpu."}),
    st.just({"phase": "Pending", "node": None, "unschedulable": "0/3 nodes.", "avoids": ("node-1",)}),
    st.just({"phase": "Pending", "waiting_reason": "ImagePullBackOff", "waiting_message": "x"}),
    st.just({"phase": "Pending", "warning": 'secret "hub" not found'}),
    st.sampled_from([at(550), at(640)]).map(lambda end: {"deletion_timestamp": end}),
    st.just({"deletion_timestamp": at(640), "disruption": "DeletionByTaintManager"}),
    st.just({"owner_uid": "somebody-else"}),
    st.just({"uid": "made-anew"}),
    st.builds(
        ended,
        st.none() | VERDICTS,
        st.sampled_from([0, 1, 127, 137, *map(int, ExitCode)]),
        st.sampled_from(["Error", "OOMKilled"]),
    ),
)


@st.composite
def reports(draw: st.DrawFn, status: JobStatus) -> Report:
    leader = next((member for member in status.gang.members if member.index == 0), Member(index=0, ticket=1))
    ticket = draw(st.sampled_from([leader.ticket, leader.ticket, 1]))
    step = draw(st.integers(0, 100))
    return Report(
        run=RunIdentity(kind="FineTuneJob", namespace="team", name="triage", uid="u"),
        pod=names.pod_name("triage", 0, ticket),
        pod_uid=f"pod-0-{ticket}",
        attempt=draw(st.sampled_from([status.gang.attempt, status.gang.attempt, 1])),
        ticket=ticket,
        sequence=1,
        sent_at=draw(TIMES),
        incarnation=draw(st.integers(0, 4)),
        phase=draw(st.none() | st.sampled_from(list(Phase))),
        progress=Progress(step=step, total_steps=100),
        checkpoints=[a_checkpoint(20)] if step >= 20 else [],
        recoveries=draw(st.lists(ROWS, max_size=2)),
        restarts=draw(st.integers(0, 3)),
        wanted=draw(st.sampled_from(["Nothing", "Nothing", "RecreateGang"])),
        save_error=draw(st.none() | st.sampled_from(["no space left on device", "fsync failed"])),
        tracking_error=draw(st.none() | st.just("refused")),
        failure=draw(st.none() | FAILURES),
        timeline=draw(
            st.none() | st.just(Timeline(started_at=at(6), until=at(590), training=300, loading=9))
        ),
        verdict=draw(st.none() | st.none() | VERDICTS),
    )


SPECS: list[tuple[str, Any]] = [
    ("suspend", True),
    ("ttlSecondsAfterFinished", 60),
    ("activeDeadlineSeconds", 300),
    ("startDeadlineSeconds", 300),
    ("resources.nodes", 0),
    ("recovery.ladder", ["InPlace"]),
    ("recovery.ladder", ["RecreateGang"]),
    ("recovery.ladder", ["InPlace", "RecreatePod", "RecreateGang"]),
    ("recovery.forceDeleteAfterSeconds", 30),
    ("recovery.budgets", {"crash": 0, "outOfMemory": 0, "infrastructure": 0, "storage": 0}),
    ("checkpoint.export", "None"),
]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any world."""
    nodes = draw(st.integers(1, 3))
    job = a_job().with_nodes(nodes)
    status = draw(statuses(nodes))
    for path, value in draw(st.lists(st.sampled_from(SPECS), max_size=2)):
        job = job.with_spec(path, value)
    job = job.with_status(status)
    if draw(st.integers(0, 9)) == 0:
        job = job.deleted()
    built = job.build()
    objects: tuple[ObjectView, ...] = ()
    if built.spec is not None and status.gang.members:
        objects = tuple(view for view in shared(built) if draw(st.integers(0, 3)))
        if draw(st.integers(0, 7)) == 0:
            objects = (*objects, ObjectView("Service", "triage", owner_uid="somebody-else"))
        objects = (*objects, ObjectView("ConfigMap", "triage-config-aaaaaaaa", built.uid, uid="old"))
    report = draw(st.none() | reports(status))
    refused = st.builds(
        Refusal,
        st.just("Pod"),
        st.just("triage-0-1"),
        st.sampled_from([Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY_DENIED]),
        st.just("no"),
        st.sampled_from([at(10), at(599)]),
        st.integers(1, 5),
    )
    return World(
        job,
        Observed(
            pods=draw(pods_of(status)),
            objects=objects,
            claims=draw(st.sampled_from([claims(), claims(), claims()[:1]])),
            report=report,
            heard_at=draw(TIMES) if report is not None else None,
            refusals=tuple(draw(st.lists(refused, max_size=1))),
            listening_since=draw(MAYBE_TIMES),
            nodes=draw(st.just(()) | NODES),
        ),
        NOW,
    )
