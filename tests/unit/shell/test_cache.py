"""The cache and the slim copies in it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.shell.cache import Cache, slim_child, slim_claim, slim_job, slim_pod
from windlass.shell.observe import Caches


def body(version: int, *, name: str = "a", uid: str = "u", namespace: str = "team") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.upsert(body(5))
    assert not cache.upsert(body(4))
    assert cache.get("team", "a") == body(5)


def test_a_late_event_does_not_bring_back_what_was_deleted() -> None:
    cache = Cache()
    cache.upsert(body(5))
    cache.drop(body(7))
    assert not cache.upsert(body(6))
    assert cache.get("team", "a") is None
    assert cache.upsert(body(8, uid="other")), "a new object of the name is taken"


def test_a_late_removal_does_not_drop_a_newer_object() -> None:
    cache = Cache()
    cache.upsert(body(9, uid="second"))
    cache.drop(body(7, uid="first"))
    assert cache.get("team", "a") == body(9, uid="second")


@given(st.permutations([("put", 1), ("put", 2), ("drop", 3), ("put", 5), ("put", 6)]))
def test_any_order_of_events_ends_in_the_same_state(events: list[tuple[str, int]]) -> None:
    cache = Cache()
    for kind, version in events:
        cache.drop(body(version)) if kind == "drop" else cache.upsert(body(version))
    assert cache.get("team", "a") == body(6)


def test_a_list_drops_what_it_lacks_but_not_what_is_newer() -> None:
    cache = Cache()
    cache.upsert(body(1, name="old"))
    cache.upsert(body(20, name="newer"))
    cache.upsert(body(1, name="elsewhere", namespace="other"))
    cache.replace([body(3, name="kept")], version=10, namespace="team")
    assert sorted(item["metadata"]["name"] for item in cache) == ["elsewhere", "kept", "newer"]


def test_changes_are_told_once() -> None:
    cache, told = Cache(), []
    cache.changed = lambda item: told.append(item["metadata"]["resourceVersion"])
    cache.upsert(body(1))
    cache.upsert(body(1))
    cache.upsert(body(2) | {"spec": {"a": 1}})
    cache.drop(body(3))
    cache.drop(body(3))
    cache.replace([], version=9)
    assert told == ["1", "2", "2"]
    cache.upsert(body(10))
    cache.upsert(body(11))
    assert told[3:] == ["10", "11"], "elsewhere each version is told"


def test_what_is_kept_quiet_is_known_and_not_told() -> None:
    cache, told = Cache(), []
    cache.changed = lambda item: told.append(item["metadata"]["resourceVersion"])
    assert cache.upsert(body(1), quiet=True) and told == []
    assert cache.get("team", "a") == body(1) and cache.newest == 1
    assert cache.upsert(body(1)) and told == [], "the echo of a quiet write is no news either"
    assert cache.upsert(body(2)) and told == ["2"]
    assert not cache.upsert(body(1), quiet=True)


def test_names_are_those_of_all_objects_packed_or_not() -> None:
    cache = Cache(packs=lambda item: item["metadata"]["name"] == "b")
    assert cache.names() == []
    for name in ("a", "b"):
        cache.upsert(body(1, name=name))
    names = cache.names()
    cache.drop(body(2, name="a"))
    assert names == [("team", "a"), ("team", "b")], "a list of its own"
    assert cache.names() == [("team", "b")]


def test_a_version_that_differs_in_nothing_that_is_kept_is_no_change() -> None:
    cache, told = Cache(packs=lambda item: "packed" in item, only_content=True), []
    cache.changed = lambda item: told.append(item["metadata"]["resourceVersion"])
    assert cache.upsert(body(1) | {"spec": {"a": [1]}})
    assert cache.upsert(body(2) | {"spec": {"a": [1]}})
    assert told == ["1"]
    assert cache.get("team", "a") == body(2) | {"spec": {"a": [1]}}, "deletes name the newest version"
    assert cache.newest == 2 and not cache.upsert(body(1))
    for other in ({"spec": {"a": [2]}}, {"spec": {"a": [2]}, "status": {}}, {"packed": 1}, {"packed": 1}):
        assert cache.upsert(body(cache.newest + 1) | other)
    assert told == ["1", "3", "4", "5"]
    labelled = body(7) | {"packed": 1}
    labelled["metadata"]["labels"] = {"a": "b"}
    assert cache.upsert(labelled)
    assert told[-1] == "7"


def test_a_pod_of_which_nothing_kept_has_changed_is_no_reason_for_a_round() -> None:
    caches, told = Caches(), []
    caches.pods.changed = lambda item: told.append(item["metadata"]["resourceVersion"])
    for version, probed in ((4, "1"), (5, "2")):
        pod = full_pod()
        pod["metadata"]["resourceVersion"] = str(version)
        pod["status"]["conditions"][0]["lastProbeTime"] = probed
        assert caches.pods.upsert(slim_pod(pod))
    assert told == ["4"]


def test_the_index_follows() -> None:
    cache = Cache(index=lambda item: item["metadata"]["uid"])
    cache.upsert(body(1, name="b", uid="x"))
    cache.upsert(body(1, name="a", uid="x"))
    assert [item["metadata"]["name"] for item in cache.find("x")] == ["a", "b"]
    cache.upsert(body(2, name="a", uid="y"))
    cache.drop(body(3, name="b", uid="x"))
    assert (cache.find("x"), len(cache.find("y"))) == ([], 1)


REQUESTS = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"}


def full_pod() -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "namespace": "team",
            "uid": "u",
            "resourceVersion": "4",
            "managedFields": [{"manager": "kubelet"}] * 9,
            "annotations": {"windlass.dev/digest": "d", "other.io/x": "y"},
            "labels": {"windlass.dev/run": "ft"},
        },
        "spec": {
            "nodeName": "n",
            "containers": [
                {
                    "name": "agent",
                    "image": "i:1",
                    "env": [{"name": "A", "value": "secret"}],
                    "resources": {"requests": REQUESTS, "limits": {"memory": "9Gi"}},
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "1.2.3.4",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "agent", "image": "i", "state": {"running": {"startedAt": "t"}}}],
        },
    }


def test_a_slim_pod_holds_what_views_read_and_no_environment() -> None:
    slim = slim_pod(full_pod())
    assert slim["spec"] == {
        "nodeName": "n",
        "containers": [{"image": "i:1", "resources": {"requests": REQUESTS}}],
    }
    assert slim["status"]["conditions"] == [{"type": "PodScheduled", "status": "True"}]
    assert slim["status"]["containerStatuses"] == [
        {"name": "agent", "state": {"running": {"startedAt": "t"}}}
    ]
    assert slim["metadata"]["annotations"] == {"windlass.dev/digest": "d"}
    assert "managedFields" not in slim["metadata"]
    assert "secret" not in str(slim)


def test_slimming_twice_changes_nothing() -> None:
    for slim in (slim_pod, slim_job, slim_claim, slim_child):
        once = slim(full_pod() | {"kind": "Any"})
        assert slim(once) == once


def test_a_pod_view_of_a_slim_pod_is_that_of_the_whole() -> None:
    from windlass.core.observed import PodView

    states = [
        {"waiting": {"reason": "ImagePullBackOff", "message": "m"}},
        {"running": {"startedAt": "2026-11-23T12:00:00Z"}},
        {
            "terminated": {
                "exitCode": 137,
                "reason": "OOMKilled",
                "message": "v",
                "finishedAt": "2026-11-23T12:00:00Z",
            }
        },
    ]
    conditions = [
        [],
        [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}],
        [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}],
    ]
    for state, condition in itertools.product(states, conditions):
        pod = full_pod()
        pod["status"] |= {"conditions": condition, "containerStatuses": [{"name": "agent", "state": state}]}
        pod["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
        view = PodView.from_wire(slim_pod(pod))
        assert view == PodView.from_wire(pod)
        # What a run costs is reckoned from these.
        assert dict(view.requests) == REQUESTS


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"immutable": True, "data": {"run.json": "x" * 9}}, {"immutable": True}),
        ({"data": {"a": "1"}}, {"data": {"a": "1"}}),
    ],
)
def test_data_that_cannot_drift_is_not_kept(given: dict, kept: dict) -> None:
    slim = slim_child(body(1) | given)
    del slim["metadata"]
    assert slim == kept
