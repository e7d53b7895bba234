"""A run ends while nobody hears its leader: what the leader left in its pod is the whole account."""

from __future__ import annotations

from typing import Any

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
    claims,
    conditions_of,
    judge,
)
from windlass.api.contract import Report, TerminationMessage, Timeline, Verdict
from windlass.api.meta import ConditionType, FailureClass, Phase, Reason, Rung
from windlass.api.status import (
    Condition,
    Failure,
    Goodput,
    GoodputSeconds,
    Output,
    Progress,
    RecoveryRecord,
    RecoverySeconds,
)
from windlass.core.decision import Decision
from windlass.core.facts import gather, newest_word, parse_last_report
from windlass.core.observed import Observed, PodView

DONE = Verdict(result="Succeeded", step=100, incarnation=2)
RESTART = RecoveryRecord(
    incarnation=2,
    rung=Rung.IN_PLACE,
    failure_class=FailureClass.CRASH,
    from_step=64,
    resumed_step=50,
    lost_steps=14,
    seconds=RecoverySeconds(total=0.9),
    at=at(25),
)
OUTPUT = Output(uri="pvc://checkpoints/team/triage/output/model")


def last_report(**fields: Any) -> Report:
    """What the leader would have said at second 48, after a restart that nobody heard of."""
    told: dict[str, Any] = {
        "sequence": 30,
        "sent_at": at(48),
        "incarnation": 2,
        "phase": None,
        "progress": Progress(step=100, total_steps=100, loss=0.5),
        "checkpoints": [a_checkpoint(100, 2), a_checkpoint(50)],
        "recoveries": [RESTART],
        "restarts": 1,
        "lost_steps": 14,
        "output": OUTPUT,
        "timeline": Timeline(
            started_at=at(6), until=at(48), starting=4, loading=2, training=30, recovering=1, reworked=5
        ),
    }
    return a_report(**(told | fields))


def left(
    report: Report | None,
    verdict: Verdict = DONE,
    *,
    index: int = 0,
    code: int = 0,
    is_cut: bool = False,
    **fields: Any,
) -> PodView:
    """An ended pod with this in its termination message."""
    message = TerminationMessage(**dict(verdict), report=report, is_cut=is_cut)
    text = message.model_dump_json(by_alias=True)
    return an_ended_pod(index, index + 1, exit_code=code, termination_message=text, **fields)


KNOWN: dict[str, Any] = {"incarnation": 1, "progress": Progress(step=40, updated_at=at(20))}


def ended(*pods: PodView, known: dict[str, Any] | None = None, **seen: Any) -> Decision:
    """What an operator decides that comes at second 90 to a gang whose last known word is of step 40."""
    job = a_job().on_attempt(1, 1, 2, **KNOWN | (known or {}))
    return judge(job, pods=pods, now=at(90), **seen)


def wire(seconds: float) -> str:
    return at(seconds).isoformat().replace("+00:00", "Z")


@pytest.mark.fault("F1")
@pytest.mark.fault("F22")
def test_nothing_is_lost_of_a_run_that_ended_while_the_operator_was_away() -> None:
    decision = ended(left(last_report()), left(None, index=1))
    assert conditions_of(decision)["Complete"] == ("True", "Completed")
    status = decision.status
    assert status is not None
    (row,) = status["recoveries"]
    assert (row["rung"], row["fromStep"], row["lostSteps"], row["seconds"]["total"]) == (
        "InPlace",
        64,
        14,
        0.9,
    )
    assert (status["incarnation"], status["counters"]["restarts"], status["goodput"]["lostSteps"]) == (
        2,
        1,
        14,
    )
    assert [each["step"] for each in status["checkpoints"]] == [100, 50]
    assert (status["progress"]["step"], status["output"]["uri"]) == (100, OUTPUT.uri)
    assert "Recovered" in {event.reason for event in decision.events}


def test_the_account_ends_where_the_leader_did() -> None:
    """Half a minute passed until the operator came: no second of it is the run's."""
    status = ended(left(last_report()), left(None, index=1)).status
    assert status is not None
    assert status["finishedAt"] == wire(50)
    goodput = status["goodput"]
    assert goodput["sinceCreation"] == 50
    assert (goodput["seconds"]["training"], goodput["seconds"]["reworked"]) == (30, 5)
    assert sum(goodput["seconds"].values()) == pytest.approx(50)


def test_a_failed_run_tells_its_history_too() -> None:
    found = Failure(reason=Reason.BUDGET_EXHAUSTED, failure_class=FailureClass.CRASH, message="gave up")
    verdict = Verdict(result="Failed", step=50, incarnation=2, failure=found)
    status = ended(left(last_report(), verdict, code=7), left(None, verdict, index=1, code=7)).status
    assert status is not None
    assert (status["lastFailure"]["reason"], len(status["recoveries"])) == ("BudgetExhausted", 1)
    assert status["lastFailure"]["at"] == status["finishedAt"]
    assert status["startedAt"] == wire(5)
    assert status["finishedAt"] == wire(50)


def test_a_clock_ahead_of_ours_ends_no_run_in_the_future() -> None:
    status = ended(left(last_report(sent_at=at(500))), left(None, index=1)).status
    assert status is not None and status["finishedAt"] == wire(90)


@pytest.mark.fault("F12")
@pytest.mark.parametrize(
    ("known", "end"),
    [
        ({}, 5),
        ({"started_at": at(8)}, 8),
        ({"started_at": at(8), "goodput": Goodput(since_creation=21.5)}, 21.5),
    ],
    ids=["its start", "the run's start", "what is accounted for"],
)
def test_a_clock_behind_ours_takes_back_nothing(known: dict[str, Any], end: float) -> None:
    """The node's clock was set back by ten minutes in a run of one."""
    pod = left(last_report(sent_at=at(-550)), finished_at=at(-550))
    status = ended(pod, left(None, index=1), known=known).status
    assert status is not None and status["finishedAt"] == wire(end)
    assert status["goodput"]["sinceCreation"] == end


def test_a_run_that_nobody_saw_start_has_no_recovery_in_its_account() -> None:
    """It was waiting for its pods when the operator went; what came then is by the stamps of the pod."""
    waited = Goodput(since_creation=3, seconds=GoodputSeconds(scheduling=3))
    report = last_report(recoveries=[], restarts=0, lost_steps=0, incarnation=1)
    report = report.model_copy(
        update={"timeline": Timeline(started_at=at(6), until=at(48), starting=4, loading=2, training=36)}
    )
    known = {"incarnation": 0, "progress": Progress(), "goodput": waited}
    status = ended(left(report), left(None, index=1), known=known).status
    assert status is not None
    assert status["startedAt"] == wire(5)
    seconds = status["goodput"]["seconds"]
    # Made at 0, admitted at 1, placed at 3, started at 5.
    assert [seconds[name] for name in ("queued", "scheduling", "pulling", "starting")] == [1, 2, 2, 5]
    assert (seconds["training"], seconds["recovering"], seconds["finishing"]) == (36, 0, 2)


def test_a_wait_for_a_queue_ended_when_the_pods_got_their_nodes() -> None:
    """Not when the operator came back to see it."""
    job = a_job().with_spec("scheduling.queue", {"kind": "Kueue", "name": "gpus"})
    condition = Condition(
        type=ConditionType.QUEUED, status="True", reason="Queued", last_transition_time=at(2)
    )
    waiting = job.on_attempt(1, 1, 2, conditions=[condition], admitted_at=None)
    status = judge(waiting, pods=(left(last_report()), left(None, index=1)), now=at(90)).status
    assert status is not None
    assert status["admittedAt"] == wire(3)
    assert status["counters"]["queuedSeconds"] == 3


def test_without_a_stamp_a_run_ends_when_it_is_seen_to() -> None:
    pod = an_ended_pod(0, 1, exit_code=0, verdict=DONE, finished_at=None)
    status = ended(pod, left(None, index=1)).status
    assert status is not None and status["finishedAt"] == wire(90)


def test_a_preempted_leader_leaves_its_successor_a_true_history() -> None:
    """The run goes on; its rows tell at once where it stood, not only when the next leader speaks."""
    verdict = Verdict(result="Preempted", step=70, incarnation=2)
    report = last_report(progress=Progress(step=70, total_steps=100), output=None)
    status = ended(left(report, verdict, code=75), a_pod(1, 2)).status
    assert status is not None
    assert [(row["rung"], row["fromStep"]) for row in status["recoveries"]] == [
        ("InPlace", 64),
        ("RecreatePod", 70),
    ]


LINES = ["Traceback", "ValueError: boom"]
ROW = RESTART.model_copy(update={"evidence": LINES})
FAILURE = Failure(reason=Reason.CRASH, failure_class=FailureClass.CRASH, message="m" * 600, evidence=LINES)
BARE = FAILURE.model_copy(update={"message": "m" * 400, "evidence": []})


def after_cut(report: Report, **known: Any) -> dict[str, Any]:
    status = ended(left(report, is_cut=True), left(None, index=1), known=known).status
    assert status is not None
    return status


def test_what_is_known_completes_a_message_that_had_to_be_cut() -> None:
    ledger = [a_checkpoint(100, 2), a_checkpoint(90, 2), a_checkpoint(50)]
    report = last_report(failure=BARE, checkpoints=ledger[:2])
    status = after_cut(report, recoveries=[ROW], last_failure=FAILURE, checkpoints=ledger, incarnation=2)
    assert status["recoveries"][0]["evidence"] == LINES
    assert status["lastFailure"]["evidence"] == LINES and status["lastFailure"]["message"] == "m" * 600
    assert [row["step"] for row in status["checkpoints"]] == [100, 90, 50]


def test_what_is_known_of_something_else_does_not() -> None:
    """Another failure; a checkpoint that is newer than all that are known, and perhaps not all of these are left."""
    other = FAILURE.model_copy(update={"message": "other"})
    report = last_report(failure=BARE, checkpoints=[a_checkpoint(100, 2)])
    row = ROW.model_copy(update={"failure_class": FailureClass.STALL})
    status = after_cut(report, recoveries=[row], last_failure=other, checkpoints=[a_checkpoint(90, 2)])
    assert not status["recoveries"][0].get("evidence")
    assert status["lastFailure"]["message"] == "m" * 400
    assert [each["step"] for each in status["checkpoints"]] == [100]


def test_a_word_that_was_cut_takes_no_trouble_back() -> None:
    """The run could not save; its last word had no room to say so again."""
    trouble = Condition(
        type=ConditionType.CHECKPOINT_DEGRADED,
        status="True",
        reason="StorageFull",
        last_transition_time=at(15),
    )
    cut, whole = (
        ended(left(last_report(), is_cut=is_cut), left(None, index=1), known={"conditions": [trouble]})
        for is_cut in (True, False)
    )
    assert conditions_of(cut)["CheckpointDegraded"] == ("True", "StorageFull")
    assert conditions_of(whole)["CheckpointDegraded"][0] == "False"


def test_checkpoints_are_completed_only_where_they_may_have_been_cut() -> None:
    """Nothing is left of them, or three are: the leader had dropped the others."""
    known = [a_checkpoint(step, 2) for step in (100, 90, 80, 70)]
    for rows in ([], known[:3]):
        status = after_cut(last_report(checkpoints=rows), checkpoints=known, incarnation=2)
        assert status.get("checkpoints", []) == [row.to_wire() for row in rows]


def test_a_leader_that_never_led_takes_no_numbers_back() -> None:
    report = last_report(progress=Progress(step=100))
    known = {"incarnation": 2, "progress": Progress(step=90, total_steps=100, loss=0.7, updated_at=at(20))}
    status = ended(left(report), left(None, index=1), known=known).status
    assert status is not None
    progress = status["progress"]
    assert (progress["step"], progress["totalSteps"], progress["loss"]) == (100, 100, 0.7)


def test_numbers_of_another_life_are_not_its_own() -> None:
    report = last_report(progress=Progress(step=100))
    status = ended(left(report), left(None, index=1), known={"progress": Progress(step=90, loss=0.7)}).status
    assert status is not None and "loss" not in status["progress"]


def test_a_pause_begins_when_the_guard_paused_and_not_when_it_is_seen() -> None:
    found = Failure(reason=Reason.NON_FINITE, failure_class=FailureClass.NUMERIC, message="not finite")
    verdict = Verdict(result="Paused", step=70, incarnation=2, failure=found)
    status = ended(
        left(last_report(output=None), verdict, code=14), left(None, verdict, index=1, code=14)
    ).status
    assert status is not None and status["suspendedAt"] == wire(50)


def test_lines_that_were_not_cut_stay_as_they_are() -> None:
    own = ["the leader's own line"]
    report = last_report(
        recoveries=[RESTART.model_copy(update={"evidence": own})],
        failure=FAILURE.model_copy(update={"evidence": own}),
    )
    status = after_cut(report, recoveries=[ROW], last_failure=FAILURE, incarnation=2)
    assert (status["recoveries"][0]["evidence"], status["lastFailure"]["evidence"]) == (own, own)


def test_what_was_heard_and_not_written_yet_completes_it_too() -> None:
    heard = last_report(sequence=29, recoveries=[ROW])
    pod = left(last_report(), is_cut=True)
    status = ended(pod, left(None, index=1), report=heard).status
    assert status is not None and status["recoveries"][0]["evidence"] == LINES


def test_a_whole_message_replaces_what_is_known() -> None:
    """Its leader dropped what is not in it."""
    pod = left(last_report(recoveries=[RESTART], checkpoints=[a_checkpoint(100, 2)]))
    known = {"checkpoints": [a_checkpoint(100, 2), a_checkpoint(90, 2)], "incarnation": 2}
    status = ended(pod, left(None, index=1), known=known).status
    assert status is not None and [each["step"] for each in status["checkpoints"]] == [100]


def test_a_leader_that_asked_for_a_new_gang_with_its_last_word_gets_one() -> None:
    verdict = Verdict(result="Preempted", step=70, incarnation=2)
    pod = left(last_report(wanted="RecreateGang", output=None), verdict, code=14)
    status = ended(pod, a_pod(1, 2)).status
    assert status is not None and status["gang"]["attempt"] == 2


def test_a_loss_after_the_last_word_begins_the_next_life() -> None:
    """What was heard before it was still forming the life that the last word has the row of."""
    verdict = Verdict(result="Preempted", step=70, incarnation=2)
    pod = left(last_report(output=None), verdict, code=14)
    forming = a_report(sequence=29, incarnation=2, phase=Phase.IMPORTS, members=[])
    status = ended(pod, a_pod(1, 2), report=forming).status
    assert status is not None
    assert [row["incarnation"] for row in status["recoveries"]] == [2, 3]


def test_a_finished_job_reads_no_message_again() -> None:
    job = a_job().on_attempt(1, 1, 2, finished_at=at(50)).build()
    assert newest_word(None, left(last_report()), job) == (None, True)


@pytest.mark.parametrize(
    ("heard", "in_pod", "newest"),
    [
        (None, 30, 30),
        (29, 30, 30),
        (31, 30, 31),
        (30, 30, 30),
        (12, None, 12),
        (None, None, None),
    ],
    ids=["only in the pod", "pod is newer", "report is newer", "the same", "no report in the pod", "nothing"],
)
def test_the_newest_word_counts(heard: int | None, in_pod: int | None, newest: int | None) -> None:
    report = a_report(sequence=heard) if heard is not None else None
    pod = left(last_report(sequence=in_pod) if in_pod is not None else None)
    word, _ = newest_word(report, pod, a_job().on_attempt(1, 1, 2).build())
    assert (word.sequence if word is not None else None) == newest


@pytest.mark.parametrize(
    "fields",
    [{"attempt": 2}, {"ticket": 2}, {"pod_uid": "another"}],
    ids=["attempt", "ticket", "pod"],
)
def test_a_word_that_is_not_the_leaders_own_does_not_count(fields: dict[str, Any]) -> None:
    decision = ended(left(last_report(**fields)), left(None, index=1))
    assert decision.status is not None and not decision.status.get("recoveries")
    assert conditions_of(decision)["Complete"] == ("True", "Completed"), "its verdict does"


def test_what_a_living_pod_left_does_not_count() -> None:
    """Its container was started anew; the agent in it speaks for itself."""
    pod = a_pod(0, 1, termination_message=left(last_report()).termination_message)
    assert newest_word(None, pod, a_job().on_attempt(1, 1, 2).build()) == (None, True)
    assert newest_word(None, None, a_job().on_attempt(1, 1, 2).build()) == (None, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Traceback",
        "{",
        '{"result": "Maybe", "report": {}}',
        '{"result": "Succeeded"}',
        '{"result": "Succeeded", "report": null}',
        '{"result": "Succeeded", "report": {"version": 1}}',
        '{"result": "Succeeded", "report": "gone"}',
    ],
)
def test_a_message_without_a_readable_report(text: str) -> None:
    assert parse_last_report(text) is None


def test_an_unreadable_report_does_not_take_the_verdict_with_it() -> None:
    pod = an_ended_pod(
        0,
        1,
        exit_code=0,
        termination_message='{"result": "Succeeded", "step": 100, "report": {"version": 9}}',
    )
    decision = ended(pod, left(None, index=1))
    assert conditions_of(decision)["Complete"] == ("True", "Completed")


def test_what_is_left_is_told_but_is_no_sign_of_life() -> None:
    job = a_job().on_attempt(1, 1, 2)
    facts = gather(job.build(), Observed(pods=(left(last_report()),), claims=claims()), NOW, SETTINGS)
    assert facts.told is not None and facts.report is None


def test_what_it_could_not_save_is_told_too() -> None:
    decision = ended(left(last_report(save_error="[Errno 28] No space left on device")), left(None, index=1))
    assert conditions_of(decision)["CheckpointDegraded"] == ("True", "StorageFull")


@pytest.mark.parametrize(("seconds", "deleted"), [(149, False), (150, True)])
def test_time_to_live_counts_from_when_the_end_was_told(seconds: float, deleted: bool) -> None:
    """A run that ended while the operator was away is not deleted before anybody could see it."""
    job = a_job().with_spec("ttlSecondsAfterFinished", 60)
    job = job.on_attempt(1, 1, 2).with_spec("ttlSecondsAfterFinished", 60)
    pods = (left(last_report()), left(None, index=1))
    written = job.after(judge(job, pods=pods, now=at(90)))
    decision = judge(written, pods=pods, now=at(seconds))
    assert bool(decision.deletes) is deleted
