"""Suspect, lost and unhealthy nodes against a real API server: what it accepts, stores and lets go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from contract.operator.harness import Cluster, Operator, job, until
from contract.operator.test_rights import complaints, run_gang

NODES = "/api/v1/nodes"
HELD_BY_NOBODY = {"terminationGracePeriodSeconds": 5}


class Nodes:
    """Nodes that a test makes and takes away again."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.names: list[str] = []

    def make(self, part: str, *, ready: str = "True", taint: str = "") -> str:
        """A node whose name no other test uses."""
        name = f"{self.cluster.namespace}-{part}"
        self.names.append(name)
        self.cluster.api.create(NODES, {"metadata": {"name": name}}).expect(201)
        self.mark(name, ready)
        # Admission taints every new node as not ready, until its kubelet has spoken.
        self.taint(name, taint)
        return name

    def mark(self, name: str, ready: str) -> None:
        """What the node's kubelet, or the control plane in its place, says."""
        condition = {"type": "Ready", "status": ready, "reason": "Test"}
        status = {"status": {"conditions": [condition]}}
        self.cluster.api.merge(f"{NODES}/{name}/status", status).expect(200)

    def taint(self, name: str, key: str) -> None:
        """The only taint of the node, or none."""
        taints = [{"key": key, "value": "xid-79", "effect": "NoSchedule"}] if key else []
        self.cluster.api.merge(f"{NODES}/{name}", {"spec": {"taints": taints}}).expect(200)

    def clear(self) -> None:
        for name in self.names:
            self.cluster.api.delete(f"{NODES}/{name}").expect(200)


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    made = Nodes(cluster)
    yield made
    made.clear()


def suspects(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in cluster.job("ft")["status"].get("suspectNodes", [])}


def required(pod: dict[str, Any]) -> list[str]:
    rules = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [field["values"][0] for term in rules["nodeSelectorTerms"] for field in term["matchFields"]]


def run_on(cluster: Cluster, *nodes: str, **spec: Any) -> None:
    """A gang of two that runs on these nodes."""
    cluster.claims()
    cluster.submit(job("ft", **spec))
    cluster.await_pods("ft-0-1", "ft-1-2")
    for pod, node in zip(("ft-0-1", "ft-1-2"), nodes, strict=True):
        cluster.run_pod(pod, node)
    run_gang(cluster, "ft-0-1", "ft-1-2")


@pytest.mark.fault("F30")
def test_a_pod_that_leaves_a_broken_device_is_kept_off_its_node(operator: Operator, cluster: Cluster) -> None:
    run_on(cluster, "node-a", "node-b")
    against = {
        "reason": "DeviceError",
        "exclusion": "Required",
        "class": "Infrastructure",
        "evidence": ["NVRM: Xid (PCI:0000:3b:00): 79"],
    }
    cluster.end_pod("ft-1-2", 14, json.dumps({"result": "Preempted", "step": 20, "suspicion": against}))
    cluster.await_pods("ft-0-1", "ft-1-3")
    made = next(pod for pod in cluster.pods() if pod["metadata"]["name"] == "ft-1-3")
    assert required(made) == ["node-b"]
    assert made["metadata"]["annotations"]["windlass.dev/avoids-nodes"] == "node-b"
    found = suspects(cluster)["node-b"]
    assert (found["reason"], found["exclusion"], found["count"]) == ("DeviceError", "Required", 1)
    assert cluster.job("ft")["status"]["recoveries"][-1]["rung"] == "OtherNode"
    until(lambda: cluster.events("NodeSuspected"), "the event of it")
    assert complaints(operator) == []


@pytest.mark.fault("F30")
def test_a_tainted_node_is_left(operator: Operator, cluster: Cluster, nodes: Nodes) -> None:
    well, sick = nodes.make("well"), nodes.make("sick")
    run_on(cluster, well, sick)
    nodes.taint(sick, "windlass.dev/unhealthy")
    cluster.await_pods("ft-0-1", "ft-1-2", "ft-1-3")
    leaving = next(pod for pod in cluster.pods() if pod["metadata"]["name"] == "ft-1-2")
    assert leaving["metadata"]["deletionTimestamp"]
    assert required(next(pod for pod in cluster.pods() if pod["metadata"]["name"] == "ft-1-3")) == [sick]
    assert suspects(cluster)[sick]["evidence"] == ["taint windlass.dev/unhealthy=xid-79:NoSchedule"]
    assert "charges" not in cluster.job("ft")["status"]
    assert complaints(operator) == []


@pytest.mark.fault("F23")
@pytest.mark.fault("F24")
def test_a_silent_node_is_given_up_and_its_pod_removed_by_force_where_asked_for(
    operator: Operator, cluster: Cluster, nodes: Nodes
) -> None:
    well, silent = nodes.make("well"), nodes.make("silent")
    run_on(cluster, well, silent, recovery=HELD_BY_NOBODY | {"forceDeleteAfterSeconds": 0})
    nodes.mark(silent, "Unknown")
    until(lambda: "ft-1-3" in cluster.pod_names(), "the lost pod's successor", 30)
    assert suspects(cluster)[silent]["reason"] == "NodeLost"
    assert suspects(cluster)[silent]["exclusion"] == "Preferred"
    made = next(pod for pod in cluster.pods() if pod["metadata"]["name"] == "ft-1-3")
    assert "preferredDuringSchedulingIgnoredDuringExecution" in made["spec"]["affinity"]["nodeAffinity"]
    # Nobody plays the kubelet of the silent node: only force ends its pod.
    until(lambda: "ft-1-2" not in cluster.pod_names(), "the stuck pod is removed", 30)
    until(lambda: cluster.events("PodForceDeleted"), "the event of it")
    assert "ft-0-1" in cluster.pod_names()
    assert complaints(operator) == []
