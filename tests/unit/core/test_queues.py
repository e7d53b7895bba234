"""Runs that wait in a queue: what their pods carry, when they count as waiting, and when a group of theirs is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.core.builders import (
    NOW,
    SETTINGS,
    UID,
    JobBuilder,
    a_job,
    a_pod,
    a_report,
    an_ended_pod,
    at,
    conditions_of,
    judge,
    message_of,
)
from unit.core.pod_security import violations
from windlass.api.status import Condition
from windlass.core import kueue, queues
from windlass.core.decision import Decision, Delete
from windlass.core.facts import gather
from windlass.core.observed import Observed, PodView
from windlass.core.render.gang import whole_gang
from windlass.core.render.pod import pod as render_pod

KUEUE = replace(SETTINGS, kueue=True)
GATES = ("kueue.x-k8s.io/admission",)
GROUP = "triage-11111111-1"


def queued_job(nodes: int = 2) -> JobBuilder:
    return a_job().with_nodes(nodes).with_spec("scheduling.queue", {"kind": "Kueue", "name": "team-a"})


def a_run(*tickets: int, attempt: int = 1, **fields: Any) -> JobBuilder:
    return queued_job().on_attempt(attempt, *tickets, **fields)


def member(index: int, ticket: int, **fields: Any) -> PodView:
    """A pod of the group that has been let through and runs."""
    return a_pod(index, ticket, **({"in_group": True, "is_held": True} | fields))


def gated(index: int, ticket: int, **fields: Any) -> PodView:
    """A pod of the group at its gate."""
    waits = {"phase": "Pending", "node": None, "scheduled_at": None, "started_at": None, "gates": GATES}
    return member(index, ticket, **(waits | fields))


def ended(index: int, ticket: int, exit_code: int = 10, **fields: Any) -> PodView:
    return an_ended_pod(index, ticket, exit_code=exit_code, **({"in_group": True, "is_held": True} | fields))


def leaving(pod: PodView, **fields: Any) -> PodView:
    return replace(pod, deletion_timestamp=NOW + timedelta(seconds=30), **fields)


def decide(job: JobBuilder, **seen: Any) -> Decision:
    return judge(job, **({"settings": KUEUE} | seen))


def pods_of(job: JobBuilder) -> list[dict[str, Any]]:
    built = job.build()
    assert built.spec is not None
    return [dict(item) for item in whole_gang(built, built.spec, settings=SETTINGS) if item["kind"] == "Pod"]


# --- what pods carry ----------------------------------------------------------------------------------


def test_pods_of_a_gang_are_a_group_of_its_size_that_ends_with_its_last_pod() -> None:
    for body in pods_of(queued_job(3)):
        labels, notes = body["metadata"]["labels"], body["metadata"]["annotations"]
        assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
        assert labels["kueue.x-k8s.io/pod-group-name"] == GROUP
        assert notes["kueue.x-k8s.io/pod-group-total-count"] == "3"
        assert notes["kueue.x-k8s.io/retriable-in-group"] == "false"
        assert body["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]
        assert violations(body) == []


def test_one_pod_is_no_group() -> None:
    (body,) = pods_of(queued_job(1))
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert not any(
        "group" in key for key in {**body["metadata"]["labels"], **body["metadata"]["annotations"]}
    )
    assert body["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]


def test_without_a_queue_nothing_is_added() -> None:
    for body in pods_of(a_job().with_nodes(2)):
        assert "schedulingGates" not in body["spec"]
        assert "kueue" not in str(body)


def test_nobody_labels_a_pod_into_another_queue() -> None:
    job = queued_job().with_spec("pod.labels", {"kueue.x-k8s.io/queue-name": "other", "team": "x"})
    assert {body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for body in pods_of(job)} == {"team-a"}


def test_every_attempt_has_a_group_and_a_replacement_is_in_that_of_its_attempt() -> None:
    job = queued_job().build()
    assert job.spec is not None
    groups = [
        render_pod(job, job.spec, one, attempt=attempt, config_map="c", settings=SETTINGS)["metadata"][
            "labels"
        ]["kueue.x-k8s.io/pod-group-name"]
        for attempt, one in (
            (1, a_run(1, 2).build().status.gang.members[0]),
            (1, a_run(9, 2).build().status.gang.members[0]),
            (2, a_run(3, 4).build().status.gang.members[0]),
        )
    ]
    assert groups == [GROUP, GROUP, "triage-11111111-2"]


@given(name=st.from_regex(r"\A[a-z]([-a-z0-9]{0,38}[a-z0-9])?\Z"), attempt=st.integers(1, 99_999))
def test_a_group_name_is_a_label_and_the_name_of_an_object(name: str, attempt: int) -> None:
    group = kueue.group_name(name, UID, attempt)
    assert len(group) <= 63 and group[0].isalpha() and group[-1].isdigit()
    assert set(group) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_pods_are_read_with_gates_group_and_finalizer() -> None:
    (body, _) = pods_of(queued_job())
    body["metadata"] |= {"uid": "u", "finalizers": ["kueue.x-k8s.io/managed"]}
    why = {"type": "TerminationTarget", "status": "True", "reason": "WorkloadEvicted"}
    view = PodView.from_wire(body | {"status": {"conditions": [why]}})
    assert (view.is_gated, view.in_group, view.is_held) == (True, True, True)
    assert view.disruption == "WorkloadEvicted"


@pytest.mark.parametrize(
    ("conditions", "disruption"),
    [
        ([], None),
        ([{"type": "TerminationTarget", "status": "False", "reason": "x"}], None),
        ([{"type": "DisruptionTarget", "status": "False", "reason": "x"}], None),
        (
            [
                {"type": "TerminationTarget", "status": "True", "reason": "WorkloadEvicted"},
                {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"},
            ],
            "DeletionByTaintManager",
        ),
    ],
)
def test_the_cluster_s_word_on_a_pod_goes_before_the_queue_s(
    conditions: list[dict[str, str]], disruption: str | None
) -> None:
    (body,) = pods_of(a_job())
    body["metadata"]["uid"] = "u"
    assert PodView.from_wire(body | {"status": {"conditions": conditions}}).disruption == disruption


# --- waiting ------------------------------------------------------------------------------------------


def test_a_gang_at_its_gates_is_queued_and_not_admitted() -> None:
    decision = decide(a_run(1, 2, admitted_at=None), pods=(gated(0, 1), gated(1, 2)))
    assert conditions_of(decision)["Queued"] == ("True", "Queued")
    assert conditions_of(decision)["Reconciling"] == ("True", "Queued")
    assert message_of(decision) == (
        f"queue team-a has not admitted the pods yet. hint: `kubectl describe workload {GROUP}` shows what "
        "Kueue waits for"
    )
    assert decision.status is not None and "admittedAt" not in decision.status
    seconds = decision.status["goodput"]["seconds"]
    assert (seconds["queued"], seconds["scheduling"]) == (60, 0)


def test_a_job_with_a_queue_is_not_admitted_by_being_accepted() -> None:
    accepted = decide(queued_job())
    assert accepted.status is not None and "admittedAt" not in accepted.status
    other = decide(a_job())
    assert other.status is not None and other.status["admittedAt"] is not None


def test_admission_is_noted_with_what_it_took() -> None:
    job = a_run(1, 2, admitted_at=None)
    job = job.after(decide(job, pods=(gated(0, 1), gated(1, 2))))
    admitted = tuple(replace(pod, gates=()) for pod in (gated(0, 1), gated(1, 2)))
    decision = decide(job, pods=admitted, now=at(90))
    assert decision.status is not None
    assert conditions_of(decision)["Queued"] == ("False", "AsExpected")
    assert decision.status["admittedAt"] == "2026-11-23T12:01:30Z"
    assert decision.status["counters"]["queuedSeconds"] == 90
    assert decision.status["goodput"]["seconds"]["queued"] == 90


def test_a_second_wait_is_added_to_the_first() -> None:
    told = Condition(type="Queued", status="True", reason="Queued", last_transition_time=at(200))
    job = a_run(3, 4, attempt=2, conditions=[told], admitted_at=at(50))
    wire = job.build().status
    counters = wire.counters.model_copy(update={"queued_seconds": 50.0})
    job = job.with_status(wire.model_copy(update={"counters": counters}))
    pods = tuple(member(index, index + 3, attempt=2, scheduled_at=at(259)) for index in (0, 1))
    decision = decide(job, pods=pods, now=at(260))
    assert decision.status is not None
    assert decision.status["counters"]["queuedSeconds"] == 110
    assert decision.status["goodput"]["seconds"]["queued"] == 110
    assert decision.status["admittedAt"] == "2026-11-23T12:00:50Z", "the first admission stays"


@pytest.mark.parametrize(
    ("pods", "waits"),
    [
        ((), False),
        ((gated(0, 1),), True),
        ((gated(0, 1), gated(1, 2)), True),
        ((gated(0, 1), member(1, 2)), False),
        ((leaving(gated(0, 1)), leaving(gated(1, 2))), False),
        ((leaving(gated(0, 1)), gated(1, 2)), True),
        ((ended(0, 1), gated(1, 2)), False),
    ],
)
def test_a_gang_waits_only_as_a_whole(pods: tuple[PodView, ...], waits: bool) -> None:
    facts = gather(a_run(1, 2).build(), Observed(pods=pods), NOW, KUEUE)
    assert queues.is_waiting(facts) is waits


def test_gates_of_others_are_told_and_not_counted_as_a_queue() -> None:
    pods = tuple(
        replace(gated(index, ticket), gates=("example.com/license",)) for index, ticket in ((0, 1), (1, 2))
    )
    job = a_job().on_attempt(1, 1, 2)
    decision = decide(job, pods=pods)
    assert message_of(decision).startswith("scheduling gates hold the pods back: example.com/license")
    after = decide(job.after(decision), pods=(a_pod(0, 1), a_pod(1, 2)), now=at(90))
    assert after.status is not None and "queuedSeconds" not in after.status["counters"]


def test_a_replacement_at_its_gate_is_told_of_by_name() -> None:
    decision = decide(a_run(1, 3), pods=(member(0, 1), gated(1, 3)))
    assert message_of(decision).startswith("pod triage-1-3 may not be given a node yet")
    assert "Queued" not in conditions_of(decision)


# --- whoever should answer and does not ---------------------------------------------------------------


def test_an_operator_without_the_right_makes_no_pod() -> None:
    for job in (queued_job(), a_run(1, 2).with_unmade_pods()):
        decision = judge(job)
        assert conditions_of(decision)["Stalled"] == ("True", "QueueUnavailable")
        assert "operator.kueue.enabled: true" in message_of(decision)
        assert not decision.creates and not decision.applies


def test_an_operator_that_lost_the_right_leaves_a_running_gang_alone() -> None:
    decision = judge(a_run(1, 2), pods=(member(0, 1), member(1, 2)), report=a_report())
    assert conditions_of(decision)["Running"] == ("True", "Training")


@pytest.mark.parametrize(("age", "reason"), [(59.0, "Queued"), (60.0, "QueueUnavailable")])
def test_pods_that_kueue_does_not_notice_are_told_of_after_a_minute(age: float, reason: str) -> None:
    pods = tuple(
        gated(index, ticket, is_held=False, created_at=at(100)) for index, ticket in ((0, 1), (1, 2))
    )
    decision = decide(a_run(1, 2), pods=pods, now=at(100 + age))
    assert conditions_of(decision)["Ready"] == ("False", reason)


# --- places in a group --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "made"),
    [
        (leaving(member(1, 2)), False),
        (ended(1, 2), True),
        (leaving(ended(1, 2)), True),
        (leaving(gated(1, 2)), True),
        (ended(1, 2, exit_code=0), False),
        (None, True),
    ],
)
def test_a_replacement_is_made_once_the_queue_does_not_count_the_old_pod(
    old: PodView | None, made: bool
) -> None:
    job = a_run(1, 3).with_unmade_pods()
    pods = (member(0, 1), *((old,) if old is not None else ()))
    decision = decide(job, pods=pods)
    assert [item["metadata"]["name"] for item in decision.creates] == (["triage-1-3"] if made else [])
    if not made:
        assert message_of(decision).startswith("the queue still counts triage-1-2; a replacement")


def test_without_a_group_a_successor_is_made_at_once() -> None:
    job = queued_job(1).on_attempt(1, 2).with_spec("scheduling.queue", {"name": "team-a"}).with_unmade_pods()
    decision = decide(job, pods=(leaving(a_pod(0, 1, is_held=True)),))
    assert [item["metadata"]["name"] for item in decision.creates] == ["triage-0-2"]


def test_a_pod_on_a_dead_node_leaves_its_place_by_a_new_group() -> None:
    dead = member(1, 2, deletion_timestamp=NOW - timedelta(seconds=31))
    job = a_run(1, 3).with_unmade_pods()
    decision = decide(job, pods=(member(0, 1), dead))
    assert decision.status is not None and decision.status["gang"]["attempt"] == 2
    after = decide(job.after(decision), pods=(member(0, 1), dead))
    assert after.deletes == (Delete("Pod", "triage-0-1", "pod-0-1"),), "one pod still works: the group lives"
    last = decide(job.after(decision), pods=(leaving(ended(0, 1)), dead))
    assert Delete("Workload", GROUP, "") in last.deletes
    gone = decide(job.after(decision), pods=(dead,))
    assert [item["metadata"]["name"] for item in gone.creates] == ["triage-0-4", "triage-1-5"]


KEPT = (ended(0, 1), leaving(gated(1, 2)))


@pytest.mark.parametrize(
    ("seconds", "overdue"), [(30, False), (89, False), (91, True), (3600, True)], ids=lambda value: str(value)
)
def test_pods_that_the_queue_keeps_for_too_long_are_named(seconds: int, overdue: bool) -> None:
    """They have ended, and only Kueue's finalizer holds them: where it does not run, that is for ever."""
    job = a_run(3, 4, attempt=2).with_unmade_pods()
    now = NOW + timedelta(seconds=seconds)
    decision = decide(job, pods=KEPT, now=now)
    assert not decision.creates
    text = message_of(decision, "Ready")
    assert (conditions_of(decision)["Stalled"] == ("True", "QueueUnavailable")) is overdue
    assert text.startswith("Kueue does not let go of triage-0-1, triage-1-2, which have ended") is overdue
    if not overdue:
        assert decision.requeue_after_seconds == pytest.approx(90 - seconds)


GONE = None
FATES = {
    "runs": lambda index: member(index, index + 1),
    "at its gate": lambda index: gated(index, index + 1),
    "failed": lambda index: ended(index, index + 1),
    "succeeded": lambda index: ended(index, index + 1, exit_code=0),
    "gone": lambda index: GONE,
}


@pytest.mark.parametrize(
    ("lost", "other", "over"),
    [
        ("failed", "runs", False),
        ("failed", "at its gate", True),
        ("failed", "failed", True),
        ("failed", "gone", True),
        ("succeeded", "runs", True),
        ("gone", "runs", False),
        ("gone", "at its gate", True),
        ("at its gate", "at its gate", False),
        ("at its gate", "runs", False),
    ],
)
def test_when_a_group_cannot_go_on(lost: str, other: str, over: bool) -> None:
    pods = tuple(pod for pod in (FATES[lost](0), FATES[other](1)) if pod is not None)
    facts = gather(a_run(1, 2).build(), Observed(pods=pods), NOW, KUEUE)
    assert queues.is_over(facts, {0}) is over
    plain = gather(a_job().on_attempt(1, 1, 2).build(), Observed(pods=pods), NOW, KUEUE)
    assert queues.is_over(plain, {0}) is False


def test_an_eviction_costs_nothing_and_asks_for_a_new_group() -> None:
    why = {"deletion_timestamp": NOW + timedelta(seconds=30), "disruption": "WorkloadEvicted"}
    job = a_run(1, 2)
    decision = decide(job, pods=(member(0, 1, **why), member(1, 2, **why)))
    assert decision.status is not None
    assert decision.status["gang"]["attempt"] == 2
    assert "charges" not in decision.status and "lastFailure" not in decision.status
    (row,) = decision.status["recoveries"]
    assert (row["class"], row["rung"]) == ("Preempted", "RecreateGang")
    assert "WorkloadEvicted" in message_of(decision)


@pytest.mark.parametrize(
    ("old", "waits"),
    [
        ((leaving(member(0, 1)), leaving(member(1, 2))), True),
        ((leaving(ended(0, 1)), leaving(ended(1, 2))), True),
        ((leaving(ended(1, 2)),), True),
        ((leaving(ended(1, 2, is_held=False)),), False),
        ((leaving(gated(1, 2)),), True),
        ((), False),
    ],
)
def test_a_new_attempt_waits_until_the_old_group_is_let_go(old: tuple[PodView, ...], waits: bool) -> None:
    decision = decide(a_run(3, 4, attempt=2).with_unmade_pods(), pods=old)
    assert (not decision.creates) is waits


# --- letting go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "released"),
    [
        ((leaving(gated(0, 1)), leaving(gated(1, 2))), True),
        ((leaving(gated(0, 1)), gated(1, 2)), False),
        ((leaving(gated(0, 1)), ended(1, 2)), True),
        ((leaving(ended(0, 1)), leaving(ended(1, 2))), False),
        ((leaving(gated(0, 1, is_held=False)), leaving(gated(1, 2, is_held=False))), False),
        ((leaving(gated(0, 1, in_group=False)),), False),
        ((leaving(member(0, 1)), leaving(member(1, 2))), False),
        ((gated(0, 1), gated(1, 2)), False),
        ((), False),
    ],
)
def test_which_groups_are_let_go(pods: tuple[PodView, ...], released: bool) -> None:
    found = queues.abandoned("triage", UID, pods, lambda _: False)
    assert found == ([Delete("Workload", GROUP, "")] if released else [])


def test_the_name_that_is_let_go_is_never_read_from_a_pod() -> None:
    strange = leaving(gated(0, 1, name="victim-0-1", attempt=7))
    assert queues.abandoned("triage", UID, [strange], lambda _: False) == [
        Delete("Workload", "triage-11111111-7", "")
    ]


@pytest.mark.parametrize("change", ["suspend", "delete"])
def test_a_gang_that_is_dropped_at_its_gates_leaves_its_queue(change: str) -> None:
    job = a_run(1, 2)
    job = job.suspended() if change == "suspend" else job.deleted()
    pods = (leaving(gated(0, 1)), leaving(gated(1, 2)))
    assert Delete("Workload", GROUP, "") in decide(job, pods=pods).deletes
    assert judge(job, pods=pods, settings=SETTINGS).deletes == ()


def test_what_only_the_queue_keeps_is_not_removed_by_force() -> None:
    job = a_run(3, 4, attempt=2).with_spec("recovery.forceDeleteAfterSeconds", 0)
    long_ago = {"deletion_timestamp": NOW - timedelta(seconds=600)}
    decision = decide(job, pods=(ended(0, 1, **long_ago), gated(1, 2, **long_ago)))
    assert not any(delete.force for delete in decision.deletes)
    stuck = decide(job, pods=(member(0, 1, **long_ago),))
    assert [delete.name for delete in stuck.deletes if delete.force] == ["triage-0-1"]
