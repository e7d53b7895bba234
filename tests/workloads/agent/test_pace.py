"""The band of what is left: nothing before enough was measured, and then as wide as the steps differ."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import Incarnation, RankEvent
from windlass.api.status import Plan
from windlass_workloads.agent.pace import KEPT_STEPS, LEAST_STEPS, Pace
from windlass_workloads.agent.view import View


def paced(seconds: list[float], *, between: float = 0.0) -> Pace:
    """Steps of so many seconds; `between` is what lies between two of them."""
    pace, at = Pace(), 1000.0
    for step, taken in enumerate(seconds, 1):
        at += taken + between
        pace.hear(step, seconds=taken, at=at)
    return pace


@pytest.mark.parametrize("count", range(LEAST_STEPS + 1))
def test_nothing_is_told_before_enough_steps_were_measured(count: int) -> None:
    assert paced([1.0] * count).band(10) is None


def test_even_steps_make_a_band_without_width() -> None:
    assert paced([1.0] * (LEAST_STEPS + 1)).band(10) == (10, 10)


def test_the_first_step_after_a_start_does_not_count() -> None:
    assert paced([90.0] + [1.0] * LEAST_STEPS).band(10) == (10, 10)


@pytest.mark.parametrize(
    ("seconds", "band"),
    [
        # Up to nine steps the fastest and the slowest count, from ten on one of each is left out.
        ([0, 1, 2, 2, 2, 2, 3], (10, 30)),
        ([0, 1, 2, 2, 2, 2, 2, 2, 2, 3], (10, 30)),
        ([0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3], (20, 20)),
        ([0, *[1] * 10, *[2] * 80, *[3] * 10], (20, 20)),
        ([0, *[1] * 11, *[2] * 78, *[3] * 11], (10, 30)),
    ],
)
def test_the_band_is_from_the_fastest_tenth_to_the_slowest(
    seconds: list[float], band: tuple[float, float]
) -> None:
    assert paced(seconds).band(10) == band


def test_saves_and_validations_widen_it_upwards() -> None:
    low, high = paced([1.0] * 20, between=0.5).band(100) or (0, 0)
    assert low == 100 and high == pytest.approx(150)


def test_a_clock_that_was_set_back_does_not_make_it_narrower_than_the_steps() -> None:
    pace = Pace()
    for step in range(1, 20):
        pace.hear(step, seconds=2.0, at=1000.0 - step)
    assert pace.band(10) == (20, 20)


def test_a_run_that_became_slower_is_told_so() -> None:
    low, high = paced([1.0] * 50 + [5.0] * KEPT_STEPS).band(1) or (0, 0)
    assert (low, high) == (5, 5)


def test_a_step_without_a_time_counts_by_the_clock_alone() -> None:
    pace = paced([1.0] * (LEAST_STEPS + 1))
    pace.hear(LEAST_STEPS + 2, seconds=None, at=1000.0 + 3 * (LEAST_STEPS + 2))
    low, high = pace.band(1) or (0, 0)
    assert low == 1 and high > 2


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 1e4), min_size=LEAST_STEPS + 1, max_size=300),
    st.integers(0, 10**6),
    st.floats(0, 100),
)
def test_a_band_is_ordered_and_within_what_was_measured(
    seconds: list[float], left: int, between: float
) -> None:
    low, high = paced(seconds, between=between).band(left) or (-1, -2)
    kept = seconds[1:][-KEPT_STEPS:]
    assert left * min(kept) <= low <= high
    slowest = max(seconds[1:]) + between
    assert high <= left * slowest * (1 + 1e-6) + 1e-6


# --- in the leader's view --------------------------------------------------------------------------


def step(number: int, seconds: float = 1.0) -> RankEvent:
    return RankEvent(type="Step", at=100.0 + number, step=number, loss=2.0, tokens=50, seconds=seconds)


def after(steps: int, *, total: int | None = 100) -> View:
    view = View()
    view.hear(RankEvent(type="Plan", at=0, plan=Plan(total_steps=total)))
    for number in range(1, steps + 1):
        view.hear(step(number))
    return view


def band_of(view: View) -> tuple[float | None, float | None, float | None]:
    told = view.progress
    return told.eta_low_seconds, told.eta_seconds, told.eta_high_seconds


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(6, (None, 94, None)), (7, (93, 93, 93)), (99, (1, 1, 1)), (100, (0, 0, 0))],
)
def test_progress_has_the_band_once_it_is_known(
    steps: int, expected: tuple[float | None, float | None, float | None]
) -> None:
    assert band_of(after(steps)) == expected


def test_without_a_known_end_nothing_is_expected() -> None:
    assert band_of(after(20, total=None)) == (None, None, None)


def test_the_band_holds_the_expectation_which_follows_the_last_steps() -> None:
    view = after(30)
    for number in range(31, 34):
        view.hear(step(number, seconds=9.0))
    low, eta, high = band_of(view)
    assert low == 67 and eta is not None and high is not None and eta > 2 * 67 and high >= eta


def test_other_ranks_steps_do_not_count() -> None:
    view = after(6)
    for number in range(1, 30):
        view.hear(step(number).model_copy(update={"rank": 1}))
    assert band_of(view) == (None, 94, None)


def test_a_new_start_measures_anew() -> None:
    view = after(20)
    view.restarted(
        Incarnation.model_validate(
            {
                "incarnation": 2,
                "attempt": 1,
                "ticket": 1,
                "ownerPodUid": "u",
                "ownerPod": "p",
                "createdAt": "2026-01-01T00:00:00Z",
            }
        )
    )
    assert band_of(view) == (None, None, None)
    for number in range(1, 7):
        view.hear(step(number, seconds=3.0))
    assert band_of(view) == (None, 282, None)
    view.hear(step(7, seconds=3.0))
    assert band_of(view) == (279, 279, 279)
