"""Runs that a guard has paused: what is written, when the pods go, and what lets them go on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from unit.core.builders import NOW, SETTINGS, a_job, a_pod, a_report, an_ended_pod, at, claims, shared
from windlass.api.contract import Verdict
from windlass.api.meta import ConditionType, ExitCode, FailureClass, Reason
from windlass.api.status import Condition, Failure
from windlass.core.decision import Decision
from windlass.core.observed import Job, Observed
from windlass.core.reconcile import decide
from windlass.core.status.conditions import find, is_true

FAILURE = Failure(
    reason=Reason.NON_FINITE, failure_class=FailureClass.NUMERIC, message="step 45: loss nan", hint="look"
)


def training(**spec: object) -> Job:
    job = a_job().on_attempt(1, 1, 2)
    for path, value in spec.items():
        job = job.with_spec(path, value)
    return job.build()


def verdict(failure: Failure | None = FAILURE) -> Verdict:
    return Verdict(result="Paused", step=40, lost_steps=4, incarnation=1, failure=failure)


def decided(job: Job, now=NOW, **seen: object) -> Decision:
    report = seen.get("report")
    objects = shared(job) if job.status.gang.members else ()
    heard = report.sent_at if report is not None else None
    return decide(job, Observed(objects=objects, claims=claims(), heard_at=heard, **seen), now, SETTINGS)


def after(job: Job, decision: Decision) -> Job:
    """The job with what was written."""
    if decision.status is None:
        return job
    return replace(job, status=type(job.status).model_validate(decision.status))


def paused(job: Job | None = None, reason: str = Reason.NON_FINITE) -> Job:
    job = job or training()
    failure = FAILURE.model_copy(update={"reason": reason})
    return after(
        job, decided(job, pods=(a_pod(0, 1), a_pod(1, 2)), report=a_report(verdict=verdict(failure)))
    )


def rested(job: Job | None = None) -> Job:
    job = job or paused()
    return after(job, decided(job))


@pytest.mark.parametrize("reason", [Reason.NON_FINITE, Reason.LOSS_SPIKE])
def test_the_verdict_becomes_a_condition_that_says_why_and_what_to_do(reason):
    status = paused(reason=reason).status
    for kind in (ConditionType.READY, ConditionType.STALLED, ConditionType.SUSPENDED):
        found = find(status.conditions, kind)
        assert (found.reason, found.message) == (reason, "step 45: loss nan. hint: look")
    assert is_true(status.conditions, ConditionType.STALLED)
    assert is_true(status.conditions, ConditionType.SUSPENDED)
    assert not is_true(status.conditions, ConditionType.RUNNING)
    assert (status.suspended_at, status.finished_at) == (NOW, None)
    assert status.last_failure.reason == reason


def test_the_verdict_is_read_from_the_pod_when_no_report_came():
    pod = an_ended_pod(0, 1, exit_code=int(ExitCode.PREEMPTED))
    pod = replace(pod, termination_message=verdict().model_dump_json(by_alias=True))
    job = training()
    status = after(job, decided(job, pods=(pod, a_pod(1, 2)))).status
    assert find(status.conditions, ConditionType.SUSPENDED).reason == Reason.NON_FINITE


@pytest.mark.parametrize("failure", [None, FAILURE.model_copy(update={"reason": "Unheard"})])
def test_a_verdict_in_unknown_words_pauses_all_the_same(failure):
    job = training()
    status = after(job, decided(job, pods=(a_pod(0, 1),), report=a_report(verdict=verdict(failure)))).status
    assert find(status.conditions, ConditionType.SUSPENDED).reason == Reason.NON_FINITE


def test_a_follower_that_leaves_first_is_no_loss():
    pod = an_ended_pod(1, 2, exit_code=int(ExitCode.PREEMPTED))
    pod = replace(pod, termination_message=verdict().model_dump_json(by_alias=True), finished_at=NOW)
    job = training()
    made = decided(job, pods=(a_pod(0, 1), pod), report=a_report())
    assert after(job, made).status.gang == job.status.gang


def test_pods_are_removed_and_then_the_gang_is_forgotten():
    job = training()
    pods = (a_pod(0, 1), a_pod(1, 2))
    first = decided(job, pods=pods, report=a_report(verdict=verdict()))
    assert [each.name for each in first.deletes] == ["triage-0-1", "triage-1-2"]
    job = after(job, first)
    # Should that have been cut short, it is done again.
    made = decided(job, pods=(a_pod(0, 1), a_pod(1, 2)))
    assert [each.name for each in made.deletes] == ["triage-0-1", "triage-1-2"]
    assert made.status is None
    leaving = tuple(replace(each, deletion_timestamp=NOW) for each in (a_pod(0, 1), a_pod(1, 2)))
    assert decided(job, pods=leaving).deletes == ()
    gone = decided(job)
    assert gone.confirm_absent == ("triage-0-1", "triage-1-2")
    status = after(job, gone).status
    assert (status.gang.members, status.gang.last_ticket, status.run_config) == ([], 2, None)
    assert status.suspended_at == NOW


def test_nothing_happens_until_the_spec_changes():
    job = rested()
    for minutes in (1, 60, 6000):
        made = decided(job, now=NOW + timedelta(minutes=minutes))
        assert (made.status, made.creates, made.deletes, made.requeue_after_seconds) == (None, (), (), None)


def test_no_deadline_runs_meanwhile():
    job = rested(paused(training(activeDeadlineSeconds=3600)))
    made = decided(job, now=NOW + timedelta(days=3))
    assert (made.status, made.requeue_after_seconds) == (None, None)


def changed(job: Job) -> Job:
    return replace(job, generation=job.generation + 1)


def test_another_spec_lets_the_run_go_on_and_counts_the_pause():
    job = changed(rested())
    now = NOW + timedelta(seconds=500)
    made = decided(job, now=now)
    job = after(job, made)
    assert job.status.counters.suspended_seconds == 500
    assert job.status.suspended_at is None
    assert [each.message for each in made.events] == ["the spec was changed"]
    assert not is_true(job.status.conditions, ConditionType.STALLED)
    job = after(job, decided(job, now=now))
    assert (job.status.gang.attempt, [each.ticket for each in job.status.gang.members]) == (2, [3, 4])
    assert len(decided(job, now=now).creates) == 2


def test_a_spec_that_changes_before_the_pods_are_gone_waits_for_them():
    job = changed(paused())
    pods = (a_pod(0, 1), a_pod(1, 2))
    ended = replace(
        an_ended_pod(0, 1, exit_code=int(ExitCode.PREEMPTED)),
        termination_message=verdict().model_dump_json(by_alias=True),
    )
    assert len(decided(job, pods=pods).deletes) == 2
    # The old leader's verdict does not pause the new spec.
    status = after(job, decided(job, pods=(ended,))).status
    assert find(status.conditions, ConditionType.SUSPENDED).observed_generation == 1
    job = after(job, decided(job))
    assert job.status.gang.members == []
    job = after(job, decided(job))
    assert find(job.status.conditions, ConditionType.READY).reason == Reason.RESUMED


def test_suspending_and_resuming_lets_it_go_on_too():
    job = rested()
    builder = job.spec.model_copy(update={"suspend": True})
    held = replace(changed(job), spec=builder)
    held = after(held, decided(held, now=at(600)))
    assert find(held.status.conditions, ConditionType.SUSPENDED).reason == Reason.SUSPENDED
    freed = replace(changed(held), spec=job.spec)
    freed = after(freed, decided(freed, now=at(700)))
    assert find(freed.status.conditions, ConditionType.READY).reason == Reason.RESUMED


def test_a_plain_suspension_is_no_pause():
    held = Condition(type="Suspended", status="True", reason="Suspended", last_transition_time=at(30))
    job = training()
    status = job.status.model_copy(update={"conditions": [held], "suspended_at": at(30)})
    job = replace(job, status=status)
    made = after(job, decided(job, pods=(a_pod(0, 1), a_pod(1, 2))))
    assert find(made.status.conditions, ConditionType.READY).reason == Reason.RESUMED
