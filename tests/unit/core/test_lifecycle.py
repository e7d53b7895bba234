"""Judges about a run's beginning and end."""

from __future__ import annotations

from datetime import datetime

import pytest

from unit.core.builders import (
    NOW,
    JobBuilder,
    a_checkpoint,
    a_job,
    a_pod,
    a_report,
    an_ended_pod,
    at,
    conditions_of,
    judge,
    message_of,
)
from windlass.api.contract import Verdict
from windlass.api.meta import FailureClass, Reason
from windlass.api.status import Condition, Counters, Failure, Progress
from windlass.core.decision import Delete

RUNNING = (a_pod(0, 1), a_pod(1, 2))


def condition(type: str, status: str, reason: str) -> Condition:
    return Condition(type=type, status=status, reason=reason, last_transition_time=at(10))  # type: ignore[arg-type]


def finished(type: str = "Complete", reason: str = "Completed", **fields: object):
    return a_job().on_attempt(
        1, 1, 2, conditions=[condition(type, "True", reason)], finished_at=at(30), **fields
    )


def suspended_job():
    return a_job().on_attempt(1, 1, 2).suspended()


def test_first_decision_is_only_a_status_write() -> None:
    decision = judge(a_job().with_nodes(2))
    assert conditions_of(decision)["Ready"] == ("False", "Accepted")
    assert decision.status is not None
    assert decision.status["gang"]["members"] == [{"index": 0, "ticket": 1}, {"index": 1, "ticket": 2}]
    assert not decision.applies and not decision.creates


def test_first_status_holds_the_plan_of_the_spec() -> None:
    decision = judge(a_job().with_nodes(2))
    assert decision.status is not None
    plan = decision.status["plan"]
    assert (plan["totalSteps"], plan["worldSize"], plan["accumulation"]) == (100, 2, 8)


@pytest.mark.fault("F3")
@pytest.mark.bad_input("B75")
def test_deleted_job_is_left_to_its_owner_references() -> None:
    decision = judge(a_job().on_attempt(1, 1, 2).deleted(), pods=RUNNING)
    assert decision.is_idle
    assert decision.orders.action == "Stop"


@pytest.mark.parametrize(("type", "reason"), [("Complete", "Completed"), ("Failed", "Crash")])
def test_finished_job_writes_nothing(type: str, reason: str) -> None:
    pods = (an_ended_pod(0, 1, exit_code=0), an_ended_pod(1, 2, exit_code=0))
    decision = judge(finished(type, reason), pods=pods, report=a_report())
    assert decision.is_idle
    assert decision.requeue_after_seconds is None


def test_finished_job_ignores_a_changed_spec() -> None:
    job = finished().suspended().with_nodes(3)
    assert judge(job, pods=()).is_idle


def test_finished_job_waits_for_its_ttl() -> None:
    decision = judge(finished().with_spec("ttlSecondsAfterFinished", 100), now=at(60))
    assert decision.requeue_after_seconds == 70
    assert decision.deletes == ()


def test_ttl_deletes_the_job_itself() -> None:
    job = finished().with_spec("ttlSecondsAfterFinished", 100)
    decision = judge(job, now=at(130))
    assert decision.deletes == (Delete("FineTuneJob", "triage", job.build().uid),)


def test_pods_of_a_finished_job_may_leave_by_themselves() -> None:
    pods = (an_ended_pod(0, 1, exit_code=0), a_pod(1, 2))
    soon, late = (judge(finished(), now=at(seconds), pods=pods) for seconds in (40, 91))
    assert soon.deletes == () and soon.requeue_after_seconds == 50
    assert [each.name for each in late.deletes] == ["triage-1-2"]


def test_pods_that_never_ran_are_deleted_when_the_job_has_failed() -> None:
    pods = (a_pod(0, 1, phase="Pending", started_at=None), a_pod(1, 2, phase="Pending"))
    decision = judge(finished("Failed", "StartDeadlineExceeded"), now=at(31), pods=pods)
    assert len(decision.deletes) == 2


def test_success_is_taken_from_the_report() -> None:
    verdict = Verdict(result="Succeeded", step=100, incarnation=1)
    decision = judge(a_job().on_attempt(1, 1, 2), pods=RUNNING, report=a_report(verdict=verdict))
    assert conditions_of(decision)["Complete"] == ("True", "Completed")
    assert conditions_of(decision)["Ready"] == ("True", "Completed")
    assert decision.status is not None and decision.status["progress"]["step"] == 100


@pytest.mark.fault("F22")
def test_success_is_taken_from_the_pod_when_no_report_arrived() -> None:
    verdict = Verdict(result="Succeeded", step=100, incarnation=1)
    pods = (an_ended_pod(0, 1, exit_code=0, verdict=verdict), a_pod(1, 2))
    decision = judge(a_job().on_attempt(1, 1, 2), pods=pods)
    assert conditions_of(decision)["Complete"] == ("True", "Completed")
    assert decision.status is not None
    assert decision.status["output"]["uri"].startswith("pvc://checkpoints/team/team/triage/")


def test_no_output_is_claimed_without_export() -> None:
    verdict = Verdict(result="Succeeded", step=100)
    job = a_job().on_attempt(1, 1).with_spec("checkpoint.export", "None")
    decision = judge(job, pods=(an_ended_pod(0, 1, exit_code=0, verdict=verdict),))
    assert decision.status is not None and "output" not in decision.status


@pytest.mark.fault("F45")
def test_success_of_another_member_is_no_success_of_the_run() -> None:
    verdict = Verdict(result="Succeeded", step=100)
    pods = (a_pod(0, 1), an_ended_pod(1, 2, exit_code=0, verdict=verdict, finished_at=at(58)))
    decision = judge(a_job().on_attempt(1, 1, 2), pods=pods)
    assert decision.status is None or "Complete" not in conditions_of(decision)


def test_failure_names_rank_cause_and_next_step() -> None:
    failure = Failure(
        reason="DataNotFound", failure_class=FailureClass.CONFIGURATION, message="no file", hint="check it"
    )
    verdict = Verdict(result="Failed", step=0, failure=failure)
    decision = judge(a_job().on_attempt(1, 1), pods=(an_ended_pod(0, 1, exit_code=11, verdict=verdict),))
    assert conditions_of(decision)["Failed"] == ("True", "DataNotFound")
    assert message_of(decision) == "no file. hint: check it"
    assert [(event.type, event.reason) for event in decision.events] == [("Warning", Reason.DATA_NOT_FOUND)]


def test_failure_of_an_unknown_reason_is_a_crash() -> None:
    failure = Failure(reason="FromTheFuture", failure_class=FailureClass.CRASH, message="new words")
    verdict = Verdict(result="Failed", failure=failure)
    decision = judge(a_job().on_attempt(1, 1), pods=(an_ended_pod(0, 1, exit_code=10, verdict=verdict),))
    assert conditions_of(decision)["Failed"] == ("True", "Crash")


def test_failed_verdict_without_failure_still_says_something() -> None:
    pods = (an_ended_pod(0, 1, exit_code=17, verdict=Verdict(result="Failed")),)
    decision = judge(a_job().on_attempt(1, 1), pods=pods)
    assert message_of(decision, "Failed") == "the leader failed without a reason"


def test_invalid_spec_is_a_condition_that_names_the_field() -> None:
    decision = judge(a_job().with_spec("resources.nodes", 0))
    assert conditions_of(decision)["Stalled"] == ("True", "InvalidSpec")
    assert message_of(decision) == (
        "spec.resources.nodes: is out of range (got 0); allowed: 1 to 4096. hint: set spec.suspend: true to pause a run"
    )


def test_invalid_spec_leaves_running_pods_alone() -> None:
    decision = judge(a_job().on_attempt(1, 1).with_spec("resources.nodes", 0), pods=(a_pod(0, 1),))
    assert not decision.deletes and decision.orders.action == "Continue"


def test_suspend_asks_a_working_gang_to_save_before_it_deletes() -> None:
    decision = judge(suspended_job(), pods=RUNNING, report=a_report())
    assert decision.orders.action == "SaveAndExit"
    assert decision.deletes == ()
    assert conditions_of(decision)["Suspended"] == ("False", "Suspending")
    assert decision.requeue_after_seconds == 120


def test_suspend_deletes_at_once_what_is_not_at_work() -> None:
    pods = (a_pod(0, 1, phase="Pending", started_at=None), a_pod(1, 2))
    assert len(judge(suspended_job(), pods=pods).deletes) == 2


@pytest.mark.parametrize(
    ("told", "listens", "saves"),
    [
        (at(590), None, True),
        (at(500), None, False),
        # A new operator: what the one before wrote last may be old, the leader has not spoken to this one yet.
        (at(500), at(590), True),
        (at(500), at(500), False),
        # No leader has ever been heard: there is nobody to ask.
        (None, at(590), False),
    ],
)
def test_suspend_asks_whoever_was_heard_or_could_not_be_yet(
    told: datetime | None, listens: datetime | None, saves: bool
) -> None:
    progress = Progress(step=40, updated_at=told)
    job = a_job().on_attempt(1, 1, 2, progress=progress).suspended()
    decision = judge(job, now=at(600), pods=RUNNING, listening_since=listens)
    assert decision.orders.action == "SaveAndExit", "also for whoever is deleted"
    assert (decision.deletes == ()) is saves


def test_suspend_deletes_after_the_grace_period() -> None:
    job = a_job().on_attempt(1, 1, 2, suspended_at=at(10)).suspended()
    now = at(131)
    decision = judge(job, now=now, pods=RUNNING, report=a_report(sent_at=now), heard_at=now)
    assert len(decision.deletes) == 2


def test_suspended_job_forgets_its_pods_and_keeps_its_tickets() -> None:
    job = a_job().on_attempt(1, 1, 2, suspended_at=at(10), checkpoints=[a_checkpoint(40)]).suspended()
    decision = judge(job, pods=())
    assert decision.status is not None
    assert conditions_of(decision)["Suspended"] == ("True", "Suspended")
    assert decision.status["gang"] == {"attempt": 1, "lastTicket": 2, "members": []}
    assert decision.confirm_absent == ("triage-0-1", "triage-1-2")
    assert "from step 40" in message_of(decision)


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (a_job(), "no pods were made"),
        (a_job().on_attempt(1, 1), "no pods; the run goes on from step 0 when spec.suspend is false"),
    ],
    ids=["never begun", "nothing saved yet"],
)
def test_suspended_job_says_from_where_it_will_go_on(job: JobBuilder, text: str) -> None:
    assert message_of(judge(job.suspended(), pods=())) == text


def test_suspended_job_writes_nothing_more() -> None:
    job = a_job().on_attempt(1, 1, 2, suspended_at=at(10)).suspended()
    decision = judge(job, pods=())
    again = judge(job.after(decision), pods=(), now=at(500))
    assert again.is_idle and again.requeue_after_seconds is None


def test_resuming_counts_the_pause_and_starts_another_attempt() -> None:
    job = a_job().on_attempt(1, 1, 2, suspended_at=at(10)).suspended()
    job = job.after(judge(job, pods=(), now=at(20))).suspended(False)
    resumed = judge(job, pods=(), now=at(50))
    assert resumed.status is not None
    assert resumed.status["counters"]["suspendedSeconds"] == 30
    assert not resumed.creates
    started = judge(job.after(resumed), pods=(), now=at(51))
    assert started.status is not None
    assert started.status["gang"]["attempt"] == 2
    assert [member["ticket"] for member in started.status["gang"]["members"]] == [3, 4]


def test_active_deadline_does_not_count_suspended_time() -> None:
    fields = {"started_at": at(0), "counters": Counters(suspended_seconds=30)}
    job = a_job().on_attempt(1, 1, 2, **fields).with_spec("activeDeadlineSeconds", 60)
    assert judge(job, now=at(89), pods=RUNNING).requeue_after_seconds == pytest.approx(1)
    decision = judge(job, now=at(90), pods=RUNNING)
    assert conditions_of(decision)["Failed"] == ("True", "DeadlineExceeded")
    assert decision.orders.action == "Stop"
    assert message_of(decision).startswith("the run took longer than activeDeadlineSeconds (60). hint: ")


def test_start_deadline_says_what_was_waited_for() -> None:
    job = a_job().with_spec("startDeadlineSeconds", 100)
    waiting = judge(job, claims=())
    assert waiting.requeue_after_seconds == 40
    decision = judge(job.after(waiting), claims=(), now=at(100))
    assert conditions_of(decision)["Failed"] == ("True", "StartDeadlineExceeded")
    assert "last: ClaimNotFound: PersistentVolumeClaim checkpoints does not exist" in message_of(decision)


def test_start_deadline_is_over_once_the_gang_has_run() -> None:
    job = a_job().on_attempt(1, 1, 2, started_at=at(5)).with_spec("startDeadlineSeconds", 10)
    decision = judge(job, now=NOW, pods=RUNNING, report=a_report(progress=Progress(step=1)))
    assert conditions_of(decision)["Running"] == ("True", "Training")


def test_judges_behind_the_parser_may_rely_on_a_spec() -> None:
    from unit.core.builders import SETTINGS
    from windlass.core.facts import gather
    from windlass.core.observed import Observed

    facts = gather(a_job().with_spec("resources.nodes", 0).build(), Observed(), NOW, SETTINGS)
    with pytest.raises(ValueError, match="spec: does not parse"):
        _ = facts.spec
