"""The operator's real rights over a longer life: a second attempt, and the end by TTL."""

from __future__ import annotations

from contract.operator.harness import JOBS, Cluster, Operator, job, until


def run_gang(cluster: Cluster, *pods: str) -> None:
    """All pods run, and the operator has seen the whole gang."""
    cluster.await_pods(*pods)
    for pod in pods:
        cluster.run_pod(pod)
    until(lambda: all(m.get("podUid") for m in cluster.job("ft")["status"]["gang"]["members"]), "gang seen")


def pause(cluster: Cluster) -> None:
    """Suspend the run until its pods are gone, and let it go on."""
    cluster.patch_job("ft", {"spec": {"suspend": True}})

    def gone() -> bool:
        cluster.finish_deletions()
        return cluster.condition("ft", "Suspended").get("status") == "True"

    until(gone, "the run is suspended")
    cluster.patch_job("ft", {"spec": {"suspend": False}})


def complaints(operator: Operator) -> list[str]:
    """Problems in the operator's log that speak of rights."""
    problems = (str(line.get("problem", "")) for line in operator.log())
    return [text for text in problems if " cannot " in text]


def test_a_second_attempt_removes_the_configuration_of_the_first(
    operator: Operator, cluster: Cluster
) -> None:
    cluster.claims()
    cluster.submit(job("ft"))
    run_gang(cluster, "ft-0-1", "ft-1-2")
    first = cluster.job("ft")["status"]["runConfig"]
    pause(cluster)
    run_gang(cluster, "ft-0-3", "ft-1-4")
    status = cluster.job("ft")["status"]
    assert status["gang"]["attempt"] == 2
    assert status["runConfig"] != first
    wanted = sorted(["ft-ca", status["runConfig"]])
    until(lambda: cluster.objects("api/v1|configmaps") == wanted, "the first configuration is gone")
    until(lambda: cluster.events("Starting"), "events of the round that removed it")
    operator.await_rest()
    assert complaints(operator) == []


def test_a_finished_run_goes_with_its_ttl(operator: Operator, cluster: Cluster) -> None:
    cluster.claims()
    cluster.submit(job("ft", resources={"nodes": 1}, ttlSecondsAfterFinished=0))
    cluster.finish("ft")
    until(lambda: cluster.api.get(f"{JOBS.format(cluster.namespace)}/ft").code == 404, "the job is gone")
    assert complaints(operator) == []
