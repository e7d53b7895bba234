"""What the world may do to a run: claims, quotas, policies, hands. Rows B49, B50, B72 to B78."""

from __future__ import annotations

import pytest

from contract.operator.harness import JOBS, Cluster, Operator, job, until

KINDS = ("api/v1|configmaps", "api/v1|services", "apis/networking.k8s.io/v1|networkpolicies")


def all_objects(cluster: Cluster) -> list[str]:
    return [*cluster.pod_names(), *(name for path in KINDS for name in cluster.objects(path))]


@pytest.mark.bad_input("B49")
def test_a_missing_claim_is_named_and_its_coming_noticed(operator: Operator, cluster: Cluster) -> None:
    cluster.claims(without="data")
    cluster.submit(job("ft"))
    found = cluster.await_reason("ft", "ClaimNotFound", seconds=10)
    assert "data" in found["message"]
    assert "hint: " in found["message"]
    assert cluster.condition("ft", "Stalled")["status"] == "True"
    assert cluster.pod_names() == []
    cluster.claim("data")
    cluster.await_pods("ft-0-1", "ft-1-2")


@pytest.mark.bad_input("B50")
def test_a_claim_for_one_node_cannot_serve_two(operator: Operator, cluster: Cluster) -> None:
    cluster.claims(store_mode="ReadWriteOnce")
    cluster.submit(job("ft"))
    found = cluster.await_reason("ft", "AccessModeNotShared", seconds=10)
    assert "checkpoints" in found["message"]
    assert "ReadWriteOnce" in found["message"]
    assert "ReadWriteMany" in found["message"]
    assert cluster.pod_names() == []


@pytest.mark.bad_input("B72")
@pytest.mark.parametrize(
    ("path", "patch", "look"),
    [
        (
            "/api/v1/namespaces/{}/services/ft",
            {"spec": {"publishNotReadyAddresses": False}},
            lambda body: body["spec"].get("publishNotReadyAddresses") is True,
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies/ft",
            {"spec": {"ingress": [{}]}},
            lambda body: body["spec"]["ingress"] != [{}],
        ),
        (
            "/api/v1/namespaces/{}/configmaps/ft-ca",
            {"data": {"ca.crt": "forged"}},
            lambda body: body["data"]["ca.crt"] != "forged",
        ),
    ],
    ids=["service", "networkpolicy", "ca"],
)
def test_an_object_edited_by_hand_is_put_right(
    operator: Operator, cluster: Cluster, path: str, patch: dict, look: object
) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    cluster.await_pods("ft-0-1", "ft-1-2")
    where = path.format(cluster.namespace)
    cluster.api.merge(where, patch).expect(200)
    until(lambda: look(cluster.api.get(where).expect(200)), f"{where} reverted")


@pytest.mark.bad_input("B72")
def test_an_object_deleted_by_hand_comes_back(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    cluster.await_pods("ft-0-1", "ft-1-2")
    config = cluster.job("ft")["status"]["runConfig"]
    for path in ("services/ft", f"configmaps/{config}"):
        cluster.api.delete(f"{cluster.core}/{path}").expect(200)
    until(lambda: cluster.api.get(f"{cluster.core}/services/ft").code == 200, "service is back")
    until(lambda: cluster.api.get(f"{cluster.core}/configmaps/{config}").code == 200, "configuration is back")


@pytest.mark.bad_input("B73")
def test_a_deleted_pod_is_replaced_under_a_new_ticket(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    cluster.await_pods("ft-0-1", "ft-1-2")
    for pod in ("ft-0-1", "ft-1-2"):
        cluster.run_pod(pod)
    until(lambda: all(m.get("podUid") for m in cluster.job("ft")["status"]["gang"]["members"]), "gang seen")
    cluster.remove_pod("ft-1-2")
    cluster.await_pods("ft-0-1", "ft-1-3")
    assert cluster.job("ft")["status"]["gang"]["attempt"] == 1


@pytest.mark.bad_input("B74")
def test_a_pod_with_a_forged_label_is_ignored(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    body = cluster.submit(job("ft"))
    real = cluster.await_pods("ft-0-1", "ft-1-2")[0]
    forged = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger", "labels": real["metadata"]["labels"]},
        "spec": {"serviceAccountName": "trainer", "containers": [{"name": "agent", "image": "x"}]},
    }
    cluster.api.create(f"{cluster.core}/pods", forged).expect(201)
    cluster.delete_job("ft")
    until(lambda: cluster.api.get(f"{JOBS.format(cluster.namespace)}/ft").code == 404, "job gone")
    cluster.collect_garbage()
    assert cluster.pod_names() == ["stranger"]
    assert body["metadata"]["uid"]


@pytest.mark.bad_input("B75")
def test_deleting_a_job_in_a_restart_makes_nothing_new(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    cluster.await_pods("ft-0-1", "ft-1-2")
    for pod in ("ft-0-1", "ft-1-2"):
        cluster.run_pod(pod)
    until(lambda: all(m.get("podUid") for m in cluster.job("ft")["status"]["gang"]["members"]), "gang seen")
    cluster.remove_pod("ft-1-2")
    cluster.delete_job("ft")
    assert cluster.api.get(f"{JOBS.format(cluster.namespace)}/ft").code == 404, "a finalizer holds the job"
    operator.await_rest()
    cluster.collect_garbage()
    operator.await_rest()
    assert all_objects(cluster) == []


@pytest.mark.bad_input("B76")
def test_a_namespace_can_go_mid_run(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    cluster.await_pods("ft-0-1", "ft-1-2")
    cluster.api.delete(f"/api/v1/namespaces/{cluster.namespace}").expect(200)
    cluster.remove_pod("ft-1-2")
    cluster.api.request("DELETE", JOBS.format(cluster.namespace)).expect(200)
    until(lambda: cluster.api.get(JOBS.format(cluster.namespace)).expect(200)["items"] == [], "no jobs left")
    cluster.collect_garbage()
    assert all_objects(cluster) == []
    assert operator.get("/healthz")[0] == 200


@pytest.mark.bad_input("B77")
def test_the_same_name_again_is_another_run(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    first = cluster.submit(job("ft"))
    old = {pod["metadata"]["uid"] for pod in cluster.await_pods("ft-0-1", "ft-1-2")}
    cluster.delete_job("ft")
    second = cluster.submit(job("ft"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]

    def settled() -> bool:
        cluster.collect_garbage()
        pods = cluster.pods()
        owners = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods}
        return owners == {second["metadata"]["uid"]} and len(pods) == 2

    until(settled, "only pods of the second run", 60)
    assert not old & {pod["metadata"]["uid"] for pod in cluster.pods()}


@pytest.mark.bad_input("B78")
def test_a_hundred_rounds_of_suspend_delete_create_leave_nothing(
    operator: Operator, cluster: Cluster
) -> None:
    cluster.claims()
    for number in range(100):
        cluster.submit(job("ft"))
        if number % 3:
            cluster.patch_job("ft", {"spec": {"suspend": True}})
        if number % 2:
            cluster.finish_deletions()
        cluster.delete_job("ft")
        cluster.collect_garbage()
    operator.await_rest()

    def empty() -> bool:
        cluster.collect_garbage()
        return all_objects(cluster) == []

    until(empty, "no orphans")
    operator.await_rest()
    assert all_objects(cluster) == []


def test_a_used_up_quota_is_told_and_its_growth_noticed(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}
    cluster.api.create(f"{cluster.core}/resourcequotas", quota).expect(201)
    status = {"status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}}
    cluster.api.merge(f"{cluster.core}/resourcequotas/small/status", status).expect(200)
    cluster.submit(job("ft"))
    found = cluster.await_reason("ft", "QuotaExceeded", seconds=10)
    assert "small" in found["message"]
    cluster.api.delete(f"{cluster.core}/resourcequotas/small").expect(200)
    cluster.await_pods("ft-0-1", "ft-1-2")


def test_pods_pass_the_restricted_profile(operator: Operator, cluster: Cluster) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.api.merge(f"/api/v1/namespaces/{cluster.namespace}", {"metadata": {"labels": labels}}).expect(200)
    cluster.claims()
    cluster.submit(job("ft"))
    cluster.await_pods("ft-0-1", "ft-1-2")


def test_a_foreign_service_is_not_taken_over(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    service = {"metadata": {"name": "ft"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}
    cluster.api.create(f"{cluster.core}/services", service).expect(201)
    cluster.submit(job("ft"))
    found = cluster.await_reason("ft", "ObjectConflict", seconds=10)
    assert "ft" in found["message"]
    assert cluster.api.get(f"{cluster.core}/services/ft").expect(200)["spec"]["selector"] == {"app": "web"}
    cluster.api.delete(f"{cluster.core}/services/ft").expect(200)
    cluster.await_pods("ft-0-1", "ft-1-2")


def test_a_missing_secret_is_named_from_the_kubelets_event(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    model = {"uri": "hf://org/model", "secretRef": {"name": "hub", "key": "token"}}
    cluster.submit(job("ft", model=model, resources={"nodes": 1}))
    pod = cluster.await_pods("ft-0-1")[0]
    cluster.place_pod("ft-0-1")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "ft-0-1.mount"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "ft-0-1",
            "namespace": cluster.namespace,
            "uid": pod["metadata"]["uid"],
        },
        "reason": "FailedMount",
        "type": "Warning",
        "message": 'MountVolume.SetUp failed for volume "secret-0" : secret "hub" not found',
    }
    cluster.api.create(f"{cluster.core}/events", event).expect(201)
    found = cluster.await_reason("ft", "SecretNotFound", seconds=20)
    assert "hub" in found["message"]
