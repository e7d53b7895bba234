"""Checkpoints announced on the leader's pod, with the operator's real rights and the chart's own policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import helm_python as helm
import pytest
import yaml

from contract.operator.harness import JOBS, SYSTEM, Cluster, Operator, job, until
from contract.operator.test_rights import complaints, run_gang
from contract.server import ROOT, Client

STEP, TIME = "windlass.dev/checkpoint-step", "windlass.dev/checkpoint-time"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:operator"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
PLURALS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}


def policy() -> list[dict[str, Any]]:
    """The chart's policy about pods, for the account that the tests' operator has."""
    texts = helm.Chart.load(ROOT / "charts" / "windlass").render(values={}, name="windlass", namespace=SYSTEM)
    text = texts["windlass/templates/admission-operator.yaml"]
    return list(yaml.safe_load_all(text.replace(f"{SYSTEM}:windlass-operator'", f"{SYSTEM}:operator'")))


def forge(api: Client, where: str, patch: dict[str, Any]) -> Any:
    """What a change of a pod by the operator's account gets; with all rights, so that only the policy speaks."""
    query, media = {"dryRun": "All"}, "strategic-merge-patch+json"
    return api.impersonating(ACCOUNT, "system:masters").request(
        "PATCH", where, patch, query=query, media=media
    )


@pytest.fixture
def guarded(api_server: Client, cluster: Cluster) -> Iterator[Cluster]:
    """A namespace in whose cluster the chart's policy is in force."""
    bodies = policy()
    for body in bodies:
        api_server.create(f"{POLICIES}/{PLURALS[body['kind']]}", body).expect(201)
    probe = {"metadata": {"name": "probe"}, "spec": {"serviceAccountName": "x", "containers": [CONTAINER]}}
    api_server.create(f"{cluster.core}/pods", probe).expect(201)
    marked = {"metadata": {"labels": {"probe": "x"}}}
    until(lambda: forge(api_server, f"{cluster.core}/pods/probe", marked).code != 200, "policy in force")
    cluster.remove_pod("probe")
    yield cluster
    for body in bodies:
        api_server.delete(f"{POLICIES}/{PLURALS[body['kind']]}/{body['metadata']['name']}").expect(200)


CONTAINER = {"name": "agent", "image": "x"}


def save(cluster: Cluster, step: int, time: str) -> None:
    """A checkpoint appears in the ledger, as when the leader reports it."""
    row = {"step": step, "incarnation": 1, "name": f"step-{step}", "digest": "sha256:0", "committedAt": time}
    path = f"{JOBS.format(cluster.namespace)}/ft/status"
    cluster.api.merge(path, {"status": {"checkpoints": [row]}}).expect(200)


def said(cluster: Cluster, pod: str) -> dict[str, str]:
    body = cluster.api.get(f"{cluster.core}/pods/{pod}").expect(200)
    found = body["metadata"].get("annotations") or {}
    return {key: value for key, value in found.items() if key.startswith("windlass.dev/checkpoint")}


def test_a_verified_checkpoint_is_announced_on_the_leaders_pod(operator: Operator, guarded: Cluster) -> None:
    guarded.claims()
    guarded.submit(job("ft", pod={"serviceAccountName": "trainer", "annotations": {"example.com/a": "b"}}))
    run_gang(guarded, "ft-0-1", "ft-1-2")
    save(guarded, 10, "2026-01-01T00:00:00Z")
    until(lambda: said(guarded, "ft-0-1"), "announced")
    assert said(guarded, "ft-0-1") == {STEP: "10", TIME: "2026-01-01T00:00:00Z"}
    save(guarded, 20, "2026-01-01T00:10:00Z")
    until(lambda: said(guarded, "ft-0-1").get(STEP) == "20", "announced again")
    operator.await_rest()
    assert said(guarded, "ft-1-2") == {}
    pod = guarded.api.get(f"{guarded.core}/pods/ft-0-1").expect(200)
    assert pod["metadata"]["annotations"]["example.com/a"] == "b"
    owned = [row for row in pod["metadata"]["managedFields"] if row["manager"] == "windlass-checkpoint"]
    assert [row["operation"] for row in owned] == ["Apply"]
    annotations = owned[0]["fieldsV1"]["f:metadata"]["f:annotations"]
    assert set(annotations) == {f"f:{STEP}", f"f:{TIME}"}
    assert complaints(operator) == []


def test_a_notice_for_a_pod_that_is_gone_makes_none(operator: Operator, guarded: Cluster) -> None:
    path = f"{guarded.core}/pods/nobody"
    metadata = {"name": "nobody", "uid": "00000000-0000-0000-0000-000000000000", "annotations": {STEP: "1"}}
    answer = guarded.api.apply(
        path, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, manager="windlass-checkpoint"
    )
    assert answer.code == 409, answer.message
    assert guarded.api.get(path).code == 404


OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-0000-0000-000000000001"}
FORGERIES = {
    "an image": {"spec": {"containers": [{"name": "agent", "image": "evil"}]}},
    "a label": {"metadata": {"labels": {"app": "shop"}}},
    "a label taken": {"metadata": {"labels": {"windlass.dev/run": None}}},
    "another annotation": {"metadata": {"annotations": {"example.com/a": "c"}}},
    "an annotation taken": {"metadata": {"annotations": {"example.com/a": None}}},
    "a finalizer": {"metadata": {"finalizers": ["example.com/stay"]}},
    "an owner": {"metadata": {"ownerReferences": [OWNER]}},
    "a deadline": {"spec": {"activeDeadlineSeconds": 1}},
}


def test_the_policy_lets_the_operator_change_nothing_else(operator: Operator, guarded: Cluster) -> None:
    guarded.claims()
    guarded.submit(job("ft", pod={"serviceAccountName": "trainer", "annotations": {"example.com/a": "b"}}))
    guarded.await_pods("ft-0-1", "ft-1-2")
    where = f"{guarded.core}/pods/ft-0-1"
    for what, patch in FORGERIES.items():
        answer = forge(guarded.api, where, patch)
        assert answer.code in (403, 422), f"{what}: {answer.code}"
        assert "change nothing else of a pod" in answer.message, what
    allowed = {"metadata": {"annotations": {STEP: "7", TIME: "2026-01-01T00:00:00Z"}}}
    forge(guarded.api, where, allowed).expect(200)
    stranger = {"metadata": {"name": "shop"}, "spec": {"serviceAccountName": "x", "containers": [CONTAINER]}}
    guarded.api.create(f"{guarded.core}/pods", stranger).expect(201)
    assert forge(guarded.api, f"{guarded.core}/pods/shop", allowed).code in (403, 422)
    guarded.api.merge(f"{guarded.core}/pods/shop", FORGERIES["a label"]).expect(200)
