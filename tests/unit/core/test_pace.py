"""How often runs report and have their progress written: closely while few run, bounded in sum while many do."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.facts import SILENCE
from windlass.core.pace import (
    LONGEST_REPORT_SECONDS,
    REPORTS_PER_SECOND,
    WRITES_PER_SECOND,
    progress_interval,
    report_seconds,
    standing_interval,
)


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
        (4000, 6.0, 200.0, 200.0),
    ],
)
def test_paces(runs: int, report: float, progress: float, standing: float) -> None:
    assert report_seconds(runs) == report
    assert progress_interval(runs) == timedelta(seconds=progress)
    assert standing_interval(runs) == timedelta(seconds=standing)


@given(st.integers(0, 100_000))
def test_sums_are_bounded(runs: int) -> None:
    assert runs / progress_interval(runs).total_seconds() <= WRITES_PER_SECOND + 1e-9
    asked = report_seconds(runs) or 2.0
    assert runs / asked <= REPORTS_PER_SECOND + 1e-9 or asked == LONGEST_REPORT_SECONDS or runs <= 200


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_runs_are_never_followed_more_closely(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert report_seconds(few) <= report_seconds(many)
    assert progress_interval(few) <= progress_interval(many)
    assert standing_interval(few) <= standing_interval(many)


def test_two_reports_may_be_lost_before_a_leader_counts_as_silent() -> None:
    assert SILENCE.total_seconds() > 2 * LONGEST_REPORT_SECONDS
