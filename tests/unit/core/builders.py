"""Builders for the objects that core tests speak of: `a_job().with_nodes(2)`, `a_pod(job, 0)`."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from windlass.api.contract import Report, RunIdentity, Timeline, Verdict
from windlass.api.meta import Phase
from windlass.api.status import CheckpointRecord, Gang, JobStatus, Member, Progress
from windlass.core import names
from windlass.core.decision import Decision
from windlass.core.observed import ClaimView, Job, ObjectView, Observed, PodView
from windlass.core.reconcile import decide
from windlass.core.render.gang import shared_objects
from windlass.core.settings import RenderSettings

CREATED = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NOW = CREATED + timedelta(seconds=60)
UID = "11111111-2222-3333-4444-555555555555"

SETTINGS = RenderSettings(
    workload_image="registry.example/windlass-workloads@sha256:0",
    workload_python="/opt/venv/bin/python",
    report_url="https://windlass-reports.windlass-system.svc:8443",
    report_server_name="windlass-reports.windlass-system.svc",
    ca_pem="-----BEGIN CERTIFICATE-----\n",
)

SPEC: dict[str, Any] = {
    "model": {"uri": "pvc://models/SmolLM2-135M-Instruct"},
    "data": {"sources": [{"uri": "pvc://data/sft/train.jsonl", "format": "Instruction"}]},
    "training": {"globalBatchSize": 16, "maxSteps": 100},
    "checkpoint": {"store": "pvc://checkpoints/team", "everySteps": 20},
}


def at(seconds: float) -> datetime:
    """An instant, in seconds since the job was created."""
    return CREATED + timedelta(seconds=seconds)


class JobBuilder:
    """A FineTuneJob as the API server would return it."""

    def __init__(self, body: dict[str, Any] | None = None) -> None:
        self.body = body or {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {
                "name": "triage",
                "namespace": "team",
                "uid": UID,
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": "2026-11-23T12:00:00Z",
            },
            "spec": copy.deepcopy(SPEC),
        }

    def with_spec(self, path: str, value: Any) -> JobBuilder:
        """Set one field of the spec by its dotted path."""
        body = copy.deepcopy(self.body)
        target = body["spec"]
        *parents, last = path.split(".")
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = value
        return JobBuilder(body)

    def with_nodes(self, nodes: int) -> JobBuilder:
        """A gang of so many pods."""
        return self.with_spec("resources.nodes", nodes)

    def suspended(self, value: bool = True) -> JobBuilder:
        """spec.suspend."""
        return self.with_spec("suspend", value)

    def deleted(self) -> JobBuilder:
        """With a deletion timestamp."""
        body = copy.deepcopy(self.body)
        body["metadata"]["deletionTimestamp"] = "2026-11-23T12:01:00Z"
        return JobBuilder(body)

    def with_status(self, status: JobStatus | dict[str, Any]) -> JobBuilder:
        """With a stored status."""
        body = copy.deepcopy(self.body)
        body["status"] = status if isinstance(status, dict) else status.to_wire()
        return JobBuilder(body)

    def after(self, decision: Decision) -> JobBuilder:
        """As it is once a decision's status was written."""
        return self if decision.status is None else self.with_status(decision.status)

    def on_attempt(self, attempt: int, *tickets: int, **fields: Any) -> JobBuilder:
        """With a gang of these tickets, in the order of their index; their pods are known."""
        members = [
            Member(index=index, ticket=ticket, pod_uid=f"pod-{index}-{ticket}")
            for index, ticket in enumerate(tickets)
        ]
        gang = Gang(attempt=attempt, last_ticket=max(tickets), members=members)
        status = JobStatus(gang=gang, admitted_at=at(1), run_config="triage-config-00000000")
        job = self.with_nodes(len(tickets))
        return job.with_status(status.model_copy(update=fields))

    def with_unmade_pods(self) -> JobBuilder:
        """With a gang whose pods have never been seen."""
        body = copy.deepcopy(self.body)
        for member in body["status"]["gang"]["members"]:
            member.pop("podUid")
        return JobBuilder(body)

    def build(self) -> Job:
        """The job as the core reads it."""
        return Job.from_wire(self.body)


def a_job() -> JobBuilder:
    """A job of one pod that was just created."""
    return JobBuilder()


def a_pod(index: int, ticket: int, *, attempt: int = 1, **fields: Any) -> PodView:
    """A running pod of the job."""
    pod = PodView(
        name=names.pod_name("triage", index, ticket),
        uid=f"pod-{index}-{ticket}",
        index=index,
        ticket=ticket,
        attempt=attempt,
        owner_uid=UID,
        phase="Running",
        node=f"node-{index}",
        created_at=at(2),
        scheduled_at=at(3),
        started_at=at(5),
    )
    return replace(pod, **fields)


def an_ended_pod(
    index: int, ticket: int, *, exit_code: int, verdict: Verdict | None = None, **fields: Any
) -> PodView:
    """A pod whose agent has ended."""
    text = verdict.model_dump_json(by_alias=True, exclude_none=True) if verdict is not None else ""
    state = {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "exit_code": exit_code,
        "terminated_reason": "Completed" if exit_code == 0 else "Error",
        "termination_message": text,
        "finished_at": at(50),
    }
    return a_pod(index, ticket, **(state | fields))


def claims(*, modes: tuple[str, ...] = ("ReadWriteMany",), phase: str = "Bound") -> tuple[ClaimView, ...]:
    """The three claims of the builder's spec."""
    return tuple(ClaimView(name, phase, modes) for name in ("checkpoints", "models", "data"))


def objects_of(decision: Decision) -> tuple[ObjectView, ...]:
    """What a decision applied, as it is seen afterwards."""
    return tuple(ObjectView.from_wire(item["kind"], item) for item in decision.applies)


def shared(job: Job, settings: RenderSettings = SETTINGS) -> tuple[ObjectView, ...]:
    """All shared objects of the job's present attempt; the configuration under the name in status."""
    assert job.spec is not None
    made = shared_objects(job, job.spec, attempt=job.status.gang.attempt, settings=settings)
    views = [ObjectView.from_wire(item["kind"], item) for item in made]
    if job.status.run_config is not None:
        views[0] = ObjectView("ConfigMap", job.status.run_config, job.uid)
    return tuple(views)


def a_report(index_ticket: int = 1, **fields: Any) -> Report:
    """A report of the leader with this ticket: training at step 40 in incarnation 1."""
    report = Report(
        run=RunIdentity(kind="FineTuneJob", namespace="team", name="triage", uid=UID),
        pod=names.pod_name("triage", 0, index_ticket),
        pod_uid=f"pod-0-{index_ticket}",
        attempt=1,
        ticket=index_ticket,
        sequence=1,
        sent_at=NOW,
        incarnation=1,
        phase=Phase.TRAIN,
        progress=Progress(step=40, total_steps=100, loss=1.5),
        checkpoints=[a_checkpoint(20), a_checkpoint(40)][::-1],
        timeline=Timeline(started_at=at(6), until=NOW, starting=20, loading=4, training=30),
    )
    return report.model_copy(update=fields)


def a_checkpoint(step: int, incarnation: int = 1) -> CheckpointRecord:
    """A row of the ledger."""
    return CheckpointRecord(
        step=step, incarnation=incarnation, name=f"step-{step:08d}.i{incarnation}", digest=f"sha256:{step}"
    )


def judge(
    job: JobBuilder, *, now: datetime = NOW, settings: RenderSettings = SETTINGS, **seen: Any
) -> Decision:
    """Decide with the claims bound and shared objects there, unless given."""
    built = job.build()
    if built.spec is not None:
        seen.setdefault("objects", shared(built, settings) if built.status.gang.members else ())
    seen.setdefault("claims", claims())
    if seen.get("report") is not None:
        seen.setdefault("heard_at", seen["report"].sent_at)
    return decide(built, Observed(**seen), now, settings)


def conditions_of(decision: Decision) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition that a decision writes."""
    assert decision.status is not None
    return {item["type"]: (item["status"], item["reason"]) for item in decision.status["conditions"]}


def message_of(decision: Decision, condition: str = "Ready") -> str:
    """The message of one condition that a decision writes."""
    assert decision.status is not None
    return str(next(item["message"] for item in decision.status["conditions"] if item["type"] == condition))


def a_status(**wire: Any) -> JobStatus:
    """A status from its wire form."""
    return JobStatus.model_validate(wire)
