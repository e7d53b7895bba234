"""Objects kept as text: nobody can tell by the answers, and they take a fraction of the room."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.operator.finished import ended_status
from windlass.shell.cache import Cache, Packed, pack
from windlass.shell.jobs import has_ended, in_namespace
from windlass.shell.observe import Caches

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "list"]),
        st.sampled_from("abc"),
        st.sampled_from(["x", "y"]),
        st.integers(0, 8),
        st.booleans(),
    ),
    max_size=30,
)


def body(name: str, namespace: str, version: int, *, ended: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(version)}
    if ended:
        status["finishedAt"] = "2026-11-25T12:00:00Z"
    return {"kind": "FineTuneJob", "metadata": metadata, "status": status}


@given(VALUES)
def test_an_object_comes_out_as_it_was_put_in(value: Any) -> None:
    whole = {"metadata": {"name": "a", "resourceVersion": "12"}, "status": {"value": value}}
    packed = pack(whole)
    assert packed.body() == whole and packed.version == 12
    assert packed.body() is not packed.body()


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_nobody_can_tell_whether_a_cache_packs(steps: list[tuple[str, str, str, int, bool]]) -> None:
    caches = [
        Cache(index=in_namespace),
        Cache(index=in_namespace, packs=has_ended),
        Cache(index=in_namespace, packs=lambda _: True),
    ]
    heard: list[list[Any]] = [[], [], []]
    for cache, told in zip(caches, heard, strict=True):
        cache.changed = told.append
    for kind, name, namespace, version, ended in steps:
        one = body(name, namespace, version, ended=ended)
        for cache in caches:
            if kind == "put":
                cache.upsert(one)
            elif kind == "drop":
                cache.drop(one)
            else:
                cache.replace([one], version=version, namespace=namespace)
        plain = caches[0]
        for cache in caches[1:]:
            assert list(cache) == list(plain) and len(cache) == len(plain)
            assert cache.newest == plain.newest
            assert cache.get(namespace, name) == plain.get(namespace, name)
            for where in ("x", "y", "z"):
                assert cache.find(where) == plain.find(where)
    assert heard[1] == heard[0] and heard[2] == heard[0]


@pytest.mark.parametrize(
    ("status", "packed"), [({}, False), ({"finishedAt": None}, False), ({"finishedAt": "2026"}, True)]
)
def test_only_jobs_that_have_ended_are_packed(status: dict[str, Any], packed: bool) -> None:
    caches = Caches()
    job = body("a", "x", 1)
    caches.jobs.upsert(job | {"status": status})
    (kept,) = caches.jobs.of("FineTuneJob")._objects.values()
    assert isinstance(kept, Packed) is packed
    assert has_ended({"metadata": {}}) is False, "a job that was never looked at"


def test_a_job_that_is_changed_after_its_end_is_packed_anew() -> None:
    caches = Caches()
    caches.jobs.upsert(body("a", "x", 1))
    caches.jobs.upsert(body("a", "x", 2, ended=True, note="one"))
    caches.jobs.upsert(body("a", "x", 3, ended=True, note="two"))
    found = caches.jobs.get(("FineTuneJob", "x", "a"))
    assert found is not None and found["status"]["note"] == "two"
    caches.jobs.drop(body("a", "x", 4))
    assert caches.jobs.get(("FineTuneJob", "x", "a")) is None and caches.jobs.find("x") == []


def test_an_ended_job_of_eight_pods_takes_little_room() -> None:
    whole = body("a", "x", 1) | {"status": ended_status(8)}
    text = json.dumps(whole)
    assert len(pack(whole).text) < len(text) / 2
    assert len(pack(whole).text) < 1500
