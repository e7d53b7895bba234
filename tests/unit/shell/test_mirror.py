"""Caches against the truth: whatever order of lists, events and own writes, they end as the server is."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from windlass.shell.cache import Cache, name_of, slim_metadata, version_of
from windlass.shell.errors import ApiError, Gone, Silent, Unreachable
from windlass.shell.reflector import LONGEST_PAUSE_SECONDS, Reflector, Selection
from windlass.shell.resources import PODS

NAMES = ("a", "b", "c")


def body(name: str, version: int, *, namespace: str = "team", uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}}


class Truth:
    """A server's own state and its whole history."""

    def __init__(self) -> None:
        self.version = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[str, dict[str, Any]]] = []

    def put(self, name: str) -> dict[str, Any]:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = body(name, self.version)
        self.history.append((kind, self.objects[name]))
        return self.objects[name]

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            gone = body(name, self.version)
            del self.objects[name]
            self.history.append(("DELETED", gone))

    def listing(self) -> tuple[list[dict[str, Any]], int]:
        return list(self.objects.values()), self.version


CHANGES = st.lists(st.tuples(st.sampled_from(["put", "put", "delete"]), st.sampled_from(NAMES)), max_size=14)


def happen(truth: Truth, changes: list[tuple[str, str]]) -> None:
    for kind, name in changes:
        truth.put(name) if kind == "put" else truth.delete(name)


def state(cache: Cache) -> dict[str, str]:
    return {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in cache}


@pytest.mark.fault("F6")
@pytest.mark.fault("F17")
@settings(max_examples=150, deadline=None)
@given(CHANGES, CHANGES, st.data())
def test_list_events_and_own_answers_in_any_order_end_as_the_truth(
    before: list[tuple[str, str]], after: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Events may come twice and late, lists may be of any age so long as the newest comes too."""
    truth, cache = Truth(), Cache()
    happen(truth, before)
    early = truth.listing()
    happen(truth, after)
    news: list[Any] = [("list", early), *(("event", each) for each in truth.history)]
    news += [("event", each) for each in truth.history if data.draw(st.booleans())]
    for kind, each in data.draw(st.permutations(news)):
        if kind == "list":
            cache.replace(copy.deepcopy(each[0]), version=each[1])
        elif each[0] == "DELETED":
            cache.drop(each[1])
        else:
            cache.upsert(each[1])
    items, version = truth.listing()
    cache.replace(items, version=version)
    assert state(cache) == {name: one["metadata"]["resourceVersion"] for name, one in truth.objects.items()}
    assert cache.newest == truth.version


@settings(max_examples=100, deadline=None)
@given(CHANGES, st.data())
def test_own_write_is_never_undone_by_what_is_older(
    changes: list[tuple[str, str]], data: st.DataObject
) -> None:
    truth, cache = Truth(), Cache()
    happen(truth, changes)
    late = list(truth.history)
    old_list = copy.deepcopy(truth.listing())
    mine = truth.put("a")
    cache.upsert(mine)
    for kind, each in data.draw(st.permutations(late)):
        cache.drop(each) if kind == "DELETED" else cache.upsert(each)
        assert cache.get("team", "a") == mine
    cache.replace(old_list[0], version=old_list[1])
    assert cache.get("team", "a") == mine


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_whoever_listens_hears_of_each_change_once(changes: list[tuple[str, str]]) -> None:
    truth, cache, heard = Truth(), Cache(), []
    cache.changed = lambda one: heard.append(one["metadata"]["name"])
    happen(truth, changes)
    for kind, each in truth.history:
        for _ in range(2):
            cache.drop(each) if kind == "DELETED" else cache.upsert(each)
    assert heard == [each["metadata"]["name"] for _, each in truth.history]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["x", "y", None])), max_size=14))
def test_index_is_what_a_search_would_find(puts: list[tuple[str, str | None]]) -> None:
    cache = Cache(index=lambda one: one["metadata"].get("owner"))
    for version, (name, owner) in enumerate(puts, 1):
        one = body(name, version)
        if owner is not None:
            one["metadata"]["owner"] = owner
        cache.upsert(one)
    for owner in ("x", "y"):
        found = [each for each in sorted(cache, key=name_of) if each["metadata"].get("owner") == owner]
        assert cache.find(owner) == found
    assert cache.find("z") == []


@pytest.mark.parametrize(("text", "number"), [("7", 7), ("", 0), (None, 0), ("x7", 0), ("-7", 0), ("0", 0)])
def test_versions_are_numbers_or_nothing(text: str | None, number: int) -> None:
    assert version_of({"metadata": {"resourceVersion": text}}) == number
    assert version_of({}) == 0


def test_removals_are_remembered_for_a_while_only() -> None:
    cache = Cache()
    for number in range(5000):
        cache.drop(body(f"n{number}", number + 1))
    assert len(cache._dropped) == 4096
    assert not cache.upsert(body("n4999", 10)), "a late event of a fresh removal"


def test_list_of_one_namespace_leaves_the_others_alone() -> None:
    cache = Cache()
    for namespace in ("one", "two"):
        cache.upsert(body("a", 5, namespace=namespace))
    cache.replace([], version=9, namespace="one")
    assert [name_of(each) for each in cache] == [("two", "a")]


def test_only_our_own_annotations_are_kept() -> None:
    one = body("a", 1)
    one["metadata"] |= {"annotations": {"windlass.dev/digest": "d", "kubectl.kubernetes.io/last": "x" * 9999}}
    assert slim_metadata(one)["annotations"] == {"windlass.dev/digest": "d"}
    one["metadata"]["annotations"] = {"other": "x"}
    assert "annotations" not in slim_metadata(one)


# --- the reflector's own loop -----------------------------------------------------------------------


class Script:
    """A client that plays a script: one entry per list or watch."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.asked: list[tuple[str, str]] = []

    def next(self) -> Any:
        if not self.steps:
            raise asyncio.CancelledError
        return self.steps.pop(0)

    async def list(self, *_: Any, **options: Any) -> Any:
        self.asked.append(("list", options.get("labels", "")))
        step = self.next()
        if isinstance(step, BaseException):
            raise step
        items, version = step
        return SimpleNamespace(items=items, resource_version=version)

    async def watch(self, *_: Any, **options: Any) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(("watch", options["since"]))
        step = self.next()
        if isinstance(step, BaseException):
            raise step
        for event in step:
            if isinstance(event, BaseException):
                raise event
            yield event


async def reflect(hand: Hand, *steps: Any) -> tuple[Reflector, Cache, Script]:
    script, cache = Script(*steps), Cache()
    reflector = Reflector(script, cache, Selection(PODS, lambda one: one, "own=yes"), hand.clock())  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await reflector.run()
    return reflector, cache, script


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": body(name, version)}


async def test_stream_that_ends_goes_on_where_it_was(hand: Hand) -> None:
    _, cache, script = await reflect(
        hand, ([body("a", 3)], "5"), [event("ADDED", "b", 6)], [event("DELETED", "a", 8)], []
    )
    assert script.asked == [
        ("list", "own=yes"),
        ("watch", "5"),
        ("watch", "6"),
        ("watch", "8"),
        ("watch", "8"),
    ]
    assert sorted(state(cache)) == ["b"]
    assert hand.slept == []


@pytest.mark.parametrize("reason", [Gone(410, "Expired", ""), Silent("quiet")], ids=["gone", "silent"])
async def test_lost_history_and_silence_are_answered_by_a_list(hand: Hand, reason: Exception) -> None:
    _, cache, script = await reflect(
        hand, ([body("a", 3)], "5"), [event("ADDED", "b", 6), reason], ([body("c", 9)], "9"), []
    )
    assert [kind for kind, _ in script.asked] == ["list", "watch", "list", "watch", "watch"]
    assert sorted(state(cache)) == ["c"]
    assert hand.slept == [], "neither is a fault"


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    "error",
    [
        Unreachable("x"),
        ApiError(500, "Internal", "y"),
        ApiError(403, "Forbidden", "z"),
        TimeoutError(),
        ValueError("json"),
    ],
    ids=["unreachable", "500", "403", "timeout", "garbage"],
)
async def test_errors_pause_longer_each_time_and_never_end_the_loop(hand: Hand, error: Exception) -> None:
    _, cache, _ = await reflect(hand, *[error] * 12, ([body("a", 3)], "5"), [])
    assert sorted(state(cache)) == ["a"]
    for number, pause in enumerate(hand.slept, 1):
        most = min(0.25 * 2**number, LONGEST_PAUSE_SECONDS)
        assert most / 2 <= pause <= most
    assert len(hand.slept) == 12


async def test_an_event_ends_the_growth_of_pauses(hand: Hand) -> None:
    error = Unreachable("x")
    await reflect(hand, *[error] * 5, ([], "5"), [event("ADDED", "a", 6), error], [error])
    assert hand.slept[5] <= 0.5, "the stream had worked in between"


async def test_unknown_kinds_of_events_only_move_the_version(hand: Hand) -> None:
    odd = [{"type": "NEWKIND", "object": body("x", 7)}, {"type": "BOOKMARK", "object": {}}, {}]
    reflector, cache, _ = await reflect(hand, ([], "5"), odd)
    assert (len(cache), reflector._since) == (0, "7")


async def test_synced_is_told_once_the_first_list_is_in(hand: Hand) -> None:
    reflector, _, _ = await reflect(hand, Unreachable("x"))
    assert not reflector.synced.is_set()
    reflector, _, _ = await reflect(hand, ([], "5"))
    assert reflector.synced.is_set()
