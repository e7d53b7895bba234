"""How often runs report and have their progress written: closely while few run, bounded in sum while many do."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.pace import (
    LONGEST_PROGRESS_SECONDS,
    LONGEST_REPORT_SECONDS,
    REPORT_SECONDS,
    REPORTS_PER_SECOND,
    WHILE_BUSY,
    WRITES_PER_SECOND,
    announcement_interval,
    progress_interval,
    report_seconds,
    standing_interval,
    unheard_after,
)
from windlass.shell.inbox import HEARD
from windlass_workloads.agent.delivery import TIMEOUT_SECONDS
from windlass_workloads.agent.reports import pause_after

MIDDLE = "5681"
"""A run whose interval is the mean of all."""


@pytest.mark.parametrize(
    ("runs", "report", "progress", "standing"),
    [
        (0, 0.0, 5.0, 30.0),
        (1, 0.0, 5.0, 30.0),
        (100, 0.0, 5.0, 30.0),
        (200, 0.0, 10.0, 30.0),
        (300, 3.0, 15.0, 30.0),
        (600, 6.0, 30.0, 30.0),
        (1000, 10.0, 50.0, 50.0),
        (4000, 10.0, 50.0, 50.0),
    ],
)
def test_paces(runs: int, report: float, progress: float, standing: float) -> None:
    assert report_seconds(runs) == report
    assert progress_interval(runs, MIDDLE) == timedelta(seconds=progress)
    assert standing_interval(runs, MIDDLE) == timedelta(seconds=standing)


@given(st.integers(0, 100_000))
def test_sums_are_bounded(runs: int) -> None:
    interval = progress_interval(runs, MIDDLE).total_seconds()
    assert runs / interval <= WRITES_PER_SECOND + 1e-9 or interval == LONGEST_PROGRESS_SECONDS
    asked = report_seconds(runs) or 2.0
    assert runs / asked <= REPORTS_PER_SECOND + 1e-9 or asked == LONGEST_REPORT_SECONDS or runs <= 200


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.text(max_size=40))
def test_more_runs_are_never_followed_more_closely(one: int, other: int, uid: str) -> None:
    few, many = sorted((one, other))
    assert report_seconds(few) <= report_seconds(many)
    assert progress_interval(few, uid) <= progress_interval(many, uid)
    assert standing_interval(few, uid) <= standing_interval(many, uid)


@given(st.integers(0, 100_000), st.text(max_size=40))
def test_no_run_is_far_from_the_mean(runs: int, uid: str) -> None:
    own = progress_interval(runs, uid).total_seconds()
    mean = runs / WRITES_PER_SECOND
    assert min(max(5.0, 0.75 * mean), LONGEST_PROGRESS_SECONDS) - 1e-6 <= own
    assert own <= min(max(5.0, 1.25 * mean), LONGEST_PROGRESS_SECONDS) + 1e-6


def test_few_runs_do_not_differ_and_many_are_not_due_together() -> None:
    assert {progress_interval(80, f"run-{number}") for number in range(50)} == {timedelta(seconds=5)}
    assert len({progress_interval(600, f"run-{number}") for number in range(50)}) > 40


@pytest.mark.parametrize(
    ("runs", "seconds"), [(0, 15.0), (200, 15.0), (300, 16.0), (600, 19.0), (5000, 23.0)]
)
def test_when_a_leader_counts_as_silent(runs: int, seconds: float) -> None:
    assert unheard_after(runs) == timedelta(seconds=seconds)


@given(st.integers(0, 100_000))
def test_one_report_may_time_out_before_a_leader_counts_as_silent(runs: int) -> None:
    """The next one comes after the time-out and the first pause."""
    asked = report_seconds(runs) or REPORT_SECONDS
    lost = asked + TIMEOUT_SECONDS + pause_after(1, REPORT_SECONDS)
    assert lost < unheard_after(runs).total_seconds()
    # And two that are refused at once.
    refused = asked + pause_after(1, REPORT_SECONDS) + pause_after(2, REPORT_SECONDS)
    assert refused + 1.0 <= unheard_after(runs).total_seconds()


@pytest.mark.parametrize(
    ("runs", "seconds"), [(0, 60), (1, 60), (300, 60), (301, 60.2), (1000, 200), (5000, 1000)]
)
def test_how_often_a_checkpoint_is_told_beside_the_status(runs: int, seconds: float) -> None:
    assert announcement_interval(runs, MIDDLE) == timedelta(seconds=seconds)
    assert announcement_interval(runs, MIDDLE, busy=True) == timedelta(seconds=2 * seconds)


def test_announcements_of_many_are_not_due_together() -> None:
    found = [announcement_interval(1000, f"run-{number}").total_seconds() for number in range(200)]
    assert len(set(found)) > 150 and 150 <= min(found) < 160 and 240 < max(found) <= 250
    assert {announcement_interval(200, f"run-{number}") for number in range(50)} == {timedelta(seconds=60)}


@given(st.integers(0, 100_000), st.text(max_size=40), st.booleans())
def test_progress_is_due_after_so_long_at_the_latest(runs: int, uid: str, busy: bool) -> None:
    latest = timedelta(seconds=WHILE_BUSY * LONGEST_PROGRESS_SECONDS)
    assert progress_interval(runs, uid, busy=busy) <= standing_interval(runs, uid, busy=busy) <= latest


def test_a_run_counts_as_heard_longer_than_one_lost_report_takes() -> None:
    lost = LONGEST_REPORT_SECONDS + TIMEOUT_SECONDS + pause_after(1, REPORT_SECONDS)
    assert lost + 3.0 < HEARD.total_seconds()


@given(st.integers(0, 100_000), st.text(max_size=40))
def test_a_busy_operator_writes_numbers_half_as_often(runs: int, uid: str) -> None:
    assert progress_interval(runs, uid, busy=True) == 2 * progress_interval(runs, uid)
    assert standing_interval(runs, uid, busy=True) >= standing_interval(runs, uid)
