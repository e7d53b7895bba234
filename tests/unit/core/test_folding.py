"""Folding reports into status: who is heard, what is news, what is never forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import NOW, a_checkpoint, a_pod, a_report, a_status, at
from windlass.api.contract import Report
from windlass.api.meta import ConditionType, FailureClass, Phase, Reason, Rung
from windlass.api.status import (
    Condition,
    Counters,
    FailedRank,
    Failure,
    Gang,
    JobStatus,
    Output,
    Plan,
    Progress,
    RecoveryRecord,
    RecoverySeconds,
    ResumePoint,
    TrackingStatus,
)
from windlass.core.status.progress import (
    RECOVERY_ROWS,
    degradations,
    fold,
    is_news,
    is_of_leader,
    merge_recoveries,
    reason_of,
    with_warnings,
)

Kind = FailureClass
GANG = Gang(attempt=2, last_ticket=4)
STATUS = JobStatus(gang=GANG, incarnation=3, progress=Progress(step=40, updated_at=at(50)))


@pytest.mark.parametrize(
    ("fields", "ticket", "heard"),
    [
        ({"attempt": 2}, 3, True),
        ({"attempt": 1}, 3, False),
        ({"attempt": 3}, 3, False),
        ({"attempt": 2, "pod_uid": "another"}, 3, False),
        ({"attempt": 2, "ticket": 2}, 3, False),
        ({"attempt": 2}, 4, False),
    ],
    ids=["its own", "earlier attempt", "later attempt", "other pod", "other ticket", "replaced leader"],
)
def test_only_the_present_leader_is_heard(fields: dict[str, Any], ticket: int, heard: bool) -> None:
    report = a_report(3, **fields)
    assert is_of_leader(report, a_pod(0, ticket, attempt=2), STATUS) is heard
    assert is_of_leader(report, None, STATUS) is False


@pytest.mark.parametrize(
    ("incarnation", "step", "sent", "news"),
    [
        (3, 40, 50, True),
        (3, 40, 51, True),
        (3, 40, 49, False),
        (3, 41, 0, True),
        (3, 39, 900, False),
        (4, 0, 0, True),
        (2, 90, 900, False),
        (0, 0, 900, False),
    ],
)
def test_what_is_news(incarnation: int, step: int, sent: float, news: bool) -> None:
    report = a_report(incarnation=incarnation, progress=Progress(step=step), sent_at=at(sent))
    assert is_news(report, STATUS) is news


def test_anything_is_news_to_a_status_that_was_never_written() -> None:
    empty = JobStatus()
    assert is_news(a_report(incarnation=0, progress=Progress(), sent_at=at(0)), empty)


def test_report_replaces_what_it_speaks_of() -> None:
    report = a_report(
        incarnation=4,
        progress=Progress(step=44, loss=1.0),
        resume=ResumePoint(step=40, name="step-00000040.i3"),
        checkpoints=[a_checkpoint(40, 3)],
        restarts=3,
        output=Output(uri="pvc://c/out"),
        tracking=TrackingStatus(run_id="r1"),
        failure=Failure(reason="Crash", failure_class=Kind.CRASH),
        plan=Plan(total_steps=100),
    )
    after = fold(STATUS, report)
    assert after.incarnation == 4
    assert (after.progress.step, after.progress.loss, after.progress.updated_at) == (44, 1.0, NOW)
    assert after.progress.phase is Phase.TRAIN
    assert after.resume.name == "step-00000040.i3"
    assert [item.name for item in after.checkpoints] == ["step-00000040.i3"]
    assert after.counters.restarts == 3
    assert after.output is not None and after.tracking is not None and after.last_failure is not None
    assert after.plan.total_steps == 100
    assert after.gang == GANG, "the gang is the operator's own"


@pytest.mark.parametrize(
    ("before", "told", "incarnation", "after"),
    [(0, 0, 1, 0), (0, 2, 1, 2), (5, 2, 3, 5), (0, 0, 4, 0), (3, 0, 4, 3)],
)
def test_restarts_are_the_most_that_anybody_counted(
    before: int, told: int, incarnation: int, after: int
) -> None:
    status = JobStatus(counters=Counters(restarts=before))
    assert fold(status, a_report(restarts=told, incarnation=incarnation)).counters.restarts == after


def test_leader_without_an_incarnation_says_what_it_does_and_nothing_more() -> None:
    report = a_report(
        incarnation=0, phase=Phase.RENDEZVOUS, progress=Progress(step=0), checkpoints=[], sent_at=at(70)
    )
    after = fold(STATUS.model_copy(update={"checkpoints": [a_checkpoint(40, 3)]}), report)
    assert (after.progress.phase, after.progress.step, after.progress.updated_at) == (
        Phase.RENDEZVOUS,
        40,
        at(70),
    )
    assert after.checkpoints and after.incarnation == 3


def test_first_leader_may_report_before_it_has_claimed_anything() -> None:
    report = a_report(incarnation=0, phase=Phase.PREPARE, progress=Progress(), checkpoints=[])
    after = fold(JobStatus(checkpoints=[a_checkpoint(40)]), report)
    assert after.progress.phase is Phase.PREPARE
    assert after.checkpoints, "an empty ledger of one that has not looked yet forgets nothing"


def test_phase_of_the_report_wins_over_that_of_the_progress() -> None:
    progress = Progress(step=50, phase=Phase.TRAIN)
    assert fold(STATUS, a_report(incarnation=3, phase=Phase.SAVE, progress=progress)).progress.phase == "Save"
    assert fold(STATUS, a_report(incarnation=3, phase=None, progress=progress)).progress.phase == "Train"


@pytest.mark.parametrize(
    ("phase", "first", "again"),
    [
        (None, Reason.STARTING, Reason.RECOVERING),
        (Phase.IMPORTS, Reason.STARTING, Reason.RECOVERING),
        (Phase.RENDEZVOUS, Reason.STARTING, Reason.RECOVERING),
        (Phase.LOAD, Reason.STARTING, Reason.RECOVERING),
        (Phase.PREPARE, Reason.PREPARING, Reason.PREPARING),
        (Phase.TRAIN, Reason.TRAINING, Reason.TRAINING),
        (Phase.VALIDATE, Reason.TRAINING, Reason.TRAINING),
        (Phase.SAVE, Reason.TRAINING, Reason.TRAINING),
        (Phase.EXPORT, Reason.EXPORTING, Reason.EXPORTING),
    ],
)
def test_word_for_a_phase(phase: Phase | None, first: Reason, again: Reason) -> None:
    assert reason_of(phase, restarted=False) is first
    assert reason_of(phase, restarted=True) is again


# --- recoveries -----------------------------------------------------------------------------------


def a_row(incarnation: int, kind: Kind = Kind.INFRASTRUCTURE, **fields: Any) -> RecoveryRecord:
    return RecoveryRecord(
        incarnation=incarnation, rung=fields.pop("rung", Rung.RECREATE_POD), failure_class=kind, **fields
    )


POD = FailedRank(pod="triage-1-2", node="n1")
TIMED = RecoverySeconds(total=3.0, load=1.0)
MERGES: list[tuple[str, list[RecoveryRecord], list[RecoveryRecord], list[tuple[int, str, float]]]] = [
    ("nobody has any", [], [], []),
    ("the leader's", [], [a_row(2, seconds=TIMED)], [(2, "Infrastructure", 3.0)]),
    ("ours, not begun", [a_row(2)], [], [(2, "Infrastructure", 0.0)]),
    ("begun", [a_row(2)], [a_row(2, seconds=TIMED)], [(2, "Infrastructure", 3.0)]),
    (
        "only we know of memory",
        [a_row(2, Kind.OUT_OF_MEMORY)],
        [a_row(2, seconds=TIMED)],
        [(2, "OutOfMemory", 3.0)],
    ),
    (
        "only we know of a drain",
        [a_row(2, Kind.PREEMPTED)],
        [a_row(2, Kind.INFRASTRUCTURE, seconds=TIMED)],
        [(2, "Preempted", 3.0)],
    ),
    (
        "the leader let the pod go itself, which looks like a drain",
        [a_row(2, Kind.PREEMPTED)],
        [a_row(2, Kind.CRASH, seconds=TIMED)],
        [(2, "Crash", 3.0)],
    ),
    (
        "the leader knows better of a crash",
        [a_row(2, Kind.INFRASTRUCTURE)],
        [a_row(2, Kind.CRASH)],
        [(2, "Crash", 0.0)],
    ),
    (
        "both know of memory",
        [a_row(2, Kind.PREEMPTED)],
        [a_row(2, Kind.OUT_OF_MEMORY)],
        [(2, "OutOfMemory", 0.0)],
    ),
    (
        "older ones that the leader has forgotten stay",
        [a_row(2), a_row(3)],
        [a_row(4)],
        [(2, "Infrastructure", 0.0), (3, "Infrastructure", 0.0), (4, "Infrastructure", 0.0)],
    ),
    (
        "two losses before one incarnation",
        [a_row(3, Kind.CRASH), a_row(3, Kind.STORAGE)],
        [a_row(2)],
        [(2, "Infrastructure", 0.0), (3, "Crash", 0.0), (3, "Storage", 0.0)],
    ),
]


@pytest.mark.parametrize(("name", "ours", "told", "rows"), MERGES, ids=[row[0] for row in MERGES])
def test_rows_of_both_sides_become_one_list(
    name: str,
    ours: list[RecoveryRecord],
    told: list[RecoveryRecord],
    rows: list[tuple[int, str, float]],
) -> None:
    made = merge_recoveries(ours, told)
    assert [(row.incarnation, row.failure_class, row.seconds.total) for row in made] == rows, name


def test_what_only_we_know_is_pod_code_signal_and_lines() -> None:
    ours = a_row(2, Kind.OUT_OF_MEMORY, first_failed=POD, exit_code=137, signal=9, evidence=["OOMKilled"])
    (row,) = merge_recoveries([ours], [a_row(2, resumed_step=40, lost_steps=3, seconds=TIMED)])
    assert (row.first_failed, row.exit_code, row.signal, row.evidence) == (POD, 137, 9, ["OOMKilled"])
    assert (row.resumed_step, row.lost_steps, row.seconds) == (40, 3, TIMED)


ROWS = st.lists(st.builds(a_row, st.integers(2, 15), st.sampled_from(list(Kind))), max_size=12)


@settings(max_examples=80, deadline=None)
@given(ROWS, ROWS)
def test_merging_is_bounded_ordered_and_settles(
    ours: list[RecoveryRecord], told: list[RecoveryRecord]
) -> None:
    once = merge_recoveries(ours, told)
    assert len(once) <= RECOVERY_ROWS
    known = {row.incarnation for row in told}
    begun = [row.incarnation for row in once if row.incarnation <= max(known, default=0)]
    assert begun == sorted(begun) and len(begun) == len(set(begun))
    kept = {row.incarnation for row in once}
    newest = sorted(known | {row.incarnation for row in ours})[-1:]
    assert set(newest) <= kept
    assert merge_recoveries(once, told)[-RECOVERY_ROWS:] == once


# --- degradations ----------------------------------------------------------------------------------


def condition(kind: ConditionType) -> JobStatus:
    made = Condition(type=kind, status="True", reason="SaveFailed", last_transition_time=at(0))
    return JobStatus(conditions=[made])


@pytest.mark.parametrize(
    ("status", "fields", "aspects"),
    [
        (JobStatus(), {}, []),
        (
            JobStatus(),
            {"save_error": "fsync failed"},
            [("CheckpointDegraded", "True", "SaveFailed")],
        ),
        (
            JobStatus(),
            {"save_error": "No space left on device"},
            [("CheckpointDegraded", "True", "StorageFull")],
        ),
        (
            JobStatus(),
            {"unsaved": "the command tells of no checkpoint"},
            [("CheckpointDegraded", "True", "NoCheckpoints")],
        ),
        (
            JobStatus(),
            {"unsaved": "no checkpoint has been seen", "save_error": "I/O error"},
            [("CheckpointDegraded", "True", "SaveFailed")],
        ),
        (
            JobStatus(),
            {"tracking_error": "refused"},
            [("TrackingDegraded", "True", "TrackingUnreachable")],
        ),
        (
            condition(ConditionType.CHECKPOINT_DEGRADED),
            {},
            [("CheckpointDegraded", "False", "AsExpected")],
        ),
        (condition(ConditionType.TRACKING_DEGRADED), {}, [("TrackingDegraded", "False", "AsExpected")]),
        (
            JobStatus(),
            {"stall": "no step was finished"},
            [("ProgressDegraded", "True", "StallSuspected")],
        ),
        (
            JobStatus(),
            {"straggler": "rank 1 takes 2.2 times as long"},
            [("ProgressDegraded", "True", "StragglerDetected")],
        ),
        (
            JobStatus(),
            {"stall": "no step was finished", "straggler": "rank 1 takes 2.2 times as long"},
            [("ProgressDegraded", "True", "StallSuspected")],
        ),
        (condition(ConditionType.PROGRESS_DEGRADED), {}, [("ProgressDegraded", "False", "AsExpected")]),
        (
            JobStatus(),
            {"plan": Plan(precision="BF16", precision_reason="fast here")},
            [("PrecisionChosen", "True", "AsExpected")],
        ),
        (JobStatus(), {"plan": Plan()}, []),
    ],
)
def test_what_goes_on_beside_training(
    status: JobStatus, fields: dict[str, Any], aspects: list[tuple[str, str, str]]
) -> None:
    made = list(degradations(status, a_report(**fields)))
    assert [(one.type, one.status, one.reason) for one in made] == aspects


@pytest.mark.parametrize(
    ("plan", "before", "after"),
    [
        (Plan(), Plan(total_steps=5), Plan(total_steps=5)),
        (Plan(total_steps=7), Plan(total_steps=5), Plan(total_steps=7)),
        (Plan(warnings=["b"]), Plan(warnings=["a"]), Plan(warnings=["a", "b"])),
        (Plan(warnings=["a"]), Plan(warnings=["a"]), Plan(warnings=["a"])),
        (
            Plan(warnings=[f"w{n}" for n in range(40)][:32]),
            Plan(warnings=["first"]),
            Plan(warnings=["first", *(f"w{n}" for n in range(31))]),
        ),
    ],
)
def test_preflight_refines_the_plan(plan: Plan, before: Plan, after: Plan) -> None:
    assert with_warnings(plan, before) == after


# --- whole streams ---------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[Report]:
    """Reports of one leader in the order of sending, then shuffled as a bad network would."""
    made, step, incarnation = [], 0, 1
    for number in range(draw(st.integers(1, 10))):
        if draw(st.integers(0, 4)) == 0:
            incarnation += 1
            step = draw(st.integers(0, step))
        else:
            step += draw(st.integers(0, 5))
        made.append(
            a_report(
                sequence=number,
                sent_at=NOW + timedelta(seconds=number),
                incarnation=incarnation,
                progress=Progress(step=step),
                restarts=incarnation - 1,
            )
        )
    return draw(st.permutations(made))


@settings(max_examples=80, deadline=None)
@given(streams())
def test_any_order_of_arrival_ends_at_the_newest_and_never_goes_back(reports: list[Report]) -> None:
    status = JobStatus()
    place = (0, 0)
    for report in reports:
        status = fold(status, report)
        now = (status.incarnation, status.progress.step)
        assert now >= place
        place = now
    assert place == max((each.incarnation, each.progress.step) for each in reports)
    assert status.counters.restarts == max(each.restarts for each in reports)


@settings(max_examples=40, deadline=None)
@given(streams())
def test_hearing_the_same_again_changes_nothing(reports: list[Report]) -> None:
    status = a_status()
    for report in reports:
        status = fold(status, report)
    assert fold(status, reports[-1]) == fold(fold(status, reports[-1]), reports[-1])
