"""A mix of sources by shares: exact over each block, the same for any world size, and a pure function of its place."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.data.order import Order, Part, deal, permute, round_keys, shares

settings.register_profile("windlass", deadline=None)
settings.load_profile("windlass")

SEEDS = st.integers(0, 2**31 - 1)
ROWS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=5)
"""Sizes and weights of the parts of a mix."""


def mix_of(seed: int, rows: list[tuple[int, int]], skipped: tuple[tuple[int, int], ...] = ()) -> Order:
    parts, first = [], 0
    for size, weight in rows:
        parts.append(Part(first, size, weight))
        first += size
    return Order(seed, first, skipped, tuple(parts))


def written_out(order: Order, blocks: int) -> list[int]:
    """The first blocks as the definition has them, in lists: a block's places, and each part's samples in a row."""
    draws = []
    for number, part in enumerate(order.parts):
        passes = blocks * part.weight // part.size + 1
        draws.append(
            [
                part.first + permute(index, part.size, round_keys(order.seed, f"part {number} {turn}"))
                for turn in range(passes)
                for index in range(part.size)
            ]
        )
    samples = []
    for block in range(blocks):
        # Part by part, as many as its weight, and then mixed up.
        places = []
        for part, drawn in zip(order.parts, draws, strict=True):
            places += drawn[block * part.weight : (block + 1) * part.weight]
        keys = round_keys(order.seed, f"block {block}")
        samples += [places[permute(index, len(places), keys)] for index in range(len(places))]
    return samples


def width_of(order: Order) -> int:
    return sum(part.weight for part in order.parts)


# --- the definition --------------------------------------------------------------------------------


@given(SEEDS, ROWS, st.integers(1, 6))
def test_a_mix_is_what_its_definition_says(seed: int, rows: list[tuple[int, int]], blocks: int) -> None:
    order = mix_of(seed, rows)
    wanted = written_out(order, blocks)
    assert [order.sample(count) for count in range(len(wanted))] == wanted


@given(SEEDS, ROWS, st.integers(0, 10**9))
def test_shares_are_exact_over_each_block(seed: int, rows: list[tuple[int, int]], block: int) -> None:
    order = mix_of(seed, rows)
    width = width_of(order)
    found = [order.sample(block * width + place) for place in range(width)]
    for part in order.parts:
        mine = [sample for sample in found if part.first <= sample < part.first + part.size]
        assert len(mine) == part.weight


@given(SEEDS, ROWS, st.integers(1, 8))
def test_a_source_is_passed_over_completely_before_it_repeats(
    seed: int, rows: list[tuple[int, int]], blocks: int
) -> None:
    order = mix_of(seed, rows)
    drawn = Counter(order.sample(count) for count in range(blocks * width_of(order)))
    for part in order.parts:
        times = [drawn[sample] for sample in range(part.first, part.first + part.size)]
        assert sum(times) == blocks * part.weight
        assert max(times) - min(times) <= 1


@given(SEEDS, st.integers(20, 60), st.integers(20, 60))
def test_passes_blocks_sources_and_seeds_are_mixed_each_in_its_own_way(
    seed: int, one: int, other: int
) -> None:
    order = mix_of(seed, [(one, one), (one, one), (other, other)])
    width = width_of(order)
    blocks = [[order.sample(block * width + place) for place in range(width)] for block in range(2)]

    def owners(samples: list[int]) -> list[int]:
        return [sum(sample >= part.first for part in order.parts) for sample in samples]

    def of(samples: list[int], part: Part) -> list[int]:
        return [sample - part.first for sample in samples if part.first <= sample < part.first + part.size]

    assert owners(blocks[0]) != owners(blocks[1])
    assert of(blocks[0], order.parts[0]) != of(blocks[0], order.parts[1])
    assert of(blocks[0], order.parts[0]) != of(blocks[1], order.parts[0])
    other_seed = mix_of(seed + 1, [(one, one), (one, one), (other, other)])
    assert [other_seed.sample(place) for place in range(width)] != blocks[0]


def test_a_small_mix_stays_what_it_is() -> None:
    # A change here would silently change what every resumed run trains on.
    assert mix_of(17, [(3, 1), (5, 3)]).batch(1, 12) == [7, 3, 6, 2, 7, 5, 4, 0, 3, 5, 1, 6]


# --- how it is asked for ---------------------------------------------------------------------------


@given(SEEDS, ROWS, st.integers(1, 40), st.integers(1, 30))
def test_batches_of_a_mix_are_its_samples_in_a_row_whenever_they_are_asked_for(
    seed: int, rows: list[tuple[int, int]], batch: int, step: int
) -> None:
    order, again = mix_of(seed, rows), mix_of(seed, rows)
    first = (step - 1) * batch
    wanted = [order.sample(first + place) for place in range(batch)]
    again.batch(step + 3, batch)
    assert again.batch(step, batch) == order.batch(step, batch) == wanted


@given(SEEDS, ROWS, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=3))
def test_windows_are_left_out_of_a_mix_and_nothing_else(
    seed: int, rows: list[tuple[int, int]], gaps: list[tuple[int, int]]
) -> None:
    windows, end = [], 0
    for first, length in sorted(gaps):
        first = max(first, end)
        windows.append((first, first + length))
        end = first + length
    whole, order = mix_of(seed, rows), mix_of(seed, rows, tuple(windows))
    left = [place for place in range(200) if not any(first <= place < last for first, last in windows)]
    wanted = [whole.sample(place) for place in left][:100]
    assert order.batch(1, 50) + order.batch(2, 50) == wanted


@given(SEEDS, ROWS, st.integers(1, 4), st.sampled_from([1, 2, 3]), st.integers(1, 20))
def test_a_mixs_batch_is_the_same_whatever_ranks_it_is_dealt_to(
    seed: int, rows: list[tuple[int, int]], turns: int, micro: int, step: int
) -> None:
    batch = mix_of(seed, rows).batch(step, 8 * micro * turns)
    for world in (1, 2, 4, 8):
        hands = deal(batch, [32] * len(batch), micro=micro, world=world)
        assert {len(hand) for hand in hands} == {8 * turns // world}
        assert {len(group) for hand in hands for group in hand} == {micro}
        assert Counter(sample for hand in hands for group in hand for sample in group) == Counter(batch)


# --- without parts ---------------------------------------------------------------------------------

BEFORE = [
    # What the order gave before there were mixes: runs that began then go on.
    (17, 10, (), 2, [7, 0, 3, 9, 8, 2, 6, 4, 9, 5, 4, 0]),
    (0, 1, (), 1, [0, 0, 0]),
    (3, 97, (), 5, [20, 22, 90, 92, 5, 65, 91, 70, 54, 87, 68, 39]),
    (2147483647, 1000, ((3, 9), (100, 350)), 40, [399, 485, 712, 347, 18, 100, 594, 328]),
    (5, 7, ((0, 4),), 3, [0, 4, 5, 1, 6]),
]


@pytest.mark.parametrize(("seed", "size", "skipped", "step", "batch"), BEFORE)
def test_an_order_without_parts_is_what_it_was_before_there_were_mixes(
    seed: int, size: int, skipped: tuple[tuple[int, int], ...], step: int, batch: list[int]
) -> None:
    assert Order(seed, size, skipped).batch(step, len(batch)) == batch


@given(SEEDS, st.integers(1, 50), st.integers(0, 4))
def test_without_parts_each_pass_has_the_keys_of_its_number(seed: int, size: int, data_pass: int) -> None:
    order, keys = Order(seed, size), round_keys(seed, data_pass)
    found = [order.sample(data_pass * size + index) for index in range(size)]
    assert found == [permute(index, size, keys) for index in range(size)]


# --- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        (["1"], [1]),
        (["1.0"], [1]),
        (["0.5", "0.5"], [1, 1]),
        (["0.25", "0.75"], [1, 3]),
        (["0.7", "0.3"], [7, 3]),
        (["0.0001", "0.9999"], [1, 9999]),
        (["0.3333", "0.6667"], [3333, 6667]),
        (["0.10", "0.2", "0.7000"], [1, 2, 7]),
        (["0.29", "0.57", "0.14"], [29, 57, 14]),
    ],
)
def test_shares_become_the_smallest_whole_numbers(written: list[str], numbers: list[int]) -> None:
    assert shares(written) == numbers


@given(st.lists(st.integers(1, 9999), min_size=1, max_size=8))
def test_whole_numbers_of_shares_keep_their_proportion(parts: list[int]) -> None:
    written = [str(Decimal(part) / 10_000) for part in parts]
    found = shares(written)
    total = Fraction(sum(parts), sum(found))
    assert [number * total for number in found] == parts and total.denominator == 1
    assert not any(all(number % by == 0 for number in found) for by in range(2, min(found) + 1))


@pytest.mark.parametrize("part", [Part(0, 0, 1), Part(0, 1, 0)], ids=["samples", "weight"])
def test_a_part_needs_samples_and_a_weight(part: Part) -> None:
    with pytest.raises(
        ValueError, match=r"parts: each needs samples and a weight \(got Part.*\); allowed at least 1"
    ):
        Order(1, 5, (), (Part(0, 5), part))
