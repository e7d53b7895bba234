"""The limit for a gang that is only half there: when it counts, what it gives back, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import (
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
from unit.core.test_queues import GATES, decide
from windlass.api.status import Charges, Condition
from windlass.core.decision import Decision, Delete
from windlass.core.observed import PodView

LIMIT = 60
NO_ROOM = "0/4 nodes are available: 4 Insufficient memory."


def a_run(**spec: Any) -> JobBuilder:
    job = a_job().on_attempt(1, 1, 2).with_spec("scheduling.gangStartSeconds", LIMIT)
    for path, value in spec.items():
        job = job.with_spec(path.replace("__", "."), value)
    return job


def pending(index: int, ticket: int, **fields: Any) -> PodView:
    waits = {
        "phase": "Pending",
        "node": None,
        "scheduled_at": None,
        "started_at": None,
        "unschedulable": NO_ROOM,
    }
    return a_pod(index, ticket, **(waits | fields))


def attempt_of(decision: Decision) -> int:
    assert decision.status is not None
    return int(decision.status["gang"]["attempt"])


HALF = (a_pod(0, 1), pending(1, 2))
DUE = 2 + LIMIT


def test_half_a_gang_is_given_back_and_says_what_was_missing() -> None:
    decision = judge(a_run(), pods=HALF, now=at(DUE))
    assert attempt_of(decision) == 2
    assert conditions_of(decision)["Stalled"] == ("True", "GangNotStarted")
    text = message_of(decision)
    assert text.startswith(
        "1 of 2 pods ran within scheduling.gangStartSeconds (60): no node takes pod triage-1-2"
    )
    assert (
        "all pods are given back, and the next try waits" in text and "hint: lower resources.perNode" in text
    )
    assert decision.status is not None
    assert decision.status["lastFailure"]["reason"] == "GangNotStarted"
    assert decision.status["charges"]["used"] == {"Infrastructure": 1}
    (row,) = decision.status["recoveries"]
    assert (row["rung"], row["class"], row["firstFailed"]["pod"]) == (
        "RecreateGang",
        "Infrastructure",
        "triage-1-2",
    )


def test_the_others_nodes_are_free_before_the_next_try() -> None:
    job = a_run()
    job = job.after(judge(job, pods=HALF, now=at(DUE)))
    first = judge(job, pods=HALF, now=at(DUE))
    assert first.deletes == (Delete("Pod", "triage-0-1", "pod-0-1"), Delete("Pod", "triage-1-2", "pod-1-2"))
    assert not first.creates
    waits = judge(job, pods=(), now=at(DUE + 1))
    assert not waits.creates and waits.requeue_after_seconds is not None
    again = judge(job, pods=(), now=at(DUE + 13))
    assert [item["metadata"]["name"] for item in again.creates] == ["triage-0-3", "triage-1-4"]


def test_the_first_try_waits_too_and_not_all_runs_alike() -> None:
    pauses = set()
    for uid in ("a", "b", "c", "d"):
        job = a_run()
        job.body["metadata"]["uid"] = uid
        pods = tuple(replace(pod, owner_uid=uid) for pod in HALF)
        decision = judge(job, pods=pods, now=at(DUE))
        assert decision.status is not None
        pauses.add(decision.status["counters"]["backOffSeconds"])
    assert len(pauses) == 4 and all(8 <= pause <= 12 for pause in pauses)


@pytest.mark.parametrize(
    ("pods", "seconds", "given_back"),
    [
        (HALF, DUE - 0.1, False),
        (HALF, DUE, True),
        ((a_pod(0, 1), a_pod(1, 2)), 1000, False),
        ((pending(0, 1), pending(1, 2)), DUE, True),
        ((pending(0, 1, created_at=at(2)), pending(1, 2, created_at=at(40))), DUE, True),
        ((a_pod(0, 1), pending(1, 2, created_at=at(40))), DUE, False),
        ((a_pod(0, 1), pending(1, 2, created_at=at(40))), 40 + LIMIT, True),
        ((a_pod(0, 1), a_pod(1, 2, phase="Pending", waiting_reason="ContainerCreating")), DUE, True),
    ],
)
def test_when_a_gang_counts_as_late(pods: tuple[PodView, ...], seconds: float, given_back: bool) -> None:
    decision = judge(a_run(), pods=pods, now=at(seconds))
    assert (decision.status is not None and attempt_of(decision) == 2) is given_back


def test_without_a_limit_a_gang_waits_for_ever() -> None:
    job = a_job().on_attempt(1, 1, 2)
    assert attempt_of(judge(job, pods=HALF, now=at(1_000_000))) == 1


def test_the_timer_is_set_for_the_limit() -> None:
    assert judge(a_run(), pods=HALF, now=at(20)).requeue_after_seconds == DUE - 20


def test_a_wait_in_a_queue_does_not_count() -> None:
    job = a_run(scheduling__queue={"name": "team-a"})
    held = {"in_group": True, "is_held": True}
    pods = tuple(
        replace(pending(index, index + 1), gates=GATES, unschedulable=None, **held) for index in (0, 1)
    )
    waiting = decide(job, pods=pods, now=at(500))
    assert conditions_of(waiting)["Ready"] == ("False", "Queued")
    job = job.after(waiting)
    admitted = tuple(replace(pod, gates=(), unschedulable=NO_ROOM) for pod in pods)
    job = job.after(decide(job, pods=admitted, now=at(600)))
    assert attempt_of(job_now(decide(job, pods=admitted, now=at(600 + LIMIT - 1)), job)) == 1
    assert attempt_of(decide(job, pods=admitted, now=at(600 + LIMIT))) == 2


def job_now(decision: Decision, job: JobBuilder) -> Decision:
    """The decision, or one that says what is stored where it writes nothing."""
    return decision if decision.status is not None else Decision(status=job.build().status.to_wire())


@pytest.mark.parametrize("late", [0, 1, 10_000])
def test_a_gang_that_trains_with_fewer_nodes_has_started(late: int) -> None:
    """However long the other pod waits; and nobody looks again at once for that."""
    job = a_run(recovery__elastic={"minNodes": 1})
    report = a_report(nodes=1, sent_at=at(DUE + late))
    decision = judge(job, pods=HALF, report=report, now=at(DUE + late))
    assert attempt_of(decision) == 1
    assert decision.requeue_after_seconds is None or decision.requeue_after_seconds >= 1


def test_it_stays_so_for_an_operator_that_has_heard_nothing_yet() -> None:
    """After a takeover, and between two lives of the ranks, no report says how many nodes train."""
    job = a_run(recovery__elastic={"minNodes": 1})
    report = a_report(nodes=1, sent_at=at(DUE))
    job = job.after(judge(job, pods=HALF, report=report, now=at(DUE)))
    for report in (None, a_report(nodes=None, sent_at=at(DUE + 10))):
        decision = judge(job, pods=HALF, report=report, now=at(DUE + 10))
        assert attempt_of(job_now(decision, job)) == 1
        status = job_now(decision, job).status
        assert status is not None and "charges" not in status


def test_a_gang_that_may_go_on_with_those_it_has_is_left_to_its_leader() -> None:
    job = a_run(recovery__elastic={"minNodes": 1, "waitSeconds": 3600})
    assert attempt_of(job_now(judge(job, pods=HALF, now=at(DUE)), job)) == 1


def test_what_the_leader_says_of_its_ranks_counts_more_than_pods_that_a_cache_shows() -> None:
    job = a_run()
    decision = judge(job, pods=HALF, report=a_report(nodes=2, sent_at=at(DUE)), now=at(DUE))
    assert attempt_of(job_now(decision, job)) == 1


def test_the_budget_ends_it_and_a_pod_that_ran_clears_it() -> None:
    used = Charges(used={"Infrastructure": 2}, recent={"Infrastructure": [at(1), at(2)]}, incarnation=0)
    job = a_run(recovery__budgets={"infrastructure": 2})
    wire = job.build().status
    spent = job.with_status(wire.model_copy(update={"charges": used}))
    decision = judge(spent, pods=HALF, now=at(DUE))
    assert conditions_of(decision)["Failed"] == ("True", "BudgetExhausted")
    assert "gangStartSeconds" in message_of(decision, "Failed")
    after = job.with_status(wire.model_copy(update={"charges": used, "incarnation": 1}))
    assert attempt_of(judge(after, pods=HALF, now=at(DUE))) == 2


@pytest.mark.parametrize("state", ["suspended", "paused", "deleted", "finished"])
def test_whoever_rests_is_not_late(state: str) -> None:
    job = a_run()
    if state == "suspended":
        job = job.suspended()
    elif state == "deleted":
        job = job.deleted()
    else:
        kind = "Complete" if state == "finished" else "Suspended"
        reason = "Completed" if state == "finished" else "NonFinite"
        told = Condition(type=kind, status="True", reason=reason, last_transition_time=at(30))
        update: dict[str, Any] = {"conditions": [told], "suspended_at": at(30) if state == "paused" else None}
        job = job.with_status(job.build().status.model_copy(update=update))
    decision = judge(job, pods=HALF, now=at(DUE))
    assert decision.status is None or attempt_of(decision) == 1


def test_a_lost_pod_is_judged_as_lost() -> None:
    decision = judge(a_run(), pods=(a_pod(0, 1), an_ended_pod(1, 2, exit_code=10)), now=at(DUE))
    assert attempt_of(decision) == 1
    assert decision.status is not None and decision.status["lastFailure"]["reason"] == "Crash"


@settings(max_examples=60, deadline=None)
@given(
    now=st.integers(0, 400),
    made=st.lists(st.integers(0, 200), min_size=2, max_size=2),
    run=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_a_gang_is_late_exactly_when_its_eldest_missing_pod_is(
    now: int, made: list[int], run: list[bool]
) -> None:
    pods = tuple(
        a_pod(index, index + 1, created_at=at(made[index]))
        if run[index]
        else pending(index, index + 1, created_at=at(made[index]))
        for index in (0, 1)
    )
    missing = [made[index] for index in (0, 1) if not run[index]]
    late = bool(missing) and now >= min(missing) + LIMIT
    decision = judge(a_run(), pods=pods, now=at(now))
    assert (decision.status is not None and attempt_of(decision) == 2) is late
    assert decision.requeue_after_seconds is None or decision.requeue_after_seconds > 0
    if late:
        assert decision.status is not None
        assert decision.status["backOffUntil"] > (at(now) + timedelta(seconds=7)).isoformat().replace(
            "+00:00", "Z"
        )
