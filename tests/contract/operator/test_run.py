"""A run from its creation to its end, with the operator's real rights."""

from __future__ import annotations

import json

from contract.crd.specs import NEW_LLAMA, PRETRAIN_JOBS, change
from contract.operator.harness import Cluster, Operator, job, until


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


def test_a_pretrain_job_runs_beside_a_fine_tune_job(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    jobs = PRETRAIN_JOBS.format(cluster.namespace)
    asked = {**job("web"), "kind": "PretrainJob", "spec": NEW_LLAMA["spec"]}
    for path, value in (("pod.serviceAccountName", "trainer"), ("ttlSecondsAfterFinished", 0)):
        asked = change(f"spec.{path}", value, asked)
    made = cluster.api.create(jobs, asked).expect(201)
    (pod,) = cluster.await_pods("web-0-1", run="web")
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("PretrainJob", made["metadata"]["uid"])
    cluster.await_pods("ft-0-1", "ft-1-2", run="ft")
    cluster.run_pod("web-0-1")
    verdict = {"result": "Succeeded", "step": 62, "incarnation": 1}
    cluster.end_pod("web-0-1", 0, json.dumps(verdict), "Completed")
    until(lambda: cluster.api.get(f"{jobs}/web").code == 404, "it ended, and went with its TTL")
    (told,) = cluster.events("Completed")
    assert (told["regarding"]["kind"], told["regarding"]["name"]) == ("PretrainJob", "web")
    cluster.await_reason("ft", "WaitingForPods")
