"""Nodes as the shell sees them: what is kept, whom a change wakes, and how a pod on a dead one is removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import KEY, Life, world
from unit.shell.test_rounds import all_run, step
from unit.shell.test_wiring import SETTINGS, keys
from windlass.core.observed import NodeView, Taint
from windlass.shell.cache import slim_node
from windlass.shell.client import Client
from windlass.shell.credentials import Credentials
from windlass.shell.errors import Conflict
from windlass.shell.nodes import Nodes
from windlass.shell.operator import Operator
from windlass.shell.resources import NODES, PODS


def a_node(name: str = "node-1", *, ready: str = "True", taint: str = "", version: int = 1) -> dict[str, Any]:
    """A node as the API server sends it, with much that nobody here reads."""
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"a": "b"},
            "annotations": {"csi": "x" * 100},
            "managedFields": [{}],
        },
        "spec": {
            "taints": [{"key": taint, "effect": "NoSchedule"}] if taint else [],
            "podCIDR": "10.0.0.0/24",
        },
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": ready, "lastHeartbeatTime": f"2026-01-01T00:00:{version:02d}Z"},
            ],
            "images": [{"names": ["x"] * 50}],
        },
    }


def a_pod(name: str, node: str | None, *, run: str = "ft") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": name,
            "resourceVersion": "3",
            "ownerReferences": [{"kind": "FineTuneJob", "name": run, "uid": run, "controller": True}],
        },
        "spec": {"nodeName": node},
        "status": {},
    }


@pytest.mark.parametrize(
    ("body", "view"),
    [
        (a_node(), NodeView("node-1")),
        (a_node(ready="Unknown"), NodeView("node-1", ready=False)),
        (a_node(taint="sick"), NodeView("node-1", taints=(Taint("sick", "", "NoSchedule"),))),
        ({"metadata": {"name": "node-1"}}, NodeView("node-1", ready=False)),
    ],
)
def test_what_is_kept_of_a_node_says_the_same(body: dict[str, Any], view: NodeView) -> None:
    slim = slim_node(body)
    assert NodeView.from_wire(slim) == NodeView.from_wire(body) == view
    assert len(repr(slim)) < 300
    assert "labels" not in slim["metadata"]


def test_only_known_nodes_of_the_pods_are_seen() -> None:
    nodes = Nodes()
    for name in ("a", "b", "c"):
        nodes.cache.upsert(slim_node(a_node(name)))
    pods = [a_pod("p0", "c"), a_pod("p1", "a"), a_pod("p2", "a"), a_pod("p3", None), a_pod("p4", "unknown")]
    assert [view.name for view in nodes.of(pods)] == ["a", "c"]
    assert nodes.of([]) == ()


def told(nodes: Nodes, *bodies: dict[str, Any]) -> list[bool]:
    found: list[bool] = []
    nodes.cache.changed = lambda body: found.append(nodes.is_news(body))
    for body in bodies:
        nodes.cache.upsert(slim_node(body))
    return found


def test_a_heartbeat_is_no_news() -> None:
    bodies = [
        a_node(version=1),
        a_node(version=2),
        a_node(version=3, ready="Unknown"),
        a_node(version=4, ready="Unknown"),
    ]
    assert told(Nodes(), *bodies, a_node(version=5, taint="sick"), a_node(version=6)) == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]


def test_a_node_that_goes_is_news_once() -> None:
    nodes = Nodes()
    told(nodes, a_node(version=1))
    found: list[bool] = []
    nodes.cache.changed = lambda body: found.append(nodes.is_news(body))
    nodes.cache.drop(slim_node(a_node(version=2)))
    assert found == [True]
    assert nodes.is_news(slim_node(a_node(version=2))) is False


@given(st.lists(st.tuples(st.sampled_from(["True", "Unknown"]), st.sampled_from(["", "sick"])), max_size=12))
def test_every_change_is_told_and_nothing_else(states: list[tuple[str, str]]) -> None:
    nodes, before = Nodes(), ("True", "")
    bodies = [
        a_node(ready=ready, taint=taint, version=number + 1) for number, (ready, taint) in enumerate(states)
    ]
    expected = []
    for state in states:
        expected.append(state != before)
        before = state
    assert told(nodes, *bodies) == expected


# --- wiring ----------------------------------------------------------------------------------------


@pytest_asyncio.fixture(params=[True, False], ids=["watching", "not watching"])
async def operator(request: pytest.FixtureRequest) -> AsyncIterator[Operator]:
    settings = replace(
        SETTINGS, watch_nodes=request.param, watch_namespaces=("a", "b"), health_taints=("sick",)
    )
    made = Operator(settings, Credentials(server="http://127.0.0.1:1"))
    yield made
    await made.client.close()
    await made._lease_client.close()


async def test_nodes_are_watched_once_and_only_if_asked_for(operator: Operator) -> None:
    watched = [reflector.resource for reflector in operator.reflectors]
    assert watched.count(NODES) == int(operator.settings.watch_nodes)
    assert watched.count(PODS) == 2, "once for each namespace"
    assert operator._render.health_taints == ("sick",)


async def test_a_node_wakes_the_runs_on_it(operator: Operator) -> None:
    for pod in (a_pod("p0", "node-1"), a_pod("p1", "node-2", run="other"), a_pod("p2", None, run="third")):
        operator.caches.pods.upsert(pod)
    operator.caches.nodes.cache.upsert(slim_node(a_node(version=1)))
    keys(operator)
    operator.caches.nodes.cache.upsert(slim_node(a_node(version=2, ready="Unknown")))
    assert keys(operator) == ["FineTuneJob/team/ft"]
    operator.caches.nodes.cache.upsert(slim_node(a_node(version=3, ready="Unknown")))
    assert keys(operator) == []


# --- by force --------------------------------------------------------------------------------------


async def test_by_force_goes_exactly_what_was_seen(api: FakeApi) -> None:
    client: Client = api.client()
    api.put("pods", {"metadata": {"name": "p", "namespace": "team", "uid": "u1"}})
    with pytest.raises(Conflict):
        await client.delete_by_force(PODS, "p", namespace="team", uid="u2")
    assert api.get("pods", "p") is not None
    await client.delete_by_force(PODS, "p", namespace="team", uid="u1")
    assert api.get("pods", "p") is None
    await client.delete_by_force(PODS, "p", namespace="team", uid="u1")
    await client.close()


@pytest.mark.fault("F24")
async def test_a_stuck_pod_is_removed_without_its_kubelet(api: FakeApi, hand: Hand) -> None:
    world(api, recovery={"forceDeleteAfterSeconds": 0})
    life = Life(api, hand)
    await step(life)
    all_run(api)
    await step(life)
    name = next(name for plural, _, name in api.objects if plural == "pods")
    body = api.get("pods", name)
    assert body is not None
    body["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
    api.put("pods", body)
    life.load()
    await life.reconciler.attempt(KEY)
    life.load()
    await life.reconciler.attempt(KEY)
    assert api.get("pods", name) is None
    await life.close()


async def test_a_forced_deletion_that_fails_is_tried_again(api: FakeApi) -> None:
    client: Client = api.client()
    api.put("pods", {"metadata": {"name": "p", "namespace": "team", "uid": "u1"}})
    api.faults.append(Fault("DELETE", "/pods/p", status=503, times=1))
    await client.delete_by_force(PODS, "p", namespace="team", uid="u1")
    assert api.get("pods", "p") is None
    await client.close()
