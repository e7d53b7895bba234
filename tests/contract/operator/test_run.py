"""A run from its creation to its end, with the operator's real rights."""

from __future__ import annotations

import json

from contract.operator.harness import Cluster, Operator, job


def test_a_job_becomes_pods_and_shared_objects(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    pods = cluster.await_pods("ft-0-1", "ft-1-2")
    assert {pod["spec"]["hostname"] for pod in pods} == {"ft-0", "ft-1"}
    assert cluster.objects("api/v1|services") == ["ft"]
    assert cluster.objects("apis/networking.k8s.io/v1|networkpolicies") == ["ft"]
    config = cluster.job("ft")["status"]["runConfig"]
    assert cluster.objects("api/v1|configmaps") == sorted(["ft-ca", config])
    cluster.await_reason("ft", "WaitingForPods")
    for pod in ("ft-0-1", "ft-1-2"):
        cluster.run_pod(pod)
    verdict = {"result": "Succeeded", "step": 40, "incarnation": 1}
    for pod in ("ft-0-1", "ft-1-2"):
        cluster.end_pod(pod, 0, json.dumps(verdict), "Completed")
    cluster.await_reason("ft", "Completed", "Complete")
    assert cluster.condition("ft")["status"] == "True"
