"""The order of samples at its edges: resumes, resizes, skipped windows over passes, and dealing."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.data.order import Order, deal, permute, round_keys, total_steps
from windlass_workloads.data.pack import pack

SEEDS = st.integers(0, 2**63)
ROOT = Path(__file__).resolve().parents[3]


def taken(order: Order, steps: range, batch: int) -> list[int]:
    return [sample for step in steps for sample in order.batch(step, batch)]


# --- one pass after the other ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1000])
def test_a_permutation_at_the_edges_of_powers_of_four(size: int) -> None:
    for data_pass in (0, 1, 7):
        keys = round_keys(17, data_pass)
        assert sorted(permute(index, size, keys) for index in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [10**6, 10**9, 10**12])
def test_a_permutation_of_many_needs_no_list_and_meets_no_sample_twice(size: int) -> None:
    keys = round_keys(3, 0)
    places = list(range(0, size, size // 500))
    images = [permute(place, size, keys) for place in places]
    assert len(set(images)) == len(images)
    assert all(0 <= image < size for image in images)
    assert abs(sum(images) / len(images) / size - 0.5) < 0.1, "spread over the whole range"


def test_neighbours_do_not_stay_neighbours() -> None:
    order = Order(17, 1000)
    near = sum(abs(order.sample(place) - order.sample(place + 1)) <= 3 for place in range(999))
    assert near < 30


def test_every_place_gets_every_sample_about_as_often() -> None:
    size, passes = 8, 800
    counts = Counter(
        (place, permute(place, size, round_keys(seed, 0))) for seed in range(passes) for place in range(size)
    )
    expected = passes / size
    assert all(
        0.5 * expected < counts[place, image] < 1.5 * expected
        for place in range(size)
        for image in range(size)
    )


@given(seed=SEEDS, size=st.integers(1, 80), batch=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_batches_may_reach_over_several_passes(seed: int, size: int, batch: int) -> None:
    order = Order(seed, size)
    samples = taken(order, range(1, 6), batch)
    whole, rest = divmod(5 * batch, size)
    for number in range(whole):
        assert sorted(samples[number * size : (number + 1) * size]) == list(range(size))
    assert len(set(samples[whole * size :])) == rest


def test_the_order_is_the_same_in_another_process() -> None:
    code = (
        "from windlass_workloads.data.order import Order;"
        "print([Order(2**62 + 5, 1000, ((3, 9),)).sample(n) for n in (0, 1, 2, 3, 999, 1000, 12345)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'workloads'}", "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    order = Order(2**62 + 5, 1000, ((3, 9),))
    assert done.stdout.strip() == str([order.sample(n) for n in (0, 1, 2, 3, 999, 1000, 12345)])


GOLDEN = [
    # seed, size, skipped, first samples
    (0, 1, (), [0, 0, 0, 0]),
    (0, 5, (), [4, 0, 3, 1, 2]),
    (17, 10, (), [9, 6, 1, 8, 4, 7, 2, 5, 0, 3]),
]


@pytest.mark.parametrize(("seed", "size", "skipped", "wanted"), GOLDEN[2:] + GOLDEN[:1])
def test_what_a_resumed_run_relies_on_never_changes(
    seed: int, size: int, skipped: tuple[tuple[int, int], ...], wanted: list[int]
) -> None:
    assert [Order(seed, size, skipped).sample(count) for count in range(len(wanted))] == wanted


# --- resumes and skipped windows --------------------------------------------------------------------------------


@given(seed=SEEDS, size=st.integers(1, 60), batch=st.integers(1, 12), stop=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_run_that_stops_at_any_step_takes_the_same_samples(
    seed: int, size: int, batch: int, stop: int
) -> None:
    whole = taken(Order(seed, size), range(1, 21), batch)
    before = taken(Order(seed, size), range(1, stop + 1), batch)
    after = taken(Order(seed, size), range(stop + 1, 21), batch)
    assert before + after == whole


WINDOWS = st.lists(st.tuples(st.integers(0, 150), st.integers(1, 12)), max_size=5)


def disjoint(gaps: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    windows, end = [], 0
    for first, length in sorted(gaps):
        first = max(first, end)
        windows.append((first, first + length))
        end = first + length
    return tuple(windows)


@given(seed=SEEDS, size=st.integers(1, 60), gaps=WINDOWS)
@settings(max_examples=60, deadline=None)
def test_what_is_skipped_is_taken_by_nobody_and_the_rest_keeps_its_order(
    seed: int, size: int, gaps: list[tuple[int, int]]
) -> None:
    windows = disjoint(gaps)
    plain, skipping = Order(seed, size), Order(seed, size, windows)
    lost = {position for first, last in windows for position in range(first, last)}
    wanted = [plain.sample(position) for position in range(260) if position not in lost][:150]
    assert [skipping.sample(count) for count in range(150)] == wanted


@given(gaps=WINDOWS, count=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_positions_only_grow_and_never_lie_in_a_window(gaps: list[tuple[int, int]], count: int) -> None:
    windows = disjoint(gaps)
    order = Order(1, 10, windows)
    position = order.position(count)
    assert position >= count
    assert order.position(count + 1) > position
    assert not any(first <= position < last for first, last in windows)


def test_windows_may_be_given_in_any_order_and_may_touch() -> None:
    one, other = Order(1, 50, ((5, 8), (8, 10), (20, 22))), Order(1, 50, ((20, 22), (8, 10), (5, 8)))
    assert [one.position(count) for count in range(30)] == [other.position(count) for count in range(30)]
    assert one.position(5) == 10


@given(seed=SEEDS, size=st.integers(2, 40), first=st.integers(0, 100), length=st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_skipping_what_comes_later_changes_nothing_before(
    seed: int, size: int, first: int, length: int
) -> None:
    plain, skipping = Order(seed, size), Order(seed, size, ((first, first + length),))
    assert [plain.sample(count) for count in range(first)] == [
        skipping.sample(count) for count in range(first)
    ]


# --- steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "batch", "epochs", "max_steps", "steps"),
    [
        (1, 1, None, None, 1),
        (1, 8, None, None, 1),
        (8, 8, None, None, 1),
        (9, 8, None, None, 2),
        (8, 8, 3, None, 3),
        (9, 8, 3, None, 4),
        (10**9, 7, 2, None, -(-2 * 10**9 // 7)),
        (100, 1, 5, 3, 3),
        (1, 1, None, 1000, 1000),
    ],
)
def test_the_last_step_may_reach_into_another_pass(
    size: int, batch: int, epochs: int | None, max_steps: int | None, steps: int
) -> None:
    assert total_steps(size, global_batch_size=batch, epochs=epochs, max_steps=max_steps) == steps


@given(size=st.integers(1, 500), batch=st.integers(1, 64), epochs=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_epochs_are_done_and_not_more_than_a_batch_beyond(size: int, batch: int, epochs: int) -> None:
    steps = total_steps(size, global_batch_size=batch, epochs=epochs, max_steps=None)
    assert size * epochs <= steps * batch < size * epochs + batch


# --- dealing -------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=40)


@given(lengths=LENGTHS, micro=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_who_gets_what_depends_on_the_world_but_what_is_dealt_does_not(
    lengths: list[int], micro: int
) -> None:
    samples = list(range(len(lengths)))
    for world in (1, 2, 3, 5, 8):
        hands = deal(samples, lengths, micro=micro, world=world)
        assert len(hands) == world
        assert sorted(sample for hand in hands for group in hand for sample in group) == samples
        rounds = {len(hand) for hand in hands}
        assert len(rounds) == 1, "as many collectives on every rank"
        groups = math.ceil(len(samples) / micro)
        assert rounds.pop() == math.ceil(groups / world)


@given(lengths=LENGTHS, micro=st.integers(1, 8), world=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_groups_do_not_depend_on_the_world(lengths: list[int], micro: int, world: int) -> None:
    samples = list(range(len(lengths)))
    alone = deal(samples, lengths, micro=micro, world=1)[0]
    hands = deal(samples, lengths, micro=micro, world=world)
    rounds = [hands[rank][turn] for turn in range(len(hands[0])) for rank in range(world)]
    assert [group for group in rounds if group] == alone


@given(lengths=LENGTHS, micro=st.integers(1, 8), world=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_ranks_work_on_like_lengths_at_the_same_time(lengths: list[int], micro: int, world: int) -> None:
    hands = deal(list(range(len(lengths))), lengths, micro=micro, world=world)
    longest = [
        [max(lengths[sample] for sample in hand[turn]) for hand in hands if hand[turn]]
        for turn in range(len(hands[0]))
    ]
    for earlier, later in itertools.pairwise(longest):
        assert not later or min(earlier) >= max(later)


def test_empty_hands_are_at_the_tail_only() -> None:
    hands = deal([7, 8, 9], [3, 2, 1], micro=1, world=4)
    assert hands == [[[7]], [[8]], [[9]], [[]]]
    hands = deal([7, 8, 9, 10, 11], [5, 4, 3, 2, 1], micro=1, world=2)
    assert hands == [[[7], [9], [11]], [[8], [10], []]]


# --- packing -------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=150), capacity=st.integers(100, 200))
@settings(max_examples=60, deadline=None)
def test_no_two_packs_would_fit_into_one(lengths: list[int], capacity: int) -> None:
    packs = pack(lengths, capacity)
    assert -(-sum(lengths) // capacity) <= len(packs)
    smallest, *others = sorted(sum(lengths[index] for index in packed) for packed in packs)
    assert all(smallest + other > capacity for other in others[:1]), (
        "else the wider one had been filled first"
    )


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_packing_again_gives_the_same(lengths: list[int]) -> None:
    assert pack(lengths, 50) == pack(tuple(lengths), 50)


@pytest.mark.parametrize(
    ("lengths", "capacity", "wanted"),
    [
        ([], 10, []),
        ([10], 10, [[0]]),
        ([10, 10], 10, [[0], [1]]),
        ([5, 5], 10, [[0, 1]]),
        ([1] * 10, 10, [list(range(10))]),
        ([6, 5, 4, 5], 10, [[0, 2], [1, 3]]),
        ([7, 3], 10, [[0, 1]]),
    ],
)
def test_small_packs_are_as_expected(lengths: list[int], capacity: int, wanted: list[list[int]]) -> None:
    assert pack(lengths, capacity) == wanted


def test_packing_many_is_quick() -> None:
    lengths = [1 + (number * 7919) % 512 for number in range(50_000)]
    packs = pack(lengths, 512)
    assert sum(len(group) for group in packs) == 50_000
