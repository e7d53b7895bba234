"""Reading the API's JSON, the plan from the spec, and how status is folded and told."""

from __future__ import annotations

from typing import Any

import pytest

from unit.core.builders import a_job, a_report, a_status, at
from windlass.api.meta import ConditionType, FailureClass, Phase, Reason, Rung
from windlass.api.status import JobStatus, Plan, RecoveryRecord, RecoverySeconds
from windlass.core.observed import ClaimView, Job, ObjectView, PodView, label_number, parse_status
from windlass.core.plan import arithmetic_plan
from windlass.core.status import messages
from windlass.core.status.conditions import Aspect, merge, stalled
from windlass.core.status.events import events_between
from windlass.core.status.progress import fold, merge_recoveries, with_warnings

POD: dict[str, Any] = {
    "metadata": {
        "name": "triage-1-4",
        "uid": "u",
        "creationTimestamp": "2026-11-23T12:00:00Z",
        "deletionTimestamp": "2026-11-23T12:05:00Z",
        "labels": {"windlass.dev/index": "1", "windlass.dev/ticket": "4", "windlass.dev/attempt": "2"},
        "ownerReferences": [{"uid": "x"}, {"uid": "job", "controller": True}],
    },
    "spec": {"nodeName": "node-1"},
    "status": {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "low on memory",
        "podIP": "10.0.0.7",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T12:00:01Z"},
            {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"},
        ],
        "containerStatuses": [
            {
                "state": {
                    "terminated": {
                        "exitCode": 137,
                        "signal": 9,
                        "reason": "OOMKilled",
                        "message": "m",
                        "startedAt": "2026-11-23T12:00:02Z",
                        "finishedAt": "2026-11-23T12:04:00Z",
                    }
                }
            }
        ],
    },
}


def test_pod_is_read_in_full() -> None:
    pod = PodView.from_wire(POD, warning="w")
    assert (pod.index, pod.ticket, pod.attempt, pod.owner_uid) == (1, 4, 2, "job")
    assert (pod.exit_code, pod.signal, pod.terminated_reason, pod.termination_message) == (
        137,
        9,
        "OOMKilled",
        "m",
    )
    assert (pod.scheduled_at, pod.started_at, pod.finished_at) == (at(1), at(2), at(240))
    assert (pod.disruption, pod.reason, pod.node, pod.warning) == (
        "TerminationByKubelet",
        "Evicted",
        "node-1",
        "w",
    )
    assert pod.is_terminal and not pod.is_running and pod.unschedulable is None


def test_pod_that_was_just_made_is_read_as_well() -> None:
    pod = PodView.from_wire({"metadata": {"name": "p", "uid": "u"}})
    assert (pod.phase, pod.index, pod.owner_uid, pod.is_running) == ("Pending", -1, None, False)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "٣"])
def test_label_that_is_no_number_matches_nobody(text: str) -> None:
    assert label_number({"k": text}, "k") == -1


def test_claim_and_object_are_read() -> None:
    claim = ClaimView.from_wire({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
    assert (claim.phase, claim.access_modes, claim.deleting) == ("Pending", ("ReadWriteOnce",), False)
    item = {"metadata": {"name": "s", "uid": "u", "annotations": {"windlass.dev/digest": "d"}}}
    assert ObjectView.from_wire("Service", item) == ObjectView("Service", "s", None, "d", "u")


@pytest.mark.fault("F11")
def test_status_of_another_version_is_read_as_far_as_it_goes() -> None:
    status = parse_status(
        {"incarnation": 3, "gang": "nonsense", "fromTheFuture": 1, "progress": {"step": 5, "new": 1}}
    )
    assert (status.incarnation, status.progress.step, status.gang.attempt) == (3, 5, 0)


def test_job_without_version_in_a_list_still_names_its_field() -> None:
    body = a_job().with_spec("resources.nodes", -1).body
    del body["apiVersion"]
    job = Job.from_wire(body)
    assert job.spec is None
    assert job.spec_error is not None and job.spec_error.startswith(
        "spec.resources.nodes: is out of range (got -1)"
    )


@pytest.mark.parametrize(
    ("fields", "rows", "steps", "accumulation"),
    [
        ({"globalBatchSize": 16, "maxSteps": 50}, None, 50, 4),
        ({"globalBatchSize": 16, "epochs": 2}, None, None, 4),
        ({"globalBatchSize": 16, "epochs": 2}, 100, 13, 4),
        ({"globalBatchSize": 16, "microBatchSize": 4, "epochs": 1}, 16, 1, 1),
    ],
)
def test_plan_is_arithmetic(
    fields: dict[str, Any], rows: int | None, steps: int | None, accumulation: int
) -> None:
    spec = (
        a_job()
        .with_nodes(2)
        .with_spec("resources.ranksPerNode", 2)
        .with_spec("training", fields)
        .build()
        .spec
    )
    assert spec is not None
    plan = arithmetic_plan(spec, rows=rows)
    assert (plan.world_size, plan.total_steps, plan.accumulation, plan.warnings) == (
        4,
        steps,
        accumulation,
        [],
    )


def test_plan_warns_of_what_a_careful_reader_would_ask() -> None:
    job = (
        a_job()
        .with_nodes(3)
        .with_spec("checkpoint.everySteps", 500)
        .with_spec("resources.accelerator.count", 4)
    )
    spec = job.build().spec
    assert spec is not None
    warnings = arithmetic_plan(spec).warnings
    assert [text.split(":")[0] for text in warnings] == [
        "checkpoint.everySteps",
        "resources.accelerator.count",
    ]
    packed = (
        job.with_spec("data.packing", True)
        .with_spec("training", {"globalBatchSize": 3, "epochs": 1})
        .build()
        .spec
    )
    assert packed is not None and arithmetic_plan(packed, rows=9).total_steps is None


def test_preflight_refines_the_plan_and_keeps_its_warnings() -> None:
    before = Plan(world_size=2, accumulation=8, warnings=["a"])
    assert with_warnings(Plan(total_steps=7, warnings=["b", "a"]), before) == Plan(
        world_size=2, accumulation=8, total_steps=7, warnings=["a", "b"]
    )


def a_row(incarnation: int, kind: FailureClass, **fields: Any) -> RecoveryRecord:
    row = RecoveryRecord(incarnation=incarnation, rung=Rung.RECREATE_POD, failure_class=kind)
    return row.model_copy(update=fields)


def test_leaders_row_replaces_ours_but_for_what_only_we_know() -> None:
    ours = [
        a_row(2, FailureClass.OUT_OF_MEMORY, exit_code=137),
        a_row(3, FailureClass.INFRASTRUCTURE),
        a_row(4, FailureClass.CRASH),
    ]
    told = [
        a_row(2, FailureClass.INFRASTRUCTURE, lost_steps=5),
        a_row(3, FailureClass.INFRASTRUCTURE, lost_steps=6),
    ]
    merged = merge_recoveries(ours, told)
    assert [(row.incarnation, row.failure_class, row.lost_steps) for row in merged] == [
        (2, FailureClass.OUT_OF_MEMORY, 5),
        (3, FailureClass.INFRASTRUCTURE, 6),
        (4, FailureClass.CRASH, 0),
    ]
    assert merged[0].exit_code == 137


def test_rows_are_the_last_ten() -> None:
    told = [a_row(n, FailureClass.CRASH) for n in range(2, 15)]
    assert [row.incarnation for row in merge_recoveries([], told)] == list(range(5, 15))


def test_new_leader_that_has_claimed_nothing_may_say_what_it_does() -> None:
    before = JobStatus(incarnation=3)
    after = fold(before, a_report(incarnation=0, phase=Phase.IMPORTS))
    assert after.incarnation == 3 and after.progress.phase is Phase.IMPORTS
    assert after.checkpoints == before.checkpoints


def test_folding_never_forgets_output_tracking_or_failure() -> None:
    status = a_status(lastFailure={"reason": "Crash", "class": "Crash"}, output={"uri": "pvc://x"})
    after = fold(status, a_report())
    assert after.last_failure is not None and after.output is not None


def test_conditions_keep_their_order_and_unknown_ones_stay() -> None:
    foreign = merge([], [Aspect(ConditionType.FAILED, "True", Reason.CRASH)], now=at(1), generation=1)
    after = merge(foreign, stalled(Reason.CLAIM_NOT_FOUND, "x" * 5000), now=at(2), generation=2)
    assert [item.type for item in after] == ["Ready", "Reconciling", "Stalled", "Running", "Failed"]
    assert len(after[0].message) == 4096
    assert {item.observed_generation for item in after} == {1, 2}


def test_event_messages_fit_the_api() -> None:
    after = JobStatus(
        conditions=merge([], stalled(Reason.CLAIM_NOT_FOUND, "x" * 3000), now=at(1), generation=1)
    )
    (event,) = events_between(JobStatus(), after)
    assert len(event.message) == 1024 and event.type == "Warning"


def test_recovery_is_told_once_it_is_over() -> None:
    done = a_row(2, FailureClass.CRASH, seconds=RecoverySeconds(total=2.5), resumed_step=40, lost_steps=1)
    after = JobStatus(recoveries=[done])
    (event,) = events_between(JobStatus(), after)
    assert event.message == "RecreatePod after Crash: went on from step 40, 1 step lost"
    assert events_between(after, after) == ()


@pytest.mark.parametrize(
    "reason",
    [
        *(Reason.TRACKING_UNREACHABLE, Reason.SAVE_FAILED, Reason.STORAGE_FULL),
        *(Reason.STALL_SUSPECTED, Reason.STRAGGLER_DETECTED, Reason.NO_CHECKPOINTS),
    ],
)
def test_degradations_have_a_hint(reason: Reason) -> None:
    assert ". hint: " in messages.degraded(reason, "it broke.")
