"""Requests of one round at the same time: order of results, errors, batches that double."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.shell.errors import ApiError
from windlass.shell.together import LARGEST_BATCH, batches, together


async def test_results_come_in_the_items_order_whoever_is_first() -> None:
    gates = {name: asyncio.Event() for name in "abc"}
    ended: list[str] = []
    ends = {name: asyncio.Event() for name in "abc"}

    async def work(name: str) -> str:
        await gates[name].wait()
        ended.append(name)
        ends[name].set()
        return name.upper()

    task = asyncio.create_task(together(work, "abc"))
    for name in "cab":
        gates[name].set()
        await ends[name].wait()
    assert await task == ["A", "B", "C"]
    assert ended == ["c", "a", "b"]


async def test_all_are_under_way_before_the_first_ends() -> None:
    begun: list[int] = []
    everybody = asyncio.Event()

    async def work(number: int) -> None:
        begun.append(number)
        if len(begun) == 5:
            everybody.set()
        await everybody.wait()

    async with asyncio.timeout(5):
        await together(work, range(5))
    assert begun == [0, 1, 2, 3, 4]


async def test_the_first_error_is_raised_as_it_is_and_ends_the_others() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        if number == 1:
            raise ApiError(500, "InternalError", "no")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(ApiError, match="InternalError"):
        await together(work, range(3))
    assert sorted(cancelled) == [0, 2]


class Ended(BaseException):
    """A process that ends in the middle."""


async def test_what_is_no_ordinary_error_comes_out_too() -> None:
    async def work(_: int) -> None:
        raise Ended

    with pytest.raises(Ended):
        await together(work, [1])


async def test_whoever_is_cancelled_takes_its_requests_along() -> None:
    state: list[str] = []
    both = asyncio.Event()

    async def work(_: int) -> None:
        state.append("began")
        if len(state) == 2:
            both.set()
        try:
            await asyncio.Event().wait()
        finally:
            state.append("ended")

    task = asyncio.create_task(together(work, [1, 2]))
    await both.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state == ["began", "began", "ended", "ended"]


async def test_nothing_to_do_is_done() -> None:
    async def work(_: int) -> None:
        raise AssertionError

    assert await together(work, []) == []


@pytest.mark.parametrize(
    ("count", "first", "sizes"),
    [
        (0, 1, []),
        (1, 1, [1]),
        (8, 1, [1, 2, 4, 1]),
        (40, 1, [1, 2, 4, 8, 16, 9]),
        (20, LARGEST_BATCH, [16, 4]),
    ],
)
def test_batches_double_up_to_the_largest(count: int, first: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batches(range(count), first=first)] == sizes


@given(st.lists(st.integers(), max_size=300), st.integers(1, 20), st.integers(1, 20))
def test_batches_hold_each_item_once_and_in_order(items: list[int], first: int, largest: int) -> None:
    made = list(batches(items, first=first, largest=largest))
    assert [item for batch in made for item in batch] == items
    assert all(made), "no batch is empty"
    for before, after in pairwise(made[:-1]):
        assert len(after) == min(2 * len(before), largest)
