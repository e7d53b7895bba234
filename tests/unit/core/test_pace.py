"""How often runs report and have their progress written: closely while few run, bounded in sum while many do."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.cost import WATCHED
from windlass.core.pace import (
    LONGEST_PROGRESS_SECONDS,
    LONGEST_REPORT_SECONDS,
    REPORT_SECONDS,
    REPORTS_PER_SECOND,
    WRITES_PER_SECOND,
    progress_interval,
    report_seconds,
    silence,
    standing_interval,
)
from windlass_workloads.agent.reports import TIMEOUT_SECONDS, pause_after


@pytest.mark.parametrize(
    ("runs", "report", "progress", "standing"),
    [
        (0, 0.0, 5.0, 30.0),
        (1, 0.0, 5.0, 30.0),
        (100, 0.0, 5.0, 30.0),
        (200, 0.0, 10.0, 30.0),
        (300, 3.0, 15.0, 30.0),
        (600, 6.0, 30.0, 30.0),
        (1000, 6.0, 50.0, 50.0),
        (4000, 6.0, 50.0, 50.0),
    ],
)
def test_paces(runs: int, report: float, progress: float, standing: float) -> None:
    assert report_seconds(runs) == report
    assert progress_interval(runs) == timedelta(seconds=progress)
    assert standing_interval(runs) == timedelta(seconds=standing)


@given(st.integers(0, 100_000))
def test_sums_are_bounded(runs: int) -> None:
    interval = progress_interval(runs).total_seconds()
    assert runs / interval <= WRITES_PER_SECOND + 1e-9 or interval == LONGEST_PROGRESS_SECONDS
    asked = report_seconds(runs) or 2.0
    assert runs / asked <= REPORTS_PER_SECOND + 1e-9 or asked == LONGEST_REPORT_SECONDS or runs <= 200


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_runs_are_never_followed_more_closely(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert report_seconds(few) <= report_seconds(many)
    assert progress_interval(few) <= progress_interval(many)
    assert standing_interval(few) <= standing_interval(many)


@given(st.integers(0, 100_000), st.text(max_size=40))
def test_runs_that_were_heard_together_are_not_due_together(runs: int, uid: str) -> None:
    alike, own = progress_interval(runs).total_seconds(), progress_interval(runs, uid).total_seconds()
    assert own == progress_interval(runs, uid).total_seconds(), "the same each time"
    assert (
        min(5.0, 0.75 * alike)
        <= own
        <= min(max(5.0, 1.25 * runs / WRITES_PER_SECOND), LONGEST_PROGRESS_SECONDS)
    )


def test_a_few_runs_do_not_differ_and_many_do() -> None:
    assert {progress_interval(80, f"run-{number}") for number in range(50)} == {timedelta(seconds=5)}
    assert len({progress_interval(600, f"run-{number}") for number in range(50)}) > 40


@pytest.mark.parametrize(
    ("runs", "seconds"), [(0, 15.0), (200, 15.0), (300, 16.0), (600, 19.0), (5000, 19.0)]
)
def test_when_a_leader_counts_as_silent(runs: int, seconds: float) -> None:
    assert silence(runs) == timedelta(seconds=seconds)


@given(st.integers(0, 100_000))
def test_one_report_may_time_out_before_a_leader_counts_as_silent(runs: int) -> None:
    """The next one comes after the time-out and the first pause."""
    asked = report_seconds(runs) or REPORT_SECONDS
    lost = asked + TIMEOUT_SECONDS + pause_after(1, REPORT_SECONDS)
    assert lost < silence(runs).total_seconds()
    # And two that are refused at once.
    refused = asked + pause_after(1, REPORT_SECONDS) + pause_after(2, REPORT_SECONDS)
    assert refused + 1.0 <= silence(runs).total_seconds()


def test_costs_know_an_operator_that_writes_seldom_from_one_that_was_away() -> None:
    assert WATCHED.total_seconds() > LONGEST_PROGRESS_SECONDS + LONGEST_REPORT_SECONDS
