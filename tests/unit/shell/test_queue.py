"""The keyed queue, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from windlass.shell.queue import LONGEST_BACK_OFF_SECONDS, Closed, KeyedQueue


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
