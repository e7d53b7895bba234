"""A namespace whose LimitRange changes pods, or refuses them: the operator takes the one and tells the other."""

from __future__ import annotations

from typing import Any

import pytest

from contract.operator.harness import Cluster, Operator, job, until

pytestmark = pytest.mark.contract


def limit(cluster: Cluster, **limits: dict[str, str]) -> None:
    """A LimitRange for containers."""
    spec = {"limits": [{"type": "Container", **limits}]}
    cluster.api.create(f"{cluster.core}/limitranges", {"metadata": {"name": "team"}, "spec": spec}).expect(
        201
    )


def resources(pod: dict[str, Any]) -> dict[str, Any]:
    return dict(pod["spec"]["containers"][0]["resources"])


@pytest.mark.fault("F20")
def test_pods_that_a_limit_range_changed_are_taken_as_they_are(operator: Operator, cluster: Cluster) -> None:
    limit(cluster, default={"cpu": "3", "ephemeral-storage": "7Gi"}, defaultRequest={"cpu": "3"})
    cluster.claims()
    cluster.submit(job("ft"))
    made = cluster.await_pods("ft-0-1", "ft-1-2")
    assert all(resources(pod)["limits"]["ephemeral-storage"] == "7Gi" for pod in made), (
        "the server changed none"
    )
    for pod in made:
        cluster.run_pod(pod["metadata"]["name"])
    until(lambda: all(m.get("podUid") for m in cluster.job("ft")["status"]["gang"]["members"]), "gang seen")
    # Something of the job changes, so that it is looked at again.
    cluster.patch_job("ft", {"metadata": {"labels": {"seen": "again"}}})
    operator.await_rest()
    after = cluster.pods("ft")
    assert {pod["metadata"]["uid"] for pod in after} == {pod["metadata"]["uid"] for pod in made}
    assert [resources(pod) for pod in after] == [resources(pod) for pod in made]
    writers = {field["manager"] for pod in after for field in pod["metadata"]["managedFields"]}
    generations = {pod["metadata"].get("generation", 1) for pod in after}
    assert generations == {1}, f"written again by one of {writers}"
    assert cluster.job("ft")["status"]["gang"]["attempt"] == 1


@pytest.mark.fault("F20")
def test_pods_that_a_limit_range_refuses_are_told_with_the_bound(
    operator: Operator, cluster: Cluster
) -> None:
    limit(cluster, max={"memory": "512Mi"})
    cluster.claims()
    cluster.submit(job("ft"))
    told = until(
        lambda: (found := cluster.condition("ft")) and "512Mi" in found.get("message", "") and found,
        "the bound is told",
    )
    assert told["status"] == "False"
    assert "hint: " in told["message"]
    operator.await_rest()
    assert cluster.pod_names() == []
    cluster.api.delete(f"{cluster.core}/limitranges/team").expect(200)
