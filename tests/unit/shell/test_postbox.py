"""The box of events: no round waits for it, a job's events keep their order, a full box drops and counts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import Reason
from windlass.core.decision import Event
from windlass.shell.postbox import Postbox


def job(uid: str = "u") -> dict[str, Any]:
    return {"kind": "FineTuneJob", "metadata": {"uid": uid, "name": uid, "namespace": "team"}}


def event(message: str = "m") -> Event:
    return Event("Normal", Reason.STARTING, message)


class Book:
    """Notes what was recorded; may be held up."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.written = asyncio.Event()
        self.at_work: dict[str, int] = defaultdict(int)
        self.most_at_work = 0

    async def record(self, job: dict[str, Any], event: Event) -> None:
        uid = job["metadata"]["uid"]
        self.at_work[uid] += 1
        self.most_at_work = max(self.most_at_work, *self.at_work.values())
        await self.open.wait()
        await asyncio.sleep(0)
        self.at_work[uid] -= 1
        self.rows.append((uid, event.message))
        self.written.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.rows) < count:
                self.written.clear()
                await self.written.wait()


async def test_nobody_waits_for_a_recorder_that_hangs() -> None:
    book = Book()
    book.open.clear()
    box = Postbox(book)
    writers = asyncio.create_task(box.run())
    async with asyncio.timeout(5):
        for number in range(50):
            await box.record(job(), event(str(number)))
    book.open.set()
    await book.until(50)
    assert [message for _, message in book.rows] == [str(number) for number in range(50)]
    writers.cancel()


async def test_a_full_box_drops_the_newest_and_counts_them() -> None:
    book = Book()
    box = Postbox(book, writers=1, most=3)
    for number in range(5):
        await box.record(job(), event(str(number)))
    assert (len(box), box.dropped) == (3, 2)
    await box.flush(5)
    assert [message for _, message in book.rows] == ["0", "1", "2"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 5))
def test_events_of_a_job_keep_their_order_and_have_one_writer(runs: list[int], writers: int) -> None:
    async def play() -> Book:
        book = Book()
        box = Postbox(book, writers=writers)
        task = asyncio.create_task(box.run())
        for number, run in enumerate(runs):
            await box.record(job(f"uid-{run}"), event(str(number)))
        await book.until(len(runs))
        task.cancel()
        return book

    book = asyncio.run(play())
    for run in set(runs):
        wanted = [str(number) for number, each in enumerate(runs) if each == run]
        assert [message for uid, message in book.rows if uid == f"uid-{run}"] == wanted
    # The same event twice at a time would begin two series.
    assert book.most_at_work <= 1


async def test_what_is_left_is_written_at_the_end_within_its_time() -> None:
    book = Book()
    box = Postbox(book)
    writers = asyncio.create_task(box.run())
    await asyncio.sleep(0)
    writers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writers
    for uid in ("a", "b", "c"):
        await box.record(job(uid), event())
    await box.flush(5)
    assert sorted(uid for uid, _ in book.rows) == ["a", "b", "c"] and box.dropped == 0


async def test_an_end_does_not_wait_for_an_api_server_that_hangs() -> None:
    book = Book()
    book.open.clear()
    box = Postbox(book, writers=1)
    for _ in range(3):
        await box.record(job(), event())
    async with asyncio.timeout(5):
        await box.flush(0.01)
    assert (book.rows, box.dropped) == ([], 2)


async def test_an_error_of_the_recorder_ends_the_box_and_is_seen() -> None:
    class Broken:
        async def record(self, job: dict[str, Any], event: Event) -> None:
            raise ValueError("broken")

    box = Postbox(Broken())
    await box.record(job(), event())
    with pytest.raises(ExceptionGroup, match="unhandled"):
        async with asyncio.timeout(5):
            await box.run()


# --- while the operator is busy --------------------------------------------------------------------


async def test_events_wait_while_rounds_do_and_go_on_once_it_is_calm() -> None:
    book, calm = Book(), asyncio.Event()

    async def wait() -> None:
        await calm.wait()

    box = Postbox(book, calm=wait, pause_seconds=60)
    writers = asyncio.create_task(box.run())
    for number in range(3):
        await box.record(job(), event(str(number)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert book.rows == [] and len(box) == 3, "what a writer holds counts"
    calm.set()
    await book.until(3)
    assert [message for _, message in book.rows] == ["0", "1", "2"] and len(box) == 0
    writers.cancel()


async def test_an_operator_that_never_rests_still_writes_events() -> None:
    book, pauses = Book(), 0

    async def never() -> None:
        nonlocal pauses
        pauses += 1
        await asyncio.Event().wait()

    box = Postbox(book, calm=never, pause_seconds=0.001)
    writers = asyncio.create_task(box.run())
    for number in range(4):
        await box.record(job(), event(str(number)))
    await book.until(4)
    assert pauses == 4, "one pause for each event"
    writers.cancel()


async def test_an_event_that_a_writer_held_back_is_written_at_the_end_before_later_ones() -> None:
    book = Book()

    async def never() -> None:
        await asyncio.Event().wait()

    box = Postbox(book, calm=never, writers=1, pause_seconds=60)
    writers = asyncio.create_task(box.run())
    for number in range(3):
        await box.record(job(), event(str(number)))
    for _ in range(5):
        await asyncio.sleep(0)
    writers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writers
    await box.flush(5)
    assert [message for _, message in book.rows] == ["0", "1", "2"] and box.dropped == 0
