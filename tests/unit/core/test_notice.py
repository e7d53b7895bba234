"""What the leader's pod says of the newest checkpoint: which pod, when, and how seldom it changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import NOW, JobBuilder, a_checkpoint, a_job, a_pod, a_report, at, judge
from windlass.api.meta import CHECKPOINT_ANNOTATIONS
from windlass.api.status import CheckpointRecord
from windlass.core.checkpoints.notice import notice, wait_seconds
from windlass.core.decision import Annotate, Decision
from windlass.core.observed import PodView, noticed
from windlass.core.pace import announcement_interval

STEP, TIME = CHECKPOINT_ANNOTATIONS

MINUTE = timedelta(seconds=60)


def saved(step: int, seconds: float) -> CheckpointRecord:
    return a_checkpoint(step).model_copy(update={"committed_at": at(seconds)})


def told(
    *rows: CheckpointRecord, leader: PodView | None = None, now: datetime = NOW, job: JobBuilder | None = None
) -> Decision:
    pods = (leader or a_pod(0, 1), a_pod(1, 2))
    report = a_report(checkpoints=list(rows), sent_at=now)
    return judge(job or a_job().on_attempt(1, 1, 2), now=now, pods=pods, report=report)


def test_the_leader_is_told_of_the_newest_and_nobody_else() -> None:
    decision = told(saved(40, 50), saved(20, 30))
    wanted = ((STEP, "40"), (TIME, "2026-11-23T12:00:50Z"))
    assert decision.annotates == (Annotate("triage-0-1", "pod-0-1", wanted),)
    assert not decision.is_idle


def test_names_of_the_annotations_are_those_that_are_published() -> None:
    assert CHECKPOINT_ANNOTATIONS == ("windlass.dev/checkpoint-step", "windlass.dev/checkpoint-time")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"noticed": ("40", "2026-11-23T12:00:50Z")}, "it says so already"),
        ({"deletion_timestamp": at(70)}, "it leaves"),
        ({"phase": "Succeeded", "exit_code": 0}, "it has ended"),
        ({"noticed": ("20", "2026-11-23T12:00:30Z")}, "the last notice is too young"),
    ],
)
def test_no_notice(change: dict[str, object], why: str) -> None:
    assert told(saved(40, 50), leader=replace(a_pod(0, 1), **change)).annotates == (), why


def test_no_notice_without_a_dated_checkpoint() -> None:
    assert told().annotates == told(a_checkpoint(40)).annotates == ()


def test_no_notice_without_the_leaders_pod() -> None:
    job = a_job().on_attempt(1, 1, 2, checkpoints=[saved(40, 50)])
    assert judge(job, pods=(a_pod(1, 2),)).annotates == ()


def test_a_run_that_is_being_deleted_is_left_alone() -> None:
    job = a_job().on_attempt(1, 1, 2, checkpoints=[saved(40, 50)]).deleted()
    assert judge(job, pods=(a_pod(0, 1),)).annotates == ()


def test_a_held_notice_comes_when_it_is_due() -> None:
    leader = replace(a_pod(0, 1), noticed=("20", "2026-11-23T12:00:30Z"))
    held = told(saved(40, 50), leader=leader)
    assert held.annotates == () and held.requeue_after_seconds is not None
    assert held.requeue_after_seconds <= 30
    due = told(saved(40, 50), leader=leader, now=at(90))
    assert dict(due.annotates[0].annotations)[STEP] == "40"


def test_a_notice_waits_twice_as_long_while_the_operator_is_busy() -> None:
    pods = (replace(a_pod(0, 1), noticed=("20", "2026-11-23T12:00:30Z")), a_pod(1, 2))
    job = a_job().on_attempt(1, 1, 2)
    for seconds, busy, told_now in ((95, False, True), (95, True, False), (151, True, True)):
        report = a_report(checkpoints=[saved(40, 50), saved(20, 30)], sent_at=at(seconds))
        decision = judge(job, now=at(seconds), pods=pods, report=report, busy=busy)
        assert bool(decision.annotates) is told_now, (seconds, busy)


def test_a_checkpoint_that_turned_out_bad_is_taken_back() -> None:
    leader = replace(a_pod(0, 1), noticed=("40", "2026-11-23T12:00:50Z"))
    decision = told(saved(20, 30), leader=leader, now=at(120))
    assert dict(decision.annotates[0].annotations) == {STEP: "20", TIME: "2026-11-23T12:00:30Z"}


def test_times_are_written_in_utc() -> None:
    row = a_checkpoint(7).model_copy(
        update={"committed_at": datetime(2026, 1, 1, 1, 30, 5, 999, tzinfo=timezone(timedelta(hours=2)))}
    )
    assert notice([row]) == ("7", "2025-12-31T23:30:05Z")


@pytest.mark.parametrize(
    ("annotations", "read"),
    [
        ({STEP: "1", TIME: "x"}, ("1", "x")),
        ({STEP: "1"}, None),
        ({TIME: "x"}, None),
        ({}, None),
    ],
)
def test_annotations_are_read_back(annotations: dict[str, str], read: tuple[str, str] | None) -> None:
    assert noticed(annotations) == read
    body = {"metadata": {"name": "a", "uid": "u", "annotations": annotations}}
    assert PodView.from_wire(body).noticed == read


@pytest.mark.parametrize("edited", ["", "yesterday", "2026-11-23T12:00:30", "9999-01-01T00:00:00Z"])
def test_an_edited_time_holds_nothing_back(edited: str) -> None:
    assert wait_seconds(("20", edited), NOW, MINUTE) == 0.0


@given(st.integers(-10_000, 10_000))
def test_the_wait_is_never_longer_than_two_intervals(seconds: int) -> None:
    shown = (NOW + timedelta(seconds=seconds)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert 0 <= wait_seconds(("1", shown), NOW, MINUTE) <= 2 * MINUTE.total_seconds()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=40),
    st.integers(0, 1000),
    st.lists(st.booleans(), min_size=1, max_size=50),
)
def test_any_rhythm_of_saves_costs_at_most_two_patches_in_an_interval(
    gaps: list[int], runs: int, busy: list[bool]
) -> None:
    """Play a run second by second as the operator would, with every wake-up it could have, busy now and then."""
    interval = announcement_interval(runs, "any")
    busy_interval = announcement_interval(runs, "any", busy=True)
    commits, second = [], 0
    for gap in gaps:
        second += gap
        commits.append(second)
    shown: tuple[str, str] | None = None
    writes: list[int] = []
    for now in range(second + 600):
        ledger = [saved(index + 1, one) for index, one in enumerate(commits) if one <= now]
        wanted = notice(ledger)
        pause = busy_interval if busy[now % len(busy)] and now <= second else interval
        if wanted is not None and wanted != shown and wait_seconds(shown, at(now), pause) == 0:
            shown = wanted
            writes.append(now)
    assert shown == notice([saved(len(commits), commits[-1])])
    limit = interval.total_seconds()
    assert all(later - first > limit for first, later in zip(writes, writes[2:], strict=False))
