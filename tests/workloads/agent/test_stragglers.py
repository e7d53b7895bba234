"""Which ranks count as slowing the others down: consistently, by a lot, and at a cost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import RankEvent
from windlass_workloads.agent.stragglers import RATIO, STEPS, WARM_STEPS, WINDOWS, Pace

STEP_SECONDS = 1.0
WINDOW = STEPS + 1
"""Steps of a window of ten seconds, the one in which it closes included."""


def hear(
    pace: Pace, rank: int, own: float | None, *, at: float, seconds: float | None = STEP_SECONDS
) -> None:
    pace.hear(RankEvent(type="Step", at=0.0, rank=rank, step=1, seconds=seconds, own_seconds=own), at)


def run(pace: Pace, steps: int, *own: float, begin: float = 0.0) -> float:
    """So many steps of a second each; the time afterwards."""
    for number in range(steps):
        for rank, seconds in enumerate(own):
            hear(pace, rank, seconds, at=begin + number)
    return begin + steps


def windows(count: int) -> int:
    """Steps until so many windows have been closed."""
    return WARM_STEPS + WINDOW * count


@pytest.mark.fault("F42")
@pytest.mark.parametrize(
    ("own", "slow"),
    [
        ((0.4, 0.4, 0.4, 0.9), [3]),
        ((0.4, 0.9), [1]),
        ((0.9, 0.4), [0]),
        ((0.4, 0.4, 0.4, 0.4, 0.9, 0.8), [4, 5]),
        ((0.4, 0.4, 0.4, 0.4), []),
        ((0.4, 0.45, 0.5, 0.55), []),
        ((0.0, 0.0, 0.5), [2]),
        # One and a half times as long, but of next to nothing.
        ((0.01, 0.01, 0.01, 0.03), []),
        # A tenth of a step, but not one and a half times as long.
        ((0.6, 0.6, 0.6, 0.8), []),
        # Quick ranks are nobody's trouble.
        ((0.1, 0.9, 0.9, 0.9), []),
        ((0.9,), []),
    ],
)
def test_who_is_slow(own: tuple[float, ...], slow: list[int]) -> None:
    pace = Pace(range(len(own)), 10.0)
    run(pace, windows(WINDOWS) + 1, *own)
    assert sorted(pace.slow) == slow


def test_the_ratio_is_told_as_it_was_found() -> None:
    pace = Pace(range(3), 10.0)
    at = run(pace, windows(WINDOWS) + 1, 0.4, 0.4, 1.0)
    assert pace.slow[2].ratio == pytest.approx(2.5)
    run(pace, windows(1), 0.4, 0.4, 3.0, begin=at)
    assert pace.slow[2].ratio == pytest.approx(2.5), "a figure that moves would be a write each time"


@pytest.mark.parametrize("count", range(WINDOWS))
def test_fewer_windows_in_a_row_are_not_enough(count: int) -> None:
    pace = Pace(range(2), 10.0)
    at = run(pace, windows(count) + 1, 0.4, 0.9)
    assert pace.slow == {}
    at = run(pace, 2 * WINDOW, 0.4, 0.4, begin=at)
    run(pace, windows(WINDOWS - 1) - WARM_STEPS, 0.4, 0.9, begin=at)
    assert pace.slow == {}, "they have to follow each other"


def test_a_rank_that_is_well_again_is_forgotten_after_as_many_windows() -> None:
    pace = Pace(range(2), 10.0)
    at = run(pace, windows(WINDOWS) + 1, 0.4, 0.9)
    at = run(pace, WINDOW, 0.4, 0.4, begin=at)
    assert list(pace.slow) == [1]
    run(pace, WINDOW * WINDOWS, 0.4, 0.4, begin=at)
    assert pace.slow == {}


def test_the_first_steps_of_an_incarnation_do_not_count() -> None:
    pace = Pace(range(2), 0.0)
    at = run(pace, WARM_STEPS, 0.4, 90.0)
    run(pace, windows(WINDOWS), 0.4, 0.4, begin=at)
    assert pace.slow == {}


def test_quick_steps_make_no_short_windows() -> None:
    pace = Pace(range(2), 10.0)
    for number in range(1000):
        for rank, own in ((0, 0.004), (1, 0.009)):
            hear(pace, rank, own, at=number * 0.01, seconds=0.01)
    assert pace.slow == {}, "all that was within ten seconds"


def test_slow_steps_make_windows_of_enough_steps() -> None:
    pace = Pace(range(2), 10.0)
    for number in range(WARM_STEPS + STEPS * WINDOWS - 1):
        for rank, own in ((0, 20.0), (1, 50.0)):
            hear(pace, rank, own, at=number * 60.0, seconds=60.0)
    assert pace.slow == {}
    for rank, own in ((0, 20.0), (1, 50.0)):
        hear(pace, rank, own, at=9999.0, seconds=60.0)
    assert list(pace.slow) == [1]


def test_ranks_that_do_not_tell_their_own_seconds_are_not_judged() -> None:
    pace = Pace(range(2), 0.0)
    for number in range(200):
        hear(pace, 0, 0.4, at=float(number))
        hear(pace, 1, None, at=float(number))
        hear(pace, 1, 9.0, at=float(number), seconds=None)
        hear(pace, 7, 9.0, at=float(number))
        pace.hear(RankEvent(type="Phase", at=0.0, rank=1), float(number))
    assert pace.slow == {}


@pytest.mark.parametrize("every", [2, 3])
def test_slow_steps_now_and_then_make_no_straggler(every: int) -> None:
    """Longer samples, a page cache that is filled: less than half of the steps."""
    pace = Pace(range(4), 10.0)
    for number in range(windows(6)):
        for rank in range(4):
            slow = rank == 3 and number % (2 * every) == 0
            hear(pace, rank, 2.0 if slow else 0.4, at=float(number))
    assert pace.slow == {}


@given(st.integers(0, 2**32), st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_ranks_of_equal_speed_are_never_told(seed: int, world: int) -> None:
    noise = random.Random(seed)
    pace = Pace(range(world), 10.0)
    for number in range(windows(8)):
        for rank in range(world):
            hear(pace, rank, noise.uniform(0.3, 0.5), at=float(number))
        assert pace.slow == {}


@given(st.integers(0, 2**32), st.integers(3, 8), st.floats(2.0, 5.0))
@settings(max_examples=40, deadline=None)
def test_a_rank_that_is_twice_as_slow_is_always_told_and_alone(seed: int, world: int, factor: float) -> None:
    noise = random.Random(seed)
    pace = Pace(range(world), 10.0)
    late = noise.randrange(world)
    for number in range(windows(WINDOWS) + 1):
        for rank in range(world):
            own = noise.uniform(0.36, 0.44) * (factor if rank == late else 1.0)
            hear(pace, rank, own, at=float(number), seconds=factor)
    assert list(pace.slow) == [late]
    assert pace.slow[late].ratio >= RATIO
