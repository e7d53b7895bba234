"""The keyed queue, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand, until
from windlass.shell.queue import BUSY_KEYS, FAIR_SHARE, LONGEST_BACK_OFF_SECONDS, Closed, KeyedQueue


def make(hand: Hand) -> KeyedQueue[str]:
    return KeyedQueue(hand.monotonic, jitter=lambda low, high: 1.0)


def test_a_key_is_queued_once(hand: Hand) -> None:
    queue = make(hand)
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [queue.take(), queue.take(), queue.take()] == ["a", "b", None]


def test_a_key_has_one_worker_and_comes_again_if_added_meanwhile(hand: Hand) -> None:
    queue = make(hand)
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"
    queue.done("a")
    assert queue.take() is None


def test_delayed_keys_come_when_due_and_the_earliest_wish_counts(hand: Hand) -> None:
    queue = make(hand)
    queue.add_after("a", 30)
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    hand.at += 9
    assert (queue.take(), queue.seconds_until_next()) == (None, 1)
    hand.at += 1
    assert queue.take() == "a"
    queue.done("a")
    hand.at += 100
    assert queue.take() is None


def test_no_delay_is_now(hand: Hand) -> None:
    queue = make(hand)
    queue.add_after("a", 0)
    assert queue.take() == "a"


def test_back_off_doubles_up_to_a_limit_and_is_forgotten(hand: Hand) -> None:
    queue = make(hand)
    pauses = [queue.retry("a") for _ in range(2000)]
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_BACK_OFF_SECONDS
    assert queue.retry("b") == 0.5
    queue.forget("a")
    assert queue.retry("a") == 0.5


def test_back_off_has_jitter(hand: Hand) -> None:
    queue: KeyedQueue[str] = KeyedQueue(hand.monotonic)
    pauses = {queue.retry(f"key-{number}") for number in range(50)}
    assert len(pauses) > 40
    assert all(0.4 <= pause <= 0.6 for pause in pauses)


def test_the_oldest_key_counts_while_it_is_worked_on(hand: Hand) -> None:
    queue = make(hand)
    assert queue.oldest_seconds() == 0
    queue.add("a")
    hand.at += 5
    assert queue.oldest_seconds() == 5
    queue.take()
    hand.at += 7
    assert (queue.oldest_seconds(), queue.unfinished_seconds()) == (7, 7)
    queue.done("a")
    assert queue.oldest_seconds() == 0


class Numbers:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def added(self) -> None:
        self.seen.append(("added", 0))

    def taken(self, waited_seconds: float) -> None:
        self.seen.append(("taken", waited_seconds))

    def finished(self, worked_seconds: float) -> None:
        self.seen.append(("finished", worked_seconds))

    def retried(self) -> None:
        self.seen.append(("retried", 0))


def test_numbers_are_told(hand: Hand) -> None:
    numbers = Numbers()
    queue: KeyedQueue[str] = KeyedQueue(hand.monotonic, observer=numbers, jitter=lambda low, high: 1.0)
    queue.add("a")
    hand.at += 2
    queue.take()
    hand.at += 3
    queue.retry("a")
    queue.done("a")
    assert numbers.seen == [("added", 0), ("taken", 2), ("retried", 0), ("finished", 3)]


async def test_get_waits_for_a_key_and_wakes_at_close(hand: Hand) -> None:
    queue = make(hand)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await waiting == "a"
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    results = await asyncio.gather(*workers, return_exceptions=True)
    assert all(isinstance(result, Closed) for result in results)
    queue.add("b")
    assert len(queue) == 0


async def test_get_wakes_for_an_earlier_wish(hand: Hand) -> None:
    queue = make(hand)
    queue.add_after("late", 3600)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add_after("early", 1800)
    hand.at += 1800
    queue.add("now")
    assert await waiting in ("early", "now")


async def test_a_key_wakes_one_worker_and_the_one_that_waited_longest(hand: Hand) -> None:
    queue = make(hand)
    woken: list[int] = []

    async def worker(number: int) -> str:
        key = await queue.get()
        woken.append(number)
        return key

    workers = []
    for number in range(4):
        workers.append(asyncio.create_task(worker(number)))
        await asyncio.sleep(0)
    takes = queue._takes
    queue.add("a")
    queue.add("b")
    assert [await workers[0], await workers[1]] == ["a", "b"]
    assert woken == [0, 1] and queue._takes == takes + 2, "nobody else has looked"
    queue.close()
    for one in workers[2:]:
        with pytest.raises(Closed):
            await one


async def test_a_worker_that_is_cancelled_as_it_wakes_passes_its_turn_on(hand: Hand) -> None:
    queue = make(hand)
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == "a"
    assert first.cancelled()


async def test_a_worker_that_is_cancelled_leaves_no_trace(hand: Hand) -> None:
    queue = make(hand)
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    queue.add("a")
    async with asyncio.timeout(5):
        assert await second == "a"
    assert not queue._waiting


async def test_a_delayed_key_wakes_a_worker_when_it_is_due() -> None:
    queue: KeyedQueue[str] = KeyedQueue(time.monotonic)
    began = time.monotonic()
    queue.add_after("much later", 3600)
    waiting = [asyncio.create_task(queue.get()) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add_after("b", 0.06)
    queue.add_after("a", 0.03)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == ["a", "b"]
    assert time.monotonic() - began >= 0.06
    assert queue.seconds_until_next() is not None
    queue.close()
    assert queue._alarm is None or queue._alarm[1].cancelled()


async def test_keys_that_are_due_together_are_worked_on_together() -> None:
    queue: KeyedQueue[int] = KeyedQueue(time.monotonic)
    workers = [asyncio.create_task(queue.get()) for _ in range(5)]
    await asyncio.sleep(0)
    for number in range(5):
        queue.add_after(number, 0.02)
    async with asyncio.timeout(5):
        assert sorted(await asyncio.gather(*workers)) == list(range(5))


async def test_many_workers_and_random_keys_lose_none() -> None:
    queue: KeyedQueue[int] = KeyedQueue(time.monotonic)
    chance, done, asked = random.Random(7), Counter[int](), Counter[int]()
    at_once: set[int] = set()

    async def worker() -> None:
        with suppress(Closed):
            while True:
                key = await queue.get()
                assert key not in at_once
                at_once.add(key)
                await asyncio.sleep(chance.choice((0, 0, 0.001)))
                at_once.remove(key)
                done[key] += 1
                queue.done(key)

    workers = [asyncio.create_task(worker()) for _ in range(8)]
    for number in range(300):
        asked[number] += 1
        if chance.random() < 0.5:
            queue.add(number, urgent=chance.random() < 0.5)
        else:
            queue.add_after(number, chance.random() / 20)
        again = chance.randrange(number + 1)
        asked[again] += 1
        queue.add(again)
        await asyncio.sleep(0)
    await until(lambda: len(done) == 300)
    queue.close()
    await asyncio.gather(*workers)
    assert all(1 <= done[number] <= asked[number] for number in range(300))


async def test_a_delayed_key_of_a_busy_time_is_taken_by_whoever_is_free_then() -> None:
    """Nobody waits while it is added, so that nothing is set to ring for it yet."""
    queue: KeyedQueue[str] = KeyedQueue(time.monotonic)
    queue.add("a")
    assert await queue.get() == "a"
    queue.add_after("b", 0.02)
    queue.done("a")
    async with asyncio.timeout(5):
        assert await queue.get() == "b"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "take", "done", "later", "tick"]), st.sampled_from("abc"))))
def test_no_added_key_is_lost_and_none_has_two_workers(steps: list[tuple[str, str]]) -> None:
    hand = Hand()
    queue = make(hand)
    working: list[str] = []
    wanted: Counter[str] = Counter()
    for step, key in steps:
        if step == "add":
            queue.add(key)
            wanted[key] += 1
        elif step == "later":
            queue.add_after(key, 5)
            wanted[key] += 1
        elif step == "tick":
            hand.at += 5
        elif step == "done" and working:
            queue.done(working.pop(0))
        elif step == "take":
            taken = queue.take()
            if taken is not None:
                assert taken not in working
                working.append(taken)
                wanted[taken] = 0
    hand.at += 10
    for key in working:
        queue.done(key)
    left = set()
    while (key := queue.take()) is not None:
        left.add(key)
        queue.done(key)
    assert {key for key, count in wanted.items() if count} <= left


# --- what cannot wait ------------------------------------------------------------------------------


def take_all(queue: KeyedQueue[str]) -> list[str]:
    found = []
    while (key := queue.take()) is not None:
        queue.done(key)
        found.append(key)
    return found


def test_urgent_keys_are_taken_first_in_their_order(hand: Hand) -> None:
    queue = make(hand)
    for key in ("a", "b"):
        queue.add(key)
    for key in ("x", "y"):
        queue.add(key, urgent=True)
    assert take_all(queue) == ["x", "y", "a", "b"]


def test_a_key_that_is_due_can_become_urgent_and_is_taken_once(hand: Hand) -> None:
    queue = make(hand)
    for key in ("a", "b", "c"):
        queue.add(key)
    for _ in range(3):
        queue.add("c", urgent=True)
    queue.add("c")
    assert len(queue) == 3
    assert take_all(queue) == ["c", "a", "b"]


def test_a_key_stays_urgent_while_it_is_worked_on(hand: Hand) -> None:
    queue = make(hand)
    queue.add("a")
    assert queue.take() == "a"
    queue.add("b")
    queue.add("a", urgent=True)
    queue.add("a")
    queue.done("a")
    assert take_all(queue) == ["a", "b"]


def test_urgent_keys_never_keep_others_back_for_good(hand: Hand) -> None:
    queue = make(hand)
    queue.add("patient")
    for number in range(FAIR_SHARE):
        queue.add(f"urgent-{number}", urgent=True)
        key = queue.take()
        assert key is not None
        queue.done(key)
        if key == "patient":
            break
    else:
        raise AssertionError("the other key was never taken")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_each_due_key_is_taken_exactly_once_whoever_hurries_it(adds: list[tuple[int, bool]]) -> None:
    queue = make(Hand())
    for number, urgent in adds:
        queue.add(str(number), urgent=urgent)
    assert sorted(take_all(queue)) == sorted({str(number) for number, _ in adds})
    assert len(queue) == 0


def test_due_and_taken_keys_make_it_busy(hand: Hand) -> None:
    queue = make(hand)
    for number in range(BUSY_KEYS):
        assert not queue.is_busy
        queue.add(str(number))
    assert queue.is_busy
    key = queue.take()
    assert key is not None and queue.is_busy, "what is worked on counts"
    queue.done(key)
    assert not queue.is_busy


async def test_whoever_waits_for_calm_goes_on_once_it_is_calm_or_closed(hand: Hand) -> None:
    queue = make(hand)
    await queue.calm()
    for number in range(BUSY_KEYS):
        queue.add(str(number))
    waiting = asyncio.create_task(queue.calm())
    await asyncio.sleep(0)
    assert not waiting.done()
    take_all(queue)
    async with asyncio.timeout(5):
        await waiting
    for number in range(BUSY_KEYS):
        queue.add(str(number))
    queue.close()
    async with asyncio.timeout(5):
        await queue.calm()
