"""Judges about the pods of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unit.core.builders import (
    NOW,
    SETTINGS,
    a_checkpoint,
    a_job,
    a_pod,
    a_report,
    an_ended_pod,
    at,
    conditions_of,
    judge,
    message_of,
    shared,
)
from windlass.api.contract import Verdict
from windlass.api.meta import FailureClass, Phase, Rung
from windlass.api.status import Charges, Condition, Gang, Member, Progress, RecoveryRecord
from windlass.core.decision import Decision, Delete
from windlass.core.gang import next_attempt, replace_members
from windlass.core.observed import ObjectView, PodView

BOTH = (a_pod(0, 1), a_pod(1, 2))


def tickets(decision: Decision) -> list[int]:
    assert decision.status is not None
    return [member["ticket"] for member in decision.status["gang"]["members"]]


def created(decision: Decision) -> list[str]:
    return [item["metadata"]["name"] for item in decision.creates]


def deleted(decision: Decision) -> list[str]:
    return [item.name for item in decision.deletes]


def a_row(
    incarnation: int, kind: FailureClass = FailureClass.INFRASTRUCTURE, **fields: object
) -> RecoveryRecord:
    row = RecoveryRecord(incarnation=incarnation, rung=Rung.RECREATE_POD, failure_class=kind)
    return row.model_copy(update=fields)


def test_tickets_only_ever_grow() -> None:
    gang = next_attempt(Gang(attempt=3, last_ticket=9), 2)
    assert [member.ticket for member in gang.members] == [10, 11]
    assert (gang.attempt, gang.last_ticket) == (4, 11)
    replaced = replace_members(gang, {1})
    assert [member.ticket for member in replaced.members] == [10, 12]
    assert (replaced.attempt, replaced.last_ticket) == (4, 12)


def test_missing_objects_and_pods_are_made_in_one_round() -> None:
    job = a_job().with_nodes(2)
    decision = judge(job.after(judge(job)), objects=())
    assert [item["kind"] for item in decision.applies] == [
        "ConfigMap",
        "ConfigMap",
        "Service",
        "NetworkPolicy",
    ]
    assert created(decision) == ["triage-0-1", "triage-1-2"]


def test_pods_mount_the_configuration_that_status_names() -> None:
    decision = judge(a_job().on_attempt(1, 1).with_unmade_pods())
    volumes = decision.creates[0]["spec"]["volumes"]
    assert {"name": "config", "configMap": {"name": "triage-config-00000000"}} in volumes


@pytest.mark.fault("F10")
def test_configuration_in_use_is_not_rendered_again_by_a_newer_operator() -> None:
    job = a_job().on_attempt(1, 1)
    newer = replace(SETTINGS, report_url="https://elsewhere:8443")
    decision = judge(job, settings=newer, pods=(a_pod(0, 1),))
    assert not decision.applies and not decision.deletes


def test_configuration_that_never_came_to_be_gets_its_present_name() -> None:
    job = a_job().on_attempt(1, 1).with_unmade_pods()
    decision = judge(job, objects=())
    assert decision.status is not None
    assert decision.status["runConfig"] != "triage-config-00000000"
    assert not decision.applies and not decision.creates


def test_changed_ca_is_applied_and_restarts_nothing() -> None:
    job = a_job().on_attempt(1, 1)
    newer = replace(SETTINGS, ca_pem="another")
    decision = judge(job, settings=newer, objects=shared(job.build()), pods=(a_pod(0, 1),))
    assert [item["metadata"]["name"] for item in decision.applies] == ["triage-ca"]
    assert not decision.creates and not decision.deletes


def test_configurations_of_earlier_attempts_are_removed() -> None:
    job = a_job().on_attempt(2, 3)
    old = ObjectView("ConfigMap", "triage-config-aaaaaaaa", job.build().uid, uid="old")
    foreign = ObjectView("ConfigMap", "triage-config-bbbbbbbb", "somebody-else", uid="other")
    decision = judge(job, objects=(*shared(job.build()), old, foreign), pods=(a_pod(0, 3, attempt=2),))
    assert decision.deletes == (Delete("ConfigMap", "triage-config-aaaaaaaa", "old"),)


def test_pods_are_waited_for_and_their_uids_noted() -> None:
    job = a_job().on_attempt(1, 1, 2).with_unmade_pods()
    decision = judge(job, pods=(a_pod(0, 1), a_pod(1, 2, phase="Pending", started_at=None)))
    assert conditions_of(decision)["Ready"] == ("False", "WaitingForPods")
    assert message_of(decision) == "1 of 2 pods running"
    assert decision.status is not None
    assert [member["podUid"] for member in decision.status["gang"]["members"]] == ["pod-0-1", "pod-1-2"]


def test_running_pods_without_a_report_are_starting() -> None:
    decision = judge(a_job().on_attempt(1, 1), pods=(a_pod(0, 1),), now=at(10))
    assert conditions_of(decision)["Ready"] == ("False", "Starting")
    assert decision.requeue_after_seconds == 55


@pytest.mark.parametrize(
    ("phase", "reason", "running"),
    [
        (Phase.PREPARE, "Preparing", "False"),
        (Phase.RENDEZVOUS, "Starting", "False"),
        (Phase.LOAD, "Starting", "False"),
        (Phase.TRAIN, "Training", "True"),
        (Phase.VALIDATE, "Training", "True"),
        (Phase.SAVE, "Training", "True"),
        (Phase.EXPORT, "Exporting", "True"),
    ],
)
def test_phase_of_the_report_is_the_reason(phase: Phase, reason: str, running: str) -> None:
    decision = judge(a_job().on_attempt(1, 1), pods=(a_pod(0, 1),), report=a_report(phase=phase))
    assert conditions_of(decision)["Ready"] == ("False", reason)
    assert conditions_of(decision)["Running"] == (running, reason)


def test_loading_after_a_restart_is_recovering() -> None:
    report = a_report(phase=Phase.LOAD, incarnation=2)
    decision = judge(a_job().on_attempt(1, 1), pods=(a_pod(0, 1),), report=report)
    assert conditions_of(decision)["Ready"] == ("False", "Recovering")


@pytest.mark.fault("F36")
@pytest.mark.fault("F37")
def test_restart_in_place_touches_no_pod() -> None:
    row = a_row(2, rung=Rung.IN_PLACE)
    job = a_job().on_attempt(1, 1, 2, incarnation=1)
    decision = judge(job, pods=BOTH, report=a_report(incarnation=2, recoveries=[row], restarts=1))
    assert not decision.creates and not decision.deletes
    assert decision.status is not None
    assert decision.status["counters"]["restarts"] == 1
    assert decision.status["recoveries"][0]["rung"] == "InPlace"


LOST = [
    (a_pod(1, 2, deletion_timestamp=at(90)), FailureClass.PREEMPTED, "drain"),
    (None, FailureClass.INFRASTRUCTURE, "gone"),
    (an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled"), FailureClass.OUT_OF_MEMORY, "memory"),
    (
        an_ended_pod(1, 2, exit_code=15, verdict=Verdict(result="Fenced")),
        FailureClass.INFRASTRUCTURE,
        "fenced",
    ),
    (an_ended_pod(1, 2, exit_code=14, verdict=Verdict(result="Preempted")), FailureClass.PREEMPTED, "left"),
    (
        a_pod(1, 2, phase="Failed", reason="Evicted", message="low on memory"),
        FailureClass.PREEMPTED,
        "evicted",
    ),
    (an_ended_pod(1, 2, exit_code=17), FailureClass.CRASH, "internal"),
    (an_ended_pod(1, 2, exit_code=127), FailureClass.CONFIGURATION, "no such command"),
]


@pytest.mark.fault("F26")
@pytest.mark.fault("F28")
@pytest.mark.fault("F38")
@pytest.mark.bad_input("B73")
@pytest.mark.parametrize(("pod", "kind", "why"), LOST, ids=[row[2] for row in LOST])
def test_lost_member_gets_a_new_ticket_and_nothing_else(
    pod: PodView | None, kind: FailureClass, why: str
) -> None:
    pods = (a_pod(0, 1),) if pod is None else (a_pod(0, 1), pod)
    decision = judge(a_job().on_attempt(1, 1, 2), pods=pods)
    assert tickets(decision) == [1, 3]
    assert not decision.creates and not decision.deletes and not decision.applies
    assert decision.status is not None
    row = decision.status["recoveries"][0]
    assert (row["class"], row["rung"], row["firstFailed"]["pod"]) == (kind, "RecreatePod", "triage-1-2")
    assert ("lastFailure" in decision.status) == (kind is not FailureClass.PREEMPTED)
    assert conditions_of(decision)["Ready"] == ("False", "Recovering")
    assert message_of(decision).endswith("triage-1-3 takes its place")
    assert decision.confirm_absent == (("triage-1-2",) if pod is None else ())


def test_a_pod_that_is_only_not_seen_does_not_end_the_run() -> None:
    """The last failure that a budget allows may be a cache that is behind: the server is asked before it counts."""
    job = a_job().on_attempt(1, 1, 2).with_spec("recovery.budgets.infrastructure", 0)
    decision = judge(job, pods=(a_pod(0, 1),))
    assert conditions_of(decision)["Failed"] == ("True", "BudgetExhausted")
    assert decision.confirm_absent == ("triage-1-2",)


def test_nothing_is_written_while_the_pods_of_an_earlier_attempt_end() -> None:
    """Not before their deletes, and not for each of them that goes: the new attempt's tickets have told it all."""
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report(wanted="RecreateGang")))
    first = judge(job, pods=BOTH)
    assert (first.status, deleted(first)) == (None, ["triage-0-1", "triage-1-2"])
    going = tuple(replace(pod, deletion_timestamp=at(90)) for pod in BOTH)
    for pods in (going, going[:1]):
        decision = judge(job, pods=pods)
        assert (decision.status, decision.creates, decision.deletes, decision.events) == (None, (), (), ())


def test_pod_that_was_never_made_is_not_lost() -> None:
    decision = judge(a_job().on_attempt(1, 1, 2).with_unmade_pods(), pods=(a_pod(0, 1),))
    assert created(decision) == ["triage-1-2"]
    assert decision.status is None or tickets(decision) == [1, 2]


@pytest.mark.bad_input("B74")
def test_pod_of_another_owner_is_no_member() -> None:
    stranger = a_pod(1, 2, owner_uid="somebody-else")
    decision = judge(a_job().on_attempt(1, 1, 2), pods=(a_pod(0, 1), stranger))
    assert tickets(decision) == [1, 3]
    assert deleted(decision) == []


def test_member_made_anew_under_its_old_name_is_lost() -> None:
    decision = judge(a_job().on_attempt(1, 1, 2), pods=(a_pod(0, 1), a_pod(1, 2, uid="another")))
    assert tickets(decision) == [1, 3]


def test_replacement_of_a_follower_need_not_wait_for_the_old_pod() -> None:
    job = a_job().on_attempt(1, 1, 3)
    members = [Member(index=0, ticket=1, pod_uid="pod-0-1"), Member(index=1, ticket=3)]
    job = job.with_status(
        job.build().status.model_copy(update={"gang": Gang(attempt=1, last_ticket=3, members=members)})
    )
    decision = judge(job, pods=(a_pod(0, 1), a_pod(1, 2, deletion_timestamp=at(90))))
    assert created(decision) == ["triage-1-3"]


def test_losing_all_pods_is_a_new_attempt() -> None:
    decision = judge(a_job().on_attempt(1, 1, 2), pods=())
    assert tickets(decision) == [3, 4]
    assert decision.status is not None and decision.status["gang"]["attempt"] == 2
    assert decision.status["runConfig"] != "triage-config-00000000"
    assert set(decision.confirm_absent) == {"triage-0-1", "triage-1-2"}


def test_leader_may_ask_for_a_whole_new_gang_once() -> None:
    job = a_job().on_attempt(1, 1, 2)
    decision = judge(job, pods=BOTH, report=a_report(wanted="RecreateGang"))
    assert tickets(decision) == [3, 4] and not decision.deletes
    after = judge(job.after(decision), pods=BOTH, report=a_report(wanted="RecreateGang"))
    assert after.status is None or tickets(after) == [3, 4]


@pytest.mark.fault("F25")
def test_second_attempt_waits_until_first_is_gone() -> None:
    job = a_job().on_attempt(2, 3, 4).with_unmade_pods()
    first = judge(job, pods=BOTH)
    assert deleted(first) == ["triage-0-1", "triage-1-2"] and not first.creates
    leaving = tuple(replace(pod, deletion_timestamp=at(70)) for pod in BOTH)
    second = judge(job, pods=leaving)
    assert not second.deletes and not second.creates
    assert second.requeue_after_seconds == 41
    assert len(judge(job, pods=()).creates) == 2


@pytest.mark.fault("F24")
def test_pods_on_a_dead_node_do_not_hold_a_new_attempt() -> None:
    job = a_job().on_attempt(2, 3, 4).with_unmade_pods()
    stuck = tuple(replace(pod, deletion_timestamp=at(25)) for pod in BOTH)
    assert len(judge(job, pods=stuck).creates) == 2


def test_ended_members_wait_for_the_leaders_word() -> None:
    verdict = Verdict(result="Succeeded", step=100)
    ended = an_ended_pod(1, 2, exit_code=0, verdict=verdict, finished_at=at(59))
    job = a_job().on_attempt(1, 1, 2)
    assert tickets(judge(job, pods=(a_pod(0, 1), ended))) == [1, 2]
    assert tickets(judge(job, pods=(a_pod(0, 1), ended), now=at(119))) == [1, 3]


def test_members_that_ended_in_good_order_are_made_again_with_a_lost_leader() -> None:
    ended = an_ended_pod(1, 2, exit_code=0, verdict=Verdict(result="Succeeded"), finished_at=at(59))
    decision = judge(a_job().on_attempt(1, 1, 2), pods=(an_ended_pod(0, 1, exit_code=137), ended))
    assert tickets(decision) == [3, 4]


@pytest.mark.fault("F50")
@pytest.mark.fault("F38")
def test_memory_kills_end_the_job_with_advice() -> None:
    charges = Charges(incarnation=2, used={"OutOfMemory": 2, "Crash": 5})
    job = a_job().on_attempt(1, 1, 2, incarnation=3, charges=charges)
    killed = an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled")
    decision = judge(job, pods=(a_pod(0, 1), killed))
    assert conditions_of(decision)["Failed"] == ("True", "BudgetExhausted")
    assert decision.status is not None
    assert message_of(decision, "Failed").startswith("3 failures of class OutOfMemory without a newer")
    assert decision.status["lastFailure"]["reason"] == "OutOfMemory"
    assert "raise resources.perNode.memory" in decision.status["lastFailure"]["hint"]
    assert decision.orders.action == "Stop"


def test_newer_checkpoint_resets_the_count() -> None:
    charges = Charges(incarnation=3, used={"OutOfMemory": 2})
    job = a_job().on_attempt(1, 1, 2, incarnation=3, charges=charges, checkpoints=[a_checkpoint(20)])
    killed = an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled")
    decision = judge(job, pods=(a_pod(0, 1), killed))
    assert tickets(decision) == [1, 3]
    assert decision.status is not None
    assert decision.status["charges"] == {
        "sinceStep": 20,
        "incarnation": 3,
        "used": {"OutOfMemory": 1},
        "nodes": {"node-1": 1},
        "recent": {},
    }


def test_newer_incarnation_resets_the_count_of_all_but_memory() -> None:
    charges = Charges(incarnation=2, used={"OutOfMemory": 1, "Crash": 5, "FromTheFuture": 3})
    job = a_job().on_attempt(1, 1, 2, incarnation=3, charges=charges)
    decision = judge(job, pods=(a_pod(0, 1), an_ended_pod(1, 2, exit_code=17)))
    assert decision.status is not None
    assert decision.status["charges"]["used"] == {"OutOfMemory": 1, "Crash": 1}


@pytest.mark.fault("F52")
def test_repeated_losses_back_off_and_then_replace_the_gang() -> None:
    job = a_job().on_attempt(1, 1, 2, charges=Charges(used={"Crash": 1}))
    crashed = an_ended_pod(1, 2, exit_code=17)
    decision = judge(job, pods=(a_pod(0, 1), crashed))
    assert decision.status is not None
    until = decision.status["backOffUntil"]
    waiting = judge(job.after(decision), pods=(a_pod(0, 1), crashed))
    assert until is not None and not waiting.creates
    assert conditions_of(waiting)["Ready"] == ("False", "BackingOff")
    assert waiting.requeue_after_seconds == pytest.approx(10, rel=0.2)
    after = judge(job.after(decision), pods=(a_pod(0, 1), crashed), now=at(80))
    assert created(after) == ["triage-1-3"]
    third = job.with_status(job.build().status.model_copy(update={"charges": Charges(used={"Crash": 2})}))
    assert tickets(judge(third, pods=(a_pod(0, 1), crashed))) == [3, 4]


def test_pod_that_cannot_run_its_command_fails_after_one_retry() -> None:
    job = a_job().on_attempt(1, 1, charges=Charges(used={"Configuration": 1}))
    decision = judge(job, pods=(an_ended_pod(0, 1, exit_code=127),))
    assert conditions_of(decision)["Failed"] == ("True", "Configuration")
    assert message_of(decision, "Failed") == (
        "pod triage-0-1 ended with exit code 127. hint: the image does not hold the agent: check pod.image"
    )


@pytest.mark.fault("F22")
def test_restarted_operator_leaves_a_training_run_as_it_is() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))
    decision = judge(job, pods=BOTH, now=at(300), listening_since=at(299))
    assert decision.is_idle
    assert decision.requeue_after_seconds == 59


def test_silence_is_told_after_a_minute_and_stops_nothing() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))
    decision = judge(job, pods=BOTH, now=at(121), listening_since=at(0))
    assert conditions_of(decision)["Running"] == ("Unknown", "ReportsMissing")
    assert not decision.deletes and decision.orders.action == "Continue"
    again = judge(job.after(decision), pods=BOTH, now=at(500), listening_since=at(0))
    assert again.is_idle


@pytest.mark.parametrize(
    "stale",
    [
        {"pod_uid": "another"},
        {"attempt": 2},
        {"ticket": 9},
        {"incarnation": 1, "progress": Progress(step=30)},
        {"incarnation": 2, "progress": Progress(step=10)},
    ],
)
def test_stale_report_changes_nothing(stale: dict[str, object]) -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report(incarnation=2)))
    decision = judge(
        job, pods=BOTH, now=at(70), report=a_report(sent_at=at(70), **({"incarnation": 2} | stale))
    )
    assert decision.is_idle


def test_progress_is_written_every_five_seconds_at_most() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))

    def later(seconds: float, step: int) -> Decision:
        report = a_report(sent_at=at(60 + seconds), progress=Progress(step=step, total_steps=100, loss=1.5))
        return judge(job, now=at(60 + seconds), pods=BOTH, report=report)

    assert later(2, 41).is_idle and later(2, 41).requeue_after_seconds == 3
    assert later(5, 42).status is not None
    assert later(5, 40).is_idle and later(29, 40).is_idle
    assert later(31, 40).status is not None


def test_new_checkpoint_is_written_at_once() -> None:
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, pods=BOTH, report=a_report()))
    ledger = [a_checkpoint(60), a_checkpoint(40), a_checkpoint(20)]
    decision = judge(job, pods=BOTH, now=at(61), report=a_report(sent_at=at(61), checkpoints=ledger))
    assert decision.status is not None
    assert [event.message for event in decision.events] == ["step-00000060.i1 is verified at step 60"]


@pytest.mark.fault("F68")
def test_degraded_tracking_is_a_condition_and_heals() -> None:
    job = a_job().on_attempt(1, 1, 2)
    bad = judge(job, pods=BOTH, report=a_report(tracking_error="connection refused"))
    assert conditions_of(bad)["TrackingDegraded"] == ("True", "TrackingUnreachable")
    good = judge(job.after(bad), pods=BOTH, report=a_report())
    assert conditions_of(good)["TrackingDegraded"] == ("False", "AsExpected")


@pytest.mark.fault("F56")
@pytest.mark.parametrize(
    ("error", "reason"),
    [("[Errno 28] No space left on device", "StorageFull"), ("fsync failed", "SaveFailed")],
)
def test_failed_save_is_a_condition(error: str, reason: str) -> None:
    decision = judge(a_job().on_attempt(1, 1, 2), pods=BOTH, report=a_report(save_error=error))
    assert conditions_of(decision)["CheckpointDegraded"] == ("True", reason)
    assert conditions_of(decision)["Running"] == ("True", "Training")


def test_condition_keeps_its_time_while_its_status_stays() -> None:
    since = Condition(type="Ready", status="False", reason="Starting", last_transition_time=at(7))
    decision = judge(a_job().on_attempt(1, 1, 2, conditions=[since]), pods=BOTH, report=a_report(), now=NOW)
    assert decision.status is not None
    ready = decision.status["conditions"][0]
    assert (ready["reason"], ready["lastTransitionTime"]) == ("Training", "2026-11-23T12:00:07Z")
