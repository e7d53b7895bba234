"""The order of samples: a permutation per pass, the same for any world size and across restarts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.data.order import Order, deal, permute, round_keys, total_steps

settings.register_profile("windlass", deadline=None)
settings.load_profile("windlass")

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(1, 300)


@given(SEEDS, SIZES, st.integers(0, 5))
def test_each_pass_visits_every_sample_once(seed, size, data_pass):
    order = Order(seed, size)
    visited = [order.sample(data_pass * size + index) for index in range(size)]
    assert sorted(visited) == list(range(size))


@given(SEEDS, st.integers(20, 300))
def test_passes_and_seeds_differ(seed, size):
    def one_pass(of_seed, data_pass):
        return [permute(index, size, round_keys(of_seed, data_pass)) for index in range(size)]

    assert one_pass(seed, 0) != one_pass(seed, 1)
    assert one_pass(seed, 0) != one_pass(seed + 1, 0)
    assert one_pass(seed, 0) != list(range(size))


@given(SEEDS, SIZES, st.integers(1, 40), st.integers(1, 30))
def test_batches_are_the_samples_in_a_row_whenever_they_are_asked_for(seed, size, batch, step):
    order = Order(seed, size)
    assert order.batch(step, batch) == [order.sample((step - 1) * batch + place) for place in range(batch)]
    assert Order(seed, size).batch(step, batch) == order.batch(step, batch)


@given(SEEDS, st.integers(1, 60), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), max_size=4))
def test_skipped_windows_are_left_out_and_nothing_else(seed, size, gaps):
    windows, end = [], 0
    for first, length in sorted(gaps):
        first = max(first, end)
        windows.append((first, first + length))
        end = first + length
    order = Order(seed, size, tuple(windows))
    skipped = {position for first, last in windows for position in range(first, last)}
    positions = [order.position(count) for count in range(100)]
    wanted = [position for position in range(400) if position not in skipped][:100]
    assert positions == wanted


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_dealing_gives_every_sample_once_and_equal_turns_to_all_ranks(lengths, micro, world):
    samples = [100 + index for index in range(len(lengths))]
    hands = deal(samples, lengths, micro=micro, world=world)
    assert sorted(sample for hand in hands for group in hand for sample in group) == samples
    assert len({len(hand) for hand in hands}) == 1
    assert all(len(group) <= micro for hand in hands for group in hand)


def test_a_small_order_stays_what_it_is():
    # A change here would silently change what every resumed run trains on.
    assert Order(17, 10).batch(1, 10) == [9, 6, 1, 8, 4, 7, 2, 5, 0, 3]


def test_an_order_needs_samples():
    with pytest.raises(ValueError, match=r"size: an order needs samples \(got 0\); allowed at least 1\."):
        Order(1, 0)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(1, None, 4), (2, None, 7), (None, 9, 9), (None, None, 4), (3, 2, 2)],
)
def test_steps_follow_from_epochs_or_max_steps(epochs, max_steps, steps):
    assert total_steps(13, global_batch_size=4, epochs=epochs, max_steps=max_steps) == steps
