"""Events: what changed between two states of a run is told once, in order of importance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import a_checkpoint, at
from windlass.api.meta import ConditionType, FailureClass, Reason, Rung
from windlass.api.status import JobStatus, RecoveryRecord, RecoverySeconds
from windlass.core.decision import Event
from windlass.core.status import conditions
from windlass.core.status.conditions import Aspect, merge
from windlass.core.status.events import EVENTS_PER_WRITE, events_between

T = ConditionType
NOTHING = JobStatus()


def state(*aspects: Aspect, **fields: Any) -> JobStatus:
    return JobStatus(conditions=merge([], aspects, now=at(1), generation=1), **fields)


def told(before: JobStatus, after: JobStatus) -> list[str]:
    return [f"{each.type} {each.reason}: {each.message}" for each in events_between(before, after)]


def a_row(incarnation: int, *, total: float = 2.0, **fields: Any) -> RecoveryRecord:
    return RecoveryRecord(
        incarnation=incarnation,
        rung=Rung.IN_PLACE,
        failure_class=FailureClass.CRASH,
        seconds=RecoverySeconds(total=total),
        **fields,
    )


def degraded(status: str, reason: Reason, message: str = "x", kind: T = T.CHECKPOINT_DEGRADED) -> Aspect:
    return Aspect(kind, status, reason, message)  # type: ignore[arg-type]


STARTING = state(*conditions.working(Reason.STARTING, "1 of 2 pods made"))
TRAINING = state(*conditions.training(Reason.TRAINING, "training"))
STALLED = state(*conditions.stalled(Reason.CLAIM_NOT_FOUND, "no claim"))

CHANGES: list[tuple[str, JobStatus, JobStatus, list[str]]] = [
    ("nothing", STARTING, STARTING, []),
    ("first word", NOTHING, STARTING, ["Normal Starting: 1 of 2 pods made"]),
    ("another state", STARTING, TRAINING, ["Normal Training: training"]),
    (
        "same reason, other text",
        STARTING,
        state(*conditions.working(Reason.STARTING, "2 of 2 pods made")),
        [],
    ),
    ("somebody must act", STARTING, STALLED, ["Warning ClaimNotFound: no claim"]),
    ("it was cured", STALLED, STARTING, ["Normal Starting: 1 of 2 pods made"]),
    (
        "completed",
        TRAINING,
        state(*conditions.complete("100 steps done"), finished_at=at(9)),
        ["Normal Completed: 100 steps done"],
    ),
    (
        "failed",
        TRAINING,
        state(*conditions.failed(Reason.DATA_NOT_FOUND, "no file"), finished_at=at(9)),
        ["Warning DataNotFound: no file"],
    ),
    (
        "suspended",
        TRAINING,
        state(*conditions.suspended("no pods")),
        ["Normal Suspended: no pods"],
    ),
    (
        "silent leader",
        TRAINING,
        state(*conditions.unheard(Reason.REPORTS_MISSING, "silence")),
        ["Normal ReportsMissing: silence"],
    ),
    (
        "a save failed",
        TRAINING,
        state(
            *conditions.training(Reason.TRAINING, "training"), degraded("True", Reason.SAVE_FAILED, "fsync")
        ),
        ["Warning SaveFailed: fsync"],
    ),
    (
        "tracking failed",
        TRAINING,
        state(
            *conditions.training(Reason.TRAINING, "training"),
            degraded("True", Reason.TRACKING_UNREACHABLE, "refused", T.TRACKING_DEGRADED),
        ),
        ["Warning TrackingUnreachable: refused"],
    ),
    (
        "still degraded",
        state(degraded("True", Reason.SAVE_FAILED, "one")),
        state(degraded("True", Reason.SAVE_FAILED, "two")),
        [],
    ),
    (
        "stands still after it was slow",
        state(degraded("True", Reason.STRAGGLER_DETECTED, "slow", T.PROGRESS_DEGRADED)),
        state(degraded("True", Reason.STALL_SUSPECTED, "still", T.PROGRESS_DEGRADED)),
        ["Warning StallSuspected: still"],
    ),
    (
        "slow, in other words",
        state(degraded("True", Reason.STRAGGLER_DETECTED, "one", T.PROGRESS_DEGRADED)),
        state(degraded("True", Reason.STRAGGLER_DETECTED, "two", T.PROGRESS_DEGRADED)),
        [],
    ),
    (
        "moves again",
        state(degraded("True", Reason.STALL_SUSPECTED, "still", T.PROGRESS_DEGRADED)),
        state(degraded("False", Reason.AS_EXPECTED, "", T.PROGRESS_DEGRADED)),
        [],
    ),
    (
        "healed",
        state(degraded("True", Reason.SAVE_FAILED, "one")),
        state(degraded("False", Reason.AS_EXPECTED, "")),
        [],
    ),
    (
        "degraded again",
        state(degraded("False", Reason.AS_EXPECTED, "")),
        state(degraded("True", Reason.STORAGE_FULL, "full")),
        ["Warning StorageFull: full"],
    ),
    (
        "recovery under way",
        NOTHING,
        JobStatus(recoveries=[a_row(2, total=0.0)]),
        [],
    ),
    (
        "recovery over",
        JobStatus(recoveries=[a_row(2, total=0.0)]),
        JobStatus(recoveries=[a_row(2, resumed_step=20, lost_steps=3)]),
        ["Normal Recovered: InPlace after Crash: went on from step 20, 3 steps lost"],
    ),
    (
        "recovery known",
        JobStatus(recoveries=[a_row(2)]),
        JobStatus(recoveries=[a_row(2, lost_steps=9)]),
        [],
    ),
    (
        "checkpoint",
        JobStatus(checkpoints=[a_checkpoint(20)]),
        JobStatus(checkpoints=[a_checkpoint(40), a_checkpoint(20)]),
        ["Normal CheckpointCommitted: step-00000040.i1 is verified at step 40"],
    ),
    (
        "checkpoint removed",
        JobStatus(checkpoints=[a_checkpoint(40), a_checkpoint(20)]),
        JobStatus(checkpoints=[a_checkpoint(40)]),
        [],
    ),
    (
        "same step of a later incarnation",
        JobStatus(checkpoints=[a_checkpoint(20)]),
        JobStatus(checkpoints=[a_checkpoint(20, 2), a_checkpoint(20)]),
        ["Normal CheckpointCommitted: step-00000020.i2 is verified at step 20"],
    ),
]


@pytest.mark.parametrize(("name", "before", "after", "events"), CHANGES, ids=[row[0] for row in CHANGES])
def test_change_is_told(name: str, before: JobStatus, after: JobStatus, events: list[str]) -> None:
    assert told(before, after) == events, name


@pytest.mark.parametrize(("name", "before", "after", "events"), CHANGES, ids=[row[0] for row in CHANGES])
def test_nothing_is_told_twice(name: str, before: JobStatus, after: JobStatus, events: list[str]) -> None:
    assert told(after, after) == [], name
    assert len(told(before, after)) == len(events)


def test_end_comes_first_and_is_not_told_as_a_state_too() -> None:
    after = state(
        *conditions.failed(Reason.CRASH, "boom"),
        degraded("True", Reason.SAVE_FAILED, "fsync"),
        finished_at=at(9),
        recoveries=[a_row(2)],
        checkpoints=[a_checkpoint(20)],
    )
    assert [each.split(":")[0] for each in told(TRAINING, after)] == [
        "Warning Crash",
        "Warning SaveFailed",
        "Normal Recovered",
        "Normal CheckpointCommitted",
    ]


def test_many_checkpoints_at_once_do_not_flood() -> None:
    after = JobStatus(checkpoints=[a_checkpoint(20 * n) for n in range(20, 0, -1)])
    made = events_between(NOTHING, after)
    assert len(made) == EVENTS_PER_WRITE
    assert made[0].message.startswith("step-00000400")


def test_long_words_of_a_user_fit_a_note() -> None:
    (event,) = events_between(NOTHING, state(*conditions.stalled(Reason.CLAIM_NOT_FOUND, "x" * 4000)))
    assert len(event.message) == 1024 and event.message.endswith("...")


SHAPES = st.sampled_from(
    [
        conditions.working(Reason.STARTING, "a"),
        conditions.working(Reason.RECOVERING, "b"),
        conditions.training(Reason.TRAINING, "c"),
        conditions.stalled(Reason.UNSCHEDULABLE, "d"),
        conditions.suspended("e"),
        conditions.unheard(Reason.REPORTS_MISSING, "f"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=12))
def test_a_life_tells_each_change_of_reason_exactly_once(shapes: list[tuple[Aspect, ...]]) -> None:
    before, story = NOTHING, []
    for shape in shapes:
        after = state(*shape)
        story += events_between(before, after)
        before = after
    reasons = [shape[0].reason for shape in shapes]
    changes = [one for one, last in zip(reasons, [None, *reasons], strict=False) if one != last]
    assert [event.reason for event in story] == changes
    assert all(isinstance(event, Event) and event.message for event in story)
    warned = {event.reason for event in story if event.type == "Warning"}
    assert warned <= {Reason.UNSCHEDULABLE}
