"""Warnings about pods: one list for all of a namespace, not more often than needed, the newest one counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unit.shell.conftest import Hand, slow_lists
from unit.shell.fakeapi import FakeApi, Fault
from windlass.shell.client import Listing
from windlass.shell.errors import Unreachable
from windlass.shell.warnings import FIELDS, REMEMBERED_SECONDS, WARNING_SECONDS, Warnings, happened_at, slim


def warn(api: FakeApi, uid: str, note: str, *, namespace: str = "team", **more: Any) -> None:
    body = {
        "metadata": {"name": f"{uid}.{len(api.objects)}", "namespace": namespace},
        "type": "Warning",
        "reason": "FailedMount",
        "note": note,
        "regarding": {"kind": "Pod", "uid": uid},
        "eventTime": "2026-11-23T12:00:05Z",
    }
    api.put("events", body | more)


def lists(api: FakeApi) -> int:
    return sum(method == "GET" and path.endswith("/events") for method, path in api.requests)


async def test_many_pods_of_a_namespace_cost_one_list(api: FakeApi, hand: Hand) -> None:
    made = Warnings(api.client(), hand.clock())
    for number in range(20):
        warn(api, f"u{number}", f"note {number}")
    notes = await asyncio.gather(*(made.about("team", f"u{number}") for number in range(25)))
    assert notes == [f"note {number}" for number in range(20)] + [None] * 5
    assert lists(api) == 1


@pytest.mark.parametrize(
    ("seconds", "asked"), [(0.0, 1), (WARNING_SECONDS - 0.1, 1), (WARNING_SECONDS, 2), (600.0, 2)]
)
async def test_a_list_answers_for_a_while(api: FakeApi, hand: Hand, seconds: float, asked: int) -> None:
    made = Warnings(api.client(), hand.clock())
    assert await made.about("team", "u") is None
    warn(api, "u", "late")
    hand.at += seconds
    assert await made.about("team", "u") == ("late" if asked == 2 else None)
    assert lists(api) == asked


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 5.0), (0.25, 5.0), (0.3, 6.0), (1.0, 20.0), (3.0, 60.0), (30.0, 60.0)]
)
async def test_a_server_that_takes_long_is_asked_more_seldom(
    api: FakeApi, hand: Hand, took: float, pause: float
) -> None:
    """Each list reads all events of the namespace: on a busy server that is the load that makes pods slow."""
    client = api.client()
    asked = slow_lists(client, hand, took)
    made = Warnings(client, hand.clock())
    for later in (0.0, pause - 0.01, 0.02):
        hand.at += later
        await made.about("team", "u")
    assert len(asked) == 2 and asked[1] - asked[0] == pytest.approx(took + pause, abs=0.02)


@pytest.mark.parametrize("answers", [True, False])
async def test_those_that_waited_for_a_slow_list_do_not_ask_again(
    api: FakeApi, hand: Hand, answers: bool
) -> None:
    """A loaded server may take longer than an answer is good for: all workers would wait for it in turn."""
    client, asked = api.client(), 0

    async def slow(*_: Any, **__: Any) -> Listing:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        hand.at += 3 * WARNING_SECONDS
        if not answers:
            raise Unreachable("no answer")
        return Listing([], "1")

    client.list = slow  # type: ignore[method-assign]
    made = Warnings(client, hand.clock())
    assert await asyncio.gather(*(made.about("team", f"u{number}") for number in range(8))) == [None] * 8
    assert asked == 1


async def test_namespaces_are_asked_for_one_by_one_and_forgotten(api: FakeApi, hand: Hand) -> None:
    made = Warnings(api.client(), hand.clock())
    warn(api, "u", "theirs", namespace="other")
    assert await made.about("team", "u") is None
    assert await made.about("other", "u") == "theirs"
    hand.at += REMEMBERED_SECONDS + 1
    await made.about("team", "u")
    assert list(made._boards) == ["team"]


async def test_the_newest_warning_counts_and_the_schedulers_never(api: FakeApi, hand: Hand) -> None:
    made = Warnings(api.client(), hand.clock())
    warn(api, "u", "new", eventTime="2026-11-23T12:00:09Z")
    warn(api, "u", "old", eventTime="2026-11-23T12:00:01Z")
    warn(api, "u", "no node", reason="FailedScheduling", eventTime="2026-11-23T12:00:30Z")
    assert await made.about("team", "u") == "new"


async def test_nobody_who_answers_is_no_news_and_is_not_asked_again_at_once(api: FakeApi, hand: Hand) -> None:
    made = Warnings(api.client(attempts=1), hand.clock())
    warn(api, "u", "known")
    assert await made.about("team", "u") == "known"
    hand.at += WARNING_SECONDS
    api.faults.append(Fault("GET", "/events", 403, times=1))
    for _ in range(3):
        assert await made.about("team", "u") == "known", "what was known stays until there is an answer"
    assert lists(api) == 2


def test_the_server_sorts_out_what_it_can() -> None:
    assert FIELDS == "type=Warning,regarding.kind=Pod,reason!=FailedScheduling"


@pytest.mark.parametrize(
    ("event", "kept"),
    [
        ({}, {"uid": "", "reason": None, "note": "", "at": ""}),
        ({"regarding": None, "note": None}, {"uid": "", "reason": None, "note": "", "at": ""}),
        (
            {"regarding": {"uid": "u"}, "reason": "R", "note": "n", "eventTime": "1", "action": "x"},
            {"uid": "u", "reason": "R", "note": "n", "at": "1"},
        ),
    ],
)
def test_what_is_kept_of_an_event(event: dict[str, Any], kept: dict[str, Any]) -> None:
    assert slim(event) == kept


@pytest.mark.parametrize(
    ("event", "at"),
    [
        ({"series": {"lastObservedTime": "3"}, "eventTime": "1", "deprecatedLastTimestamp": "2"}, "3"),
        ({"series": {}, "eventTime": "1", "deprecatedLastTimestamp": "2"}, "2"),
        ({"series": None, "eventTime": "1", "deprecatedLastTimestamp": None}, "1"),
        ({}, ""),
    ],
)
def test_when_an_event_happened_last(event: dict[str, Any], at: str) -> None:
    assert happened_at(event) == at
