"""How often status is written: at once for what matters, seldom for what merely moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import Phase as Phase_
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from unit.core.builders import (
    NOW,
    SETTINGS,
    JobBuilder,
    a_checkpoint,
    a_job,
    a_pod,
    a_report,
    at,
    claims,
    judge,
)
from windlass.api.contract import Report, Timeline
from windlass.api.meta import FailureClass, Phase, Rung
from windlass.api.status import (
    Condition,
    Failure,
    Output,
    Progress,
    RecoveryRecord,
    TrackingStatus,
)
from windlass.core.cost import PriceList
from windlass.core.decision import Decision
from windlass.core.facts import Outcome, gather
from windlass.core.observed import Observed
from windlass.core.pace import progress_interval, standing_interval
from windlass.core.reconcile import conclude, weighty

PODS = (a_pod(0, 1), a_pod(1, 2))
PROGRESS_INTERVAL, STANDING_INTERVAL = progress_interval(1, "any"), standing_interval(1, "any")


def progress(step: int, **fields: Any) -> Progress:
    return Progress(step=step, total_steps=100, loss=1.5, **fields)


def training() -> JobBuilder:
    """A run whose status holds a report of now at step 40."""
    job = a_job().on_attempt(1, 1, 2)
    return job.after(judge(job, pods=PODS, report=a_report(progress=progress(40))))


def heard(job: JobBuilder, seconds: float, **fields: Any) -> Decision:
    """What a report that arrives so many seconds later leads to."""
    now = NOW + timedelta(seconds=seconds)
    known: dict[str, Any] = {"sent_at": now, "progress": progress(40)}
    return judge(job, now=now, pods=PODS, report=a_report(**(known | fields)))


ROW = RecoveryRecord(incarnation=2, rung=Rung.IN_PLACE, failure_class=FailureClass.CRASH)

# What a report can hold that is new, and whether that is written within the second.
AT_ONCE: list[tuple[str, dict[str, Any], bool]] = [
    ("a step", {"progress": progress(41)}, False),
    ("a loss", {"progress": Progress(step=40, total_steps=100, loss=9.0)}, False),
    ("a rate", {"progress": progress(40, tokens_per_second=5.0)}, False),
    ("nothing", {}, False),
    ("its account", {"timeline": Timeline(started_at=at(6), until=NOW, training=31)}, False),
    ("spooled metrics", {"tracking": TrackingStatus(run_id=None, spooled=7)}, True),
    ("a checkpoint", {"checkpoints": [a_checkpoint(60), a_checkpoint(40), a_checkpoint(20)]}, True),
    ("a checkpoint less", {"checkpoints": [a_checkpoint(40)]}, True),
    ("another phase, other reason", {"phase": Phase.EXPORT}, True),
    ("another phase, same reason", {"phase": Phase.SAVE}, False),
    ("a restart", {"incarnation": 2, "recoveries": [ROW]}, True),
    ("a failed save", {"save_error": "fsync failed"}, True),
    ("degraded tracking", {"tracking_error": "refused"}, True),
    ("its run id", {"tracking": TrackingStatus(run_id="r1")}, True),
    ("an output", {"output": Output(uri="pvc://c/out")}, True),
    ("a failure", {"failure": Failure(reason="Crash", failure_class=FailureClass.CRASH)}, True),
]


@pytest.mark.parametrize(("name", "fields", "at_once"), AT_ONCE, ids=[row[0] for row in AT_ONCE])
def test_what_is_written_at_once(name: str, fields: dict[str, Any], at_once: bool) -> None:
    decision = heard(training(), 1, **fields)
    assert (decision.status is not None) is at_once, name
    if not at_once:
        assert decision.requeue_after_seconds is not None
        assert 0 < decision.requeue_after_seconds <= STANDING_INTERVAL.total_seconds()


# Of what is written at once, what only repeats the leader: no round follows to look at it again.
ONLY_TOLD = {"a checkpoint", "a checkpoint less", "its run id", "spooled metrics"}


@pytest.mark.parametrize(("name", "fields", "at_once"), AT_ONCE, ids=[row[0] for row in AT_ONCE])
def test_which_writes_only_tell(name: str, fields: dict[str, Any], at_once: bool) -> None:
    job = training()
    decision = heard(job, 1, **fields)
    assert decision.only_tells is (name in ONLY_TOLD), name
    assert at_once or not decision.only_tells
    late = heard(job, 31, **fields)
    assert late.status is not None
    assert late.only_tells is (name in ONLY_TOLD or not at_once), name


def test_a_first_status_and_one_with_another_condition_do_more_than_tell() -> None:
    assert not judge(a_job()).only_tells
    assert not judge(training(), pods=PODS[:1], report=a_report(progress=progress(40))).only_tells


def test_spooled_metrics_alone_are_no_reason_to_write() -> None:
    job = training()
    job = job.after(heard(job, 1, tracking=TrackingStatus(run_id="r1", spooled=1)))
    assert heard(job, 2, tracking=TrackingStatus(run_id="r1", spooled=900)).status is None


@pytest.mark.parametrize(
    ("seconds", "step", "written", "again"),
    [
        (0, 41, False, 5.0),
        (2, 41, False, 3.0),
        (4.5, 41, False, 0.5),
        (5, 41, True, None),
        (60, 41, True, None),
        (1, 40, False, 29.0),
        (5, 40, False, 25.0),
        (29, 40, False, 1.0),
        (30, 40, True, None),
    ],
)
def test_pace_of_moving_and_of_standing_progress(
    seconds: float, step: int, written: bool, again: float | None
) -> None:
    if seconds == 0 and step == 41:
        # A second report within the same instant: nothing is due before five seconds.
        decision = heard(training(), 0, progress=progress(41))
    else:
        decision = heard(training(), seconds, progress=progress(step))
    assert (decision.status is not None) is written
    if again is not None:
        assert decision.requeue_after_seconds == pytest.approx(again)


@pytest.mark.parametrize("runs", [1, 80, 400, 1000, 4000])
@pytest.mark.parametrize("step", [40, 41], ids=["standing", "moving"])
def test_with_many_runs_numbers_are_written_more_seldom(runs: int, step: int) -> None:
    uid = training().build().uid
    pace = progress_interval(runs, uid) if step == 41 else standing_interval(runs, uid)
    for early in (0.5, -0.01):
        now = NOW + pace - timedelta(seconds=early)
        heard = a_report(sent_at=now, progress=progress(step))
        decision = judge(training(), now=now, pods=PODS, report=heard, runs_heard=runs)
        assert (decision.status is not None) is (early < 0)
        if early > 0:
            assert decision.requeue_after_seconds == pytest.approx(early)


@pytest.mark.parametrize(("name", "fields", "at_once"), AT_ONCE, ids=[row[0] for row in AT_ONCE])
def test_news_is_written_at_once_however_many_run(name: str, fields: dict[str, Any], at_once: bool) -> None:
    now = NOW + timedelta(seconds=1)
    report = a_report(**({"sent_at": now, "progress": progress(40)} | fields))
    decision = judge(training(), now=now, pods=PODS, report=report, runs_heard=4000)
    assert (decision.status is not None) is at_once, name


@pytest.mark.parametrize("step", [40, 41], ids=["standing", "moving"])
def test_while_others_wait_numbers_are_written_half_as_often(step: int) -> None:
    uid = training().build().uid
    usual = progress_interval(600, uid) if step == 41 else standing_interval(600, uid)
    longer = max(2 * progress_interval(600, uid), usual)
    for busy, pace in ((False, usual), (True, longer)):
        for late in (-0.5, 0.01):
            now = NOW + pace + timedelta(seconds=late)
            report = a_report(sent_at=now, progress=progress(step))
            decision = judge(training(), now=now, pods=PODS, report=report, runs_heard=600, busy=busy)
            assert (decision.status is not None) is (late > 0), (busy, late)


def test_clock_that_was_ahead_holds_writes_back_for_half_a_minute_at_most() -> None:
    """The leader's clock made the time in status; ours may be far behind it."""
    ahead = progress(40).model_copy(update={"updated_at": NOW + timedelta(hours=3)})
    job = training()
    job = job.with_status(job.build().status.model_copy(update={"progress": ahead}))
    decision = heard(job, 1, progress=progress(41))
    assert decision.status is None
    assert decision.requeue_after_seconds == STANDING_INTERVAL.total_seconds()


def test_first_progress_is_written_at_once() -> None:
    job = training()
    unwritten = job.build().status.progress.model_copy(update={"updated_at": None, "step": 0})
    job = job.with_status(job.build().status.model_copy(update={"progress": unwritten}))
    assert heard(job, 0).status is not None


def test_write_carries_the_generation_that_was_judged() -> None:
    body = training().body
    body["metadata"]["generation"] = 7
    decision = heard(JobBuilder(body), 1)
    assert decision.status is not None
    assert decision.status["observedGeneration"] == 7


@pytest.mark.parametrize("name", ["progress", "goodput"])
def test_numbers_that_move_all_the_time_carry_no_weight(name: str) -> None:
    status = training().build().status
    assert name in status.to_wire() and name not in weighty(status)


def test_weight_does_not_change_what_it_weighs() -> None:
    status = training().build().status.model_copy(update={"tracking": TrackingStatus(run_id="r", spooled=3)})
    before = status.to_wire()
    assert weighty(status)["tracking"] == {"runId": "r"}
    assert status.to_wire() == before


# --- deadlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "fields", "seconds"),
    [
        ({}, {}, None),
        ({"activeDeadlineSeconds": 120}, {"started_at": at(5)}, 60.0),
        ({"startDeadlineSeconds": 90}, {}, 30.0),
        ({"startDeadlineSeconds": 90}, {"started_at": at(5)}, None),
        ({"activeDeadlineSeconds": 120, "suspend": True}, {"started_at": at(5)}, None),
    ],
)
def test_nearest_deadline_is_a_timer(
    spec: dict[str, Any], fields: dict[str, Any], seconds: float | None
) -> None:
    job = a_job().on_attempt(1, 1, 2, **fields)
    for path, value in spec.items():
        job = job.with_spec(path, value)
    waiting = tuple(
        a_pod(index, ticket, phase="Pending", started_at=None) for index, ticket in ((0, 1), (1, 2))
    )
    pods = () if spec.get("suspend") else waiting
    assert judge(job, pods=pods).requeue_after_seconds == seconds


def test_finished_run_has_no_deadline() -> None:
    ended = Condition(type="Failed", status="True", reason="Crash", last_transition_time=at(30))
    job = a_job().on_attempt(1, 1, 2, conditions=[ended], finished_at=at(30), started_at=at(5))
    assert judge(job.with_spec("activeDeadlineSeconds", 600)).requeue_after_seconds is None


# --- whole streams ---------------------------------------------------------------------------------


class Diary:
    """Runs rounds as the shell would: at each report and whenever the last decision asked to look again."""

    def __init__(self) -> None:
        self.job = training()
        self.writes: list[datetime] = []
        self.report: Report | None = None
        self.due: datetime | None = None

    def round(self, now: datetime) -> None:
        decision = judge(self.job, now=now, pods=PODS, report=self.report, heard_at=now)
        self.job = self.job.after(decision)
        if decision.status is not None:
            self.writes.append(now)
        wait = decision.requeue_after_seconds
        self.due = None if wait is None else now + timedelta(seconds=wait)

    def hear(self, at: datetime, step: int) -> None:
        while self.due is not None and self.due < at:
            self.round(self.due)
        self.report = a_report(sent_at=at, progress=progress(step), sequence=step)
        self.round(at)


@settings(max_examples=12, deadline=None, phases=(Phase_.explicit, Phase_.generate))
@given(st.lists(st.tuples(st.floats(0.1, 8.0), st.integers(0, 3)), min_size=5, max_size=25))
def test_any_pace_of_reports_makes_at_most_two_writes_in_five_seconds(
    pace: list[tuple[float, int]],
) -> None:
    """The pause counts from the report that was written, which may have waited for its turn."""
    diary, now, step = Diary(), NOW, 40
    for pause, steps in pace:
        now += timedelta(seconds=pause)
        step += steps
        diary.hear(now, step)
    for one, third in zip(diary.writes, diary.writes[2:], strict=False):
        assert third - one >= PROGRESS_INTERVAL - timedelta(milliseconds=1)
    # And nothing stays unwritten for long once somebody looks.
    diary.round(now + STANDING_INTERVAL)
    assert diary.job.build().status.progress.step == step


@pytest.mark.parametrize(("interval", "most"), [(2.0, 15), (5.0, 12), (1.0, 15), (10.0, 6)])
def test_steady_reports_of_a_minute_make_few_writes(interval: float, most: int) -> None:
    diary, step, seconds = Diary(), 40, interval
    while seconds <= 60:
        step += 1
        diary.hear(NOW + timedelta(seconds=seconds), step)
        seconds += interval
    assert 1 <= len(diary.writes) <= most


def test_a_minute_of_standing_still_makes_two_writes() -> None:
    diary = Diary()
    for number in range(1, 31):
        diary.hear(NOW + timedelta(seconds=2 * number), 40)
    assert len(diary.writes) == 2


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_a_status_that_could_not_be_read_again_is_never_written() -> None:
    """Copies of models are not validated, and a block that does not parse counts as absent in the next round."""
    built = training().build()
    facts = gather(built, Observed(pods=PODS, claims=claims()), NOW, SETTINGS)
    broken = facts.status.model_copy(update={"incarnation": "many"})
    with pytest.raises(ValidationError):
        conclude(facts, Outcome(status=broken))


def test_what_a_vanished_pod_cost_is_charged_by_who_watched() -> None:
    """A pod went within the last quarter of an hour: this operator has been there, or begun to look after it."""
    priced = replace(SETTINGS, prices=PriceList("EUR", {"cpu": Decimal(3600)}))
    pods = tuple(replace(pod, requests=(("cpu", "1"),)) for pod in PODS)
    job = training()
    job = job.after(judge(job, settings=priced, pods=pods, report=a_report(incarnation=2)))
    totals = []
    for since in (NOW, NOW + timedelta(seconds=890)):
        now = NOW + timedelta(seconds=900)
        decision = judge(job, now=now, settings=priced, pods=pods[:1], listening_since=since)
        assert decision.status is not None
        totals.append(Decimal(decision.status["cost"]["total"]))
    assert totals[0] - totals[1] == 900
