"""The queue, the recorder and the client under histories: nothing lost, nothing twice, nothing in a hurry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from windlass.api.meta import Reason
from windlass.core.decision import Event
from windlass.shell.client import Client, Request, lines, read_json
from windlass.shell.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unreachable,
    from_status,
)
from windlass.shell.events import BURST, REFILL_SECONDS, SERIES_SECONDS, SERIES_WRITE_SECONDS, Recorder
from windlass.shell.identity import review
from windlass.shell.queue import FIRST_BACK_OFF_SECONDS, JITTER, LONGEST_BACK_OFF_SECONDS, KeyedQueue
from windlass.shell.resources import EVENTS, PODS, TOKEN_REVIEWS

# --- queue -----------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "after", "take", "done", "retry", "forget", "tick"]),
        st.sampled_from("abc"),
        st.floats(0, 40),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_wish_is_met_in_time_and_one_worker_has_a_key(steps: list[tuple[str, str, float]]) -> None:
    hand = Hand()
    queue: KeyedQueue[str] = KeyedQueue(hand.monotonic, jitter=lambda low, high: 1.0)
    due: set[str] = set()
    later: dict[str, float] = {}
    working: list[str] = []

    def wish(key: str, at: float) -> None:
        # A wish for now and one for later are two; of two for later the earlier counts.
        if at <= hand.at:
            due.add(key)
        else:
            later[key] = min(later.get(key, at), at)

    for step, key, seconds in steps:
        match step:
            case "add":
                queue.add(key)
                wish(key, hand.at)
            case "after":
                queue.add_after(key, seconds)
                wish(key, hand.at + seconds)
            case "retry":
                pause = queue.retry(key)
                assert 0 < pause <= LONGEST_BACK_OFF_SECONDS
                wish(key, hand.at + pause)
            case "forget":
                queue.forget(key)
            case "tick":
                hand.at += seconds
            case "done" if working:
                queue.done(working.pop(0))
            case "take":
                taken = queue.take()
                for each in [each for each, at in later.items() if at <= hand.at]:
                    due.add(each)
                    del later[each]
                if taken is None:
                    assert due <= set(working), "nothing is due that nobody works on"
                else:
                    assert taken not in working
                    due.remove(taken)
                    working.append(taken)
    assert queue.oldest_seconds() >= 0 and queue.unfinished_seconds() >= 0


@pytest.mark.parametrize("failures", [0, 1, 2, 6, 7, 40, 5000])
def test_back_off_of_a_key_that_keeps_failing(failures: int) -> None:
    hand = Hand()
    queue: KeyedQueue[str] = KeyedQueue(hand.monotonic)
    for _ in range(failures):
        queue.retry("a")
    plain = min(FIRST_BACK_OFF_SECONDS * 2 ** min(failures, 16), LONGEST_BACK_OFF_SECONDS)
    assert plain * (1 - JITTER) <= queue.retry("a") <= plain * (1 + JITTER)


def test_a_key_that_waits_longer_is_asked_first(hand: Hand) -> None:
    queue: KeyedQueue[str] = KeyedQueue(hand.monotonic)
    for key, seconds in (("late", 9), ("early", 1), ("middle", 5)):
        queue.add_after(key, seconds)
    hand.at += 10
    assert [queue.take(), queue.take(), queue.take()] == ["early", "middle", "late"]


async def test_closing_refuses_everything_later(hand: Hand) -> None:
    queue: KeyedQueue[str] = KeyedQueue(hand.monotonic)
    queue.close()
    queue.add("a")
    queue.add_after("b", 1)
    queue.retry("c")
    hand.at += 100
    assert (len(queue), queue.take()) == (0, None)


# --- events ----------------------------------------------------------------------------------------


def a_job(uid: str = "run-1") -> dict[str, Any]:
    return {
        "kind": "FineTuneJob",
        "metadata": {"name": "ft", "namespace": "team", "uid": uid, "resourceVersion": "7"},
    }


def stored(api: FakeApi) -> list[dict[str, Any]]:
    return [body for (plural, _, _), body in api.objects.items() if plural == "events"]


@pytest.mark.parametrize(
    ("pauses", "events", "count"),
    [
        ([], 1, None),
        ([1], 1, 2),
        ([1, 1, 1], 1, 2),
        ([1, SERIES_WRITE_SECONDS], 1, 3),
        ([1, 1, 1, SERIES_WRITE_SECONDS], 1, 5),
        ([SERIES_SECONDS - 1] * 3, 1, 4),
        ([SERIES_SECONDS + 1], 2, None),
    ],
    ids=str,
)
async def test_repetitions_become_a_series(
    api: FakeApi, hand: Hand, pauses: list[float], events: int, count: int | None
) -> None:
    made = Recorder(api.client(attempts=1), instance="op", clock=hand.clock())
    event = Event("Warning", Reason.QUOTA_EXCEEDED, "full")
    await made.record(a_job(), event)
    for pause in pauses:
        hand.at += pause
        await made.record(a_job(), event)
    found = stored(api)
    assert len(found) == events
    assert found[0].get("series", {}).get("count") == count


async def test_budget_is_by_job_and_fills_again(api: FakeApi, hand: Hand) -> None:
    made = Recorder(api.client(attempts=1), instance="op", clock=hand.clock())

    async def tell(uid: str, number: int) -> None:
        await made.record(a_job(uid), Event("Normal", Reason.TRAINING, f"message {number}"))

    for number in range(int(BURST) + 5):
        await tell("run-1", number)
    assert (len(stored(api)), made.dropped) == (BURST, 5)
    await tell("run-2", 0)
    assert len(stored(api)) == BURST + 1
    hand.at += 3 * REFILL_SECONDS
    for number in range(100, 105):
        await tell("run-1", number)
    assert len(stored(api)) == BURST + 4


async def test_repetitions_of_a_known_event_cost_no_budget(api: FakeApi, hand: Hand) -> None:
    made = Recorder(api.client(attempts=1), instance="op", clock=hand.clock())
    for _ in range(200):
        hand.at += 1
        await made.record(a_job(), Event("Normal", Reason.TRAINING, "m"))
    assert len(stored(api)) == 1 and made.dropped == 0
    assert len(api.writes()) < 12, "a series is written now and then"


async def test_a_series_whose_event_is_gone_does_not_fail_a_round(api: FakeApi, hand: Hand) -> None:
    made = Recorder(api.client(attempts=1), instance="op", clock=hand.clock())
    event = Event("Normal", Reason.TRAINING, "m")
    await made.record(a_job(), event)
    for key in [key for key in api.objects if key[0] == "events"]:
        del api.objects[key]
    await made.record(a_job(), event)
    hand.at += SERIES_SECONDS + 1
    await made.record(a_job(), event)
    assert len(stored(api)) == 1


# --- errors and answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (500, ApiError),
        (418, ApiError),
    ],
)
def test_errors_are_told_apart_by_status(status: int, kind: type[ApiError]) -> None:
    error = from_status(status, {"reason": "R", "message": "m"}, None)
    assert type(error) is kind
    assert str(error) == f"{status} R: m"


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        (None, None, None),
        ("7", None, 7.0),
        (" 7 ", None, 7.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None, None),
        ("-1", None, None),
        (None, {"retryAfterSeconds": 3}, 3.0),
        ("7", {"retryAfterSeconds": 3}, 7.0),
        (None, {}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(header: str | None, details: Any, seconds: float | None) -> None:
    assert from_status(429, {"details": details}, header).retry_after_seconds == seconds


class Stream:
    """Chunks of any size."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks

    async def iter_any(self) -> Any:
        for chunk in self.chunks:
            yield chunk


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab é", max_size=20), max_size=8), st.lists(st.integers(1, 9), max_size=30))
async def test_lines_are_the_same_however_they_are_cut(texts: list[str], cuts: list[int]) -> None:
    whole = "".join(f"{text}\n" for text in texts).encode()
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(whole[at : at + cut])
        at += cut
    chunks.append(whole[at:])
    found = [line async for line in lines(Stream(chunks))]  # type: ignore[arg-type]
    assert found == [text.encode() for text in texts if text.strip()]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {"message": ""}),
        ("<html>502</html>", {"message": "<html>502</html>"}),
        ("[1]", {"message": "[1]"}),
        ("x" * 900, {"message": "x" * 500}),
        (
            '{"a": "\u00e4\\u00e4", "b": 12345678901234567890, "c": 1e-3}',
            {"a": "ää", "b": 12345678901234567890, "c": 0.001},
        ),
    ],
    ids=["json", "empty", "a proxy", "a list", "long", "letters and numbers"],
)
async def test_answers_of_proxies_become_messages(text: str, answer: dict[str, Any]) -> None:
    class Response:
        async def read(self) -> bytes:
            return text.encode()

    assert await read_json(Response()) == answer  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "write"), [("GET", False), ("POST", True), ("PUT", True), ("DELETE", True), ("PATCH", True)]
)
def test_which_requests_write(method: str, write: bool) -> None:
    assert Request(method, "/x").is_write is write


async def test_reviews_and_reads_are_no_writes(api: FakeApi, client: Client) -> None:
    await client.list(PODS)
    await client.ask(TOKEN_REVIEWS, review("t"))
    assert client.writes == 0
    await client.create(EVENTS, {"metadata": {"name": "e", "namespace": "team"}})
    assert client.writes == 1


async def test_a_retried_write_counts_each_time_it_is_sent(api: FakeApi, client: Client) -> None:
    api.faults.append(Fault("POST", "events", 503, times=2))
    await client.create(EVENTS, {"metadata": {"name": "e", "namespace": "team"}})
    assert client.writes == 3 and len(api.writes()) == 3


async def test_durations_are_told_with_method_and_code(api: FakeApi) -> None:
    seen: list[tuple[str, str]] = []

    class Watch:
        def request(self, method: str, code: str, seconds: float) -> None:
            assert seconds >= 0
            seen.append((method, code))

    async with api.client(observer=Watch(), attempts=1) as client:
        with pytest.raises(NotFound):
            await client.get(PODS, "none", namespace="team")
        api.faults.append(Fault("GET", "pods", drop=True, times=9))
        with pytest.raises(Unreachable):
            await client.get(PODS, "none", namespace="team")
    assert seen == [("GET", "404"), ("GET", "error")]
