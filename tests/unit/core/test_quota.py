"""Quota that admits a gang only in part, and hands that change what is ours."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from unit.core.builders import (
    NOW,
    JobBuilder,
    a_job,
    a_pod,
    a_report,
    at,
    conditions_of,
    judge,
    message_of,
    shared,
)
from windlass.api.meta import Reason
from windlass.core.decision import Decision, Event
from windlass.core.judges.gang import PARTIAL_REFUSALS, refusal_pause
from windlass.core.observed import ObjectView, PodView, Refusal

SAID = (
    'pods "triage-2-3" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
)


def refused(count: int, *, reason: Reason = Reason.QUOTA_EXCEEDED, ago: float = 0.0) -> Refusal:
    return Refusal("Pod", "triage-2-3", reason, SAID, at=NOW - timedelta(seconds=ago), count=count)


def gang_of_three() -> JobBuilder:
    return a_job().on_attempt(1, 1, 2, 3).with_unmade_pods()


ADMITTED = (a_pod(0, 1), a_pod(1, 2, phase="Pending"))


def tickets(decision: Decision) -> list[int]:
    assert decision.status is not None
    return [member["ticket"] for member in decision.status["gang"]["members"]]


@pytest.mark.fault("F18")
@pytest.mark.bad_input("B80")
def test_part_of_a_gang_is_given_back_and_says_used_and_limit() -> None:
    decision = judge(gang_of_three(), pods=ADMITTED, refusals=(refused(PARTIAL_REFUSALS),))
    assert tickets(decision) == [4, 5, 6], "all places are new, none of the old pods counts any more"
    assert decision.status is not None and decision.status["gang"]["attempt"] == 1
    assert not decision.creates and not decision.deletes
    assert conditions_of(decision)["Stalled"] == ("True", "QuotaExceeded")
    assert message_of(decision).startswith("the namespace's quota admits 2 of 3 pods, which are given back")
    assert "used: pods=2, limited: pods=2" in message_of(decision)
    assert decision.status["counters"]["backOffSeconds"] == 160


@pytest.mark.fault("F18")
@pytest.mark.fault("F32")
def test_admitted_pods_are_deleted_and_nothing_is_made_until_the_pause_is_over() -> None:
    job = gang_of_three()
    last = refused(PARTIAL_REFUSALS)
    job = job.after(judge(job, pods=ADMITTED, refusals=(last,)))
    waiting = judge(job, pods=ADMITTED, refusals=(last,), now=NOW + timedelta(seconds=1))
    assert [each.name for each in waiting.deletes] == ["triage-0-1", "triage-1-2"]
    assert not waiting.creates and waiting.requeue_after_seconds == 159
    assert waiting.status is None, "it stays QuotaExceeded all the while"
    later = judge(job, pods=(), refusals=(last,), now=NOW + timedelta(seconds=161))
    assert [item["metadata"]["name"] for item in later.creates] == ["triage-0-4", "triage-1-5", "triage-2-6"]


@pytest.mark.parametrize(
    ("pods", "refusal", "released"),
    [
        (ADMITTED, refused(PARTIAL_REFUSALS - 1), False),
        (ADMITTED, refused(PARTIAL_REFUSALS), True),
        (ADMITTED, refused(40), True),
        ((), refused(40), False),
        ((*ADMITTED, a_pod(2, 3)), refused(40), False),
        (ADMITTED, refused(40, reason=Reason.POD_SECURITY_DENIED), False),
        (ADMITTED, replace(refused(40), kind="ConfigMap", name="triage-ca"), False),
    ],
    ids=["not yet", "at last", "again", "nothing admitted", "all admitted", "not quota", "not a pod"],
)
def test_when_a_part_is_given_back(pods: tuple[PodView, ...], refusal: Refusal, released: bool) -> None:
    decision = judge(gang_of_three(), pods=pods, refusals=(refusal,))
    assert ("given back" in str(decision.status)) is released
    if not released and decision.status is not None:
        assert tickets(decision) == [1, 2, 3]


def test_replacement_that_quota_refuses_gives_the_rest_back_too() -> None:
    """A gang that waits for one pod holds what another needs, whether it is starting or recovering."""
    job = a_job().on_attempt(1, 1, 2, incarnation=3)
    members = job.build().status.gang.model_dump(by_alias=True)
    members["members"][1] = {"index": 1, "ticket": 3}
    members["lastTicket"] = 3
    status = job.build().status.to_wire() | {"gang": members}
    decision = judge(job.with_status(status), pods=(a_pod(0, 1),), refusals=(refused(PARTIAL_REFUSALS),))
    assert tickets(decision) == [4, 5]
    assert decision.status is not None
    assert decision.status["incarnation"] == 3 and "charges" not in decision.status
    assert decision.status["recoveries"] == [], "nobody failed"


def test_releasing_costs_no_budget_however_often_it_happens() -> None:
    job = gang_of_three()
    seen = []
    for number in range(PARTIAL_REFUSALS, PARTIAL_REFUSALS + 20):
        now = NOW + timedelta(seconds=400 * number)
        last = replace(refused(number), at=now)
        places = job.build().status.gang.members[:2]
        admitted = tuple(a_pod(each.index, each.ticket, uid=f"u-{each.ticket}") for each in places)
        decision = judge(job, pods=admitted, refusals=(last,), now=now)
        assert conditions_of(decision)["Stalled"] == ("True", "QuotaExceeded")
        seen += tickets(decision)
        job = job.after(decision)
    assert len(seen) == len(set(seen))
    assert job.build().status.charges is None


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300), (10**9, 300)],
)
def test_pauses_between_refusals_double_up_to_five_minutes(count: int, seconds: float) -> None:
    assert refusal_pause(refused(count)) == seconds


def test_suspending_a_gang_that_was_given_back_ends_the_waiting() -> None:
    job = gang_of_three()
    job = job.after(judge(job, pods=ADMITTED, refusals=(refused(PARTIAL_REFUSALS),)))
    decision = judge(job.suspended(), pods=())
    assert conditions_of(decision)["Suspended"] == ("True", "Suspended")
    assert decision.status is not None and "backOffUntil" not in decision.status


# --- hands -----------------------------------------------------------------------------------------

BOTH = (a_pod(0, 1), a_pod(1, 2))


def edited(job: JobBuilder, *kinds: str) -> tuple[ObjectView, ...]:
    """The run's objects, some of them changed by somebody."""
    return tuple(
        replace(view, digest=None) if view.kind in kinds and view.digest is not None else view
        for view in shared(job.build())
    )


def told(decision: Decision) -> list[Event]:
    return [event for event in decision.events if event.reason is Reason.DRIFT_CORRECTED]


@pytest.mark.bad_input("B72")
@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (("Service",), ["Service triage"]),
        (("NetworkPolicy",), ["NetworkPolicy triage"]),
        (("ConfigMap",), ["ConfigMap triage-ca"]),
        (("Service", "NetworkPolicy"), ["Service triage", "NetworkPolicy triage"]),
        ((), []),
    ],
    ids=str,
)
def test_edited_object_is_put_back_and_told_once(kinds: tuple[str, ...], names: list[str]) -> None:
    job = a_job().on_attempt(1, 1, 2)
    decision = judge(job, pods=BOTH, objects=edited(job, *kinds), report=a_report())
    assert [f"{item['kind']} {item['metadata']['name']}" for item in decision.applies] == names
    assert [(event.type, event.message.split(" was ")[0]) for event in told(decision)] == [
        ("Warning", name) for name in names
    ]
    after = judge(job.after(decision), pods=BOTH, report=a_report())
    assert told(after) == [] and after.applies == ()


@pytest.mark.bad_input("B72")
def test_training_goes_on_as_if_nothing_had_been_edited() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))
    decision = judge(job, pods=BOTH, objects=edited(job, "Service"), report=a_report())
    assert decision.status is None, "Running stays true"
    assert decision.applies and not decision.creates and not decision.deletes
    assert len(told(decision)) == 1


def test_object_that_vanished_or_is_of_an_older_operator_is_no_drift() -> None:
    job = a_job().on_attempt(1, 1, 2)
    gone = tuple(view for view in shared(job.build()) if view.kind != "Service")
    older = tuple(
        replace(view, digest="another") if view.kind == "Service" else view for view in shared(job.build())
    )
    for objects in (gone, older):
        decision = judge(job, pods=BOTH, objects=objects, report=a_report())
        assert [item["kind"] for item in decision.applies] == ["Service"]
        assert told(decision) == []


def test_configuration_in_use_is_immutable_and_never_put_back() -> None:
    job = a_job().on_attempt(1, 1, 2)
    decision = judge(job, pods=BOTH, objects=shared(job.build()), report=a_report(), now=at(61))
    assert decision.applies == () and told(decision) == []


def test_edit_while_pods_are_missing_is_told_beside_the_start() -> None:
    job = a_job().on_attempt(1, 1, 2).with_unmade_pods()
    decision = judge(job, pods=(), objects=edited(job, "Service"))
    assert len(decision.creates) == 2 and len(decision.applies) == 1
    assert len(told(decision)) == 1 and decision.events[0].reason is Reason.DRIFT_CORRECTED
