"""Windows of skipped data: what they leave out, how they meet, and what a rollback may never touch."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.skipped_windows import merged, position, window_of

WINDOWS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 220)), max_size=6)
STEPS = st.integers(1, 30)
BATCH = st.integers(1, 9)


def inside(windows: object) -> set[int]:
    """All positions of windows."""
    return {place for first, last in windows for place in range(first, last)}  # type: ignore[attr-defined]


MERGED = [
    ([], ()),
    ([(3, 3)], ()),
    ([(5, 2)], ()),
    ([(1, 4)], ((1, 4),)),
    ([(6, 9), (1, 4)], ((1, 4), (6, 9))),
    ([(1, 4), (4, 6)], ((1, 6),)),
    ([(1, 9), (2, 3)], ((1, 9),)),
    ([(1, 4), (3, 8), (8, 9), (11, 12)], ((1, 9), (11, 12))),
]


@pytest.mark.parametrize(("windows", "wanted"), MERGED, ids=str)
def test_windows_that_touch_or_overlap_become_one(windows, wanted):
    assert merged(windows) == wanted


@given(WINDOWS)
def test_merging_keeps_every_position_and_leaves_gaps_between_windows(windows):
    joined = merged(windows)
    assert inside(joined) == inside(windows)
    assert all(left[1] < right[0] for left, right in pairwise(joined))
    assert merged(joined) == joined


@given(WINDOWS, st.integers(0, 100))
def test_counts_run_through_the_positions_that_are_left(windows, count):
    left = [place for place in range(600) if place not in inside(windows)]
    assert position(count, windows) == left[count]


POSITIONS = [
    # count, windows, position
    (0, [], 0),
    (7, [], 7),
    (7, [(7, 9)], 9),
    (6, [(7, 9)], 6),
    (0, [(0, 4)], 4),
    (5, [(2, 4), (6, 8)], 9),
    (5, [(6, 8), (2, 4)], 9),
    (5, [(2, 5), (4, 8)], 11),
]


@pytest.mark.parametrize(("count", "windows", "wanted"), POSITIONS, ids=str)
def test_a_sample_s_position_is_behind_the_windows_before_it(count, windows, wanted):
    assert position(count, windows) == wanted


WINDOW = [
    # step, skip, resumed, batch, windows, window
    (5, 1, 3, 4, [], (16, 20)),
    (5, 2, 3, 4, [], (12, 20)),
    (5, 9, 3, 4, [], (12, 20)),  # what the checkpoint has been trained on stays
    (5, 0, 3, 4, [], None),
    (3, 1, 3, 4, [], None),
    (2, 5, 3, 4, [], None),
    (1, 1, 0, 4, [], (0, 4)),
    (5, 1, 3, 4, [(16, 20)], (20, 24)),  # the step took the data after the window that was there
    (5, 2, 3, 4, [(16, 20)], (12, 24)),  # and over it
    (5, 1, 3, 4, [(18, 20)], (16, 22)),
    (5, 1, 3, 4, [(40, 44)], (16, 20)),
]


@pytest.mark.parametrize(("step", "skip", "resumed", "batch", "windows", "wanted"), WINDOW, ids=str)
def test_the_window_of_a_step_holds_the_data_that_it_trained_on(step, skip, resumed, batch, windows, wanted):
    found = window_of(step, skip, resumed_step=resumed, global_batch_size=batch, windows=windows)
    assert found == wanted


@given(step=STEPS, skip=st.integers(0, 12), resumed=st.integers(0, 30), batch=BATCH, windows=WINDOWS)
def test_a_window_holds_exactly_the_last_steps_and_nothing_that_was_trained(
    step, skip, resumed, batch, windows
):
    found = window_of(step, skip, resumed_step=resumed, global_batch_size=batch, windows=windows)
    first = max(step - skip, resumed)
    trained_then = {position(count, windows) for count in range(first * batch, step * batch)}
    if not trained_then:
        assert found is None
        return
    assert found is not None
    assert inside([found]) - inside(windows) == trained_then


@given(step=STEPS, skip=st.integers(1, 12), resumed=st.integers(0, 30), batch=BATCH, windows=WINDOWS)
def test_the_order_under_the_checkpoint_does_not_move(step, skip, resumed, batch, windows):
    found = window_of(step, skip, resumed_step=resumed, global_batch_size=batch, windows=windows)
    after = [*windows, *([found] if found else [])]
    before_checkpoint = range(resumed * batch)
    assert [position(count, after) for count in before_checkpoint] == [
        position(count, windows) for count in before_checkpoint
    ]


@given(step=STEPS, skip=st.integers(1, 12), back=st.integers(0, 12), batch=BATCH, windows=WINDOWS)
def test_the_steps_that_are_done_again_take_what_followed_the_window(step, skip, back, batch, windows):
    resumed = max(0, step - 1 - back)
    found = window_of(step, skip, resumed_step=resumed, global_batch_size=batch, windows=windows)
    assert found is not None
    again = [position(count, [*windows, found]) for count in range(resumed * batch, (step + 3) * batch)]
    plain = [position(count, windows) for count in range(resumed * batch, (step + 3 + skip) * batch)]
    assert again == [place for place in plain if place not in inside([found])][: len(again)]
