"""What a user sees when something dies: rank, pod, leader, operator, tracking; or minds change.

Each test applies a FineTuneJob of the tiny model to the local cluster and disturbs it mid-run. What is
asserted is status and objects, never calls. Lost work is bounded by one checkpoint interval + the steps of
an uncommitted save + 1.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from kubernetes import client

from e2e.conftest import Installation
from e2e.support import Jobs, eventually, tiny_job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
INTERVAL = 50
BOUND = 2 * INTERVAL + 1


def recovery_rows(jobs: Jobs, name: str) -> list[dict[str, Any]]:
    return jobs.status(name).get("recoveries") or []


def assert_went_on(jobs: Jobs, name: str, rung: str) -> dict[str, Any]:
    """The job is complete, one recovery on `rung` is written down, and its cost is bounded and adds up."""
    status = jobs.await_condition(name, "Complete")
    rows = [row for row in status["recoveries"] if row["rung"] == rung]
    assert rows, f"no {rung} among {status['recoveries']}"
    row = rows[0]
    assert 0 <= row["lostSteps"] <= BOUND
    assert row["resumedStep"] <= row["fromStep"]
    assert row["seconds"]["total"] > 0
    goodput = status["goodput"]
    assert sum(goodput["seconds"].values()) == pytest.approx(goodput["sinceCreation"], abs=1.0)
    assert 0 < goodput["ratio"] <= 1
    return row


def test_a_job_runs_to_its_end_and_says_what_it_made(jobs: Jobs) -> None:
    jobs.create(tiny_job("plain", training={"maxSteps": 60}))
    status = jobs.await_condition("plain", "Complete")
    assert jobs.condition_is("plain", "Ready")
    assert status["progress"]["step"] == 60
    assert status["output"]["uri"].startswith("pvc://checkpoints/")
    assert status["checkpoints"][0]["step"] == 60
    assert status["plan"]["trainableParameters"] > 0
    assert status["plan"]["precision"] == "FP32"
    cost = status["cost"]
    # Two pods that ask for a tenth of a core each.
    assert (cost["currency"], Decimal(cost["gangRatePerHour"])) == ("EUR", 2 * 360)
    held = Decimal(str(cost["podSeconds"]))
    assert held > 0 and abs(Decimal(cost["total"]) - held / 10) < Decimal("0.0001")
    # Events follow the status write that they tell of.
    eventually(
        lambda: "Completed" in {reason for reason, _ in jobs.events("plain")}, "the event Completed", 30
    )


@pytest.mark.fault("F37")
def test_a_killed_rank_comes_back_in_place(jobs: Jobs, kill_rank: Any) -> None:
    jobs.create(tiny_job("rank-killed"))
    jobs.await_step("rank-killed", 40)
    pods = {pod.metadata.uid for pod in jobs.pods("rank-killed")}
    kill_rank("rank-killed", 1)
    row = assert_went_on(jobs, "rank-killed", "InPlace")
    assert row["firstFailed"]["rank"] == 1
    assert row["signal"] == 9
    assert {pod.metadata.uid for pod in jobs.pods("rank-killed")} == pods


def test_a_new_job_goes_on_where_a_failed_and_deleted_one_ended(jobs: Jobs, kill_rank: Any) -> None:
    none_left = {"backOffSeconds": 1, "budgets": {"crash": 0}}
    elder = jobs.create(tiny_job("elder", recovery=none_left, training={"maxSteps": 100_000}))
    jobs.await_step("elder", 60)
    eventually(lambda: jobs.status("elder").get("checkpoints"), "a verified checkpoint")
    kill_rank("elder", 1)
    kept = jobs.await_condition("elder", "Failed")["checkpoints"][0]
    jobs.delete("elder")
    eventually(lambda: jobs.get("elder") is None, "the object is gone")
    where = f"pvc://checkpoints/{jobs.namespace}/elder/{elder['metadata']['uid']}"
    last = kept["step"] + 60
    heir = tiny_job("heir", resume={"from": f"{where}/{kept['name']}"}, training={"maxSteps": last})
    jobs.create(heir)
    status = jobs.await_condition("heir", "Complete")
    assert status["resume"] == {"step": kept["step"], "name": f"step-{kept['step']:08d}.i0", "incarnation": 0}
    assert (status["progress"]["step"], status["checkpoints"][0]["step"]) == (last, last)
    assert not status.get("recoveries"), "to begin there is no recovery"
    assert sum(status["goodput"]["seconds"].values()) == pytest.approx(
        status["goodput"]["sinceCreation"], abs=1.0
    )


@pytest.mark.bad_input("B73")
def test_a_deleted_pod_is_replaced_and_the_gang_goes_on(jobs: Jobs) -> None:
    jobs.create(tiny_job("pod-deleted"))
    jobs.await_step("pod-deleted", 40)
    kept = jobs.pod_at("pod-deleted", 0)
    jobs.core.delete_namespaced_pod(jobs.pod_at("pod-deleted", 1).metadata.name, jobs.namespace)
    row = assert_went_on(jobs, "pod-deleted", "RecreatePod")
    assert row["lostSteps"] == 0, "a pod told to leave saves first"
    survivor = [pod for pod in jobs.pods("pod-deleted") if pod.metadata.uid == kept.metadata.uid]
    assert survivor, "the other pod stays"


def test_a_pod_that_vanishes_without_notice_is_replaced(jobs: Jobs) -> None:
    jobs.create(tiny_job("pod-vanished"))
    jobs.await_step("pod-vanished", 40)
    jobs.core.delete_namespaced_pod(
        jobs.pod_at("pod-vanished", 1).metadata.name, jobs.namespace, grace_period_seconds=0
    )
    assert_went_on(jobs, "pod-vanished", "RecreatePod")


@pytest.mark.fault("F18")
def test_a_gang_goes_on_alone_while_its_second_pod_cannot_be_had(jobs: Jobs) -> None:
    elastic = {"backOffSeconds": 1, "elastic": {"minNodes": 1, "waitSeconds": 3}}
    jobs.create(tiny_job("shrunk", training={"maxSteps": 100_000}, recovery=elastic))
    jobs.await_step("shrunk", 60)
    one_pod = {"metadata": {"name": "one-pod"}, "spec": {"hard": {"pods": "1"}}}
    jobs.core.create_namespaced_resource_quota(jobs.namespace, one_pod)
    try:
        jobs.core.delete_namespaced_pod(jobs.pod_at("shrunk", 1).metadata.name, jobs.namespace)
        assert jobs.await_condition("shrunk", "Shrunk")["nodes"] == 1
        eventually(lambda: recovery_rows(jobs, "shrunk")[-1]["rung"] == "Shrink", "the leader's own row")
        assert recovery_rows(jobs, "shrunk")[-1]["lostSteps"] == 0, "the pod saved before it went"
        assert "exceeded quota" in (jobs.condition("shrunk", "Shrunk") or {})["message"]
        assert jobs.condition_is("shrunk", "Running")
    finally:
        jobs.core.delete_namespaced_resource_quota("one-pod", jobs.namespace)
    jobs.await_condition("shrunk", "Shrunk", "False")
    status = jobs.status("shrunk")
    assert (status["nodes"], status["recoveries"][-1]["lostSteps"]) == (2, 0)


def test_a_deleted_leader_is_followed_by_one_with_a_higher_ticket(jobs: Jobs) -> None:
    jobs.create(tiny_job("leader-deleted"))
    jobs.await_step("leader-deleted", 40)
    before = jobs.status("leader-deleted")["gang"]["lastTicket"]
    jobs.core.delete_namespaced_pod(jobs.pod_at("leader-deleted", 0).metadata.name, jobs.namespace)
    assert_went_on(jobs, "leader-deleted", "RecreatePod")
    assert jobs.status("leader-deleted")["gang"]["lastTicket"] > before


@pytest.mark.fault("F1")
def test_the_operator_may_die_during_a_restart(
    jobs: Jobs, installation: Installation, kill_rank: Any
) -> None:
    jobs.create(tiny_job("operator-killed"))
    jobs.await_step("operator-killed", 40)
    kill_rank("operator-killed", 0)
    for pod in installation.operator_pods():
        jobs.core.delete_namespaced_pod(pod.metadata.name, installation.namespace, grace_period_seconds=0)
    assert_went_on(jobs, "operator-killed", "InPlace")


@pytest.mark.fault("F22")
def test_nothing_is_lost_of_a_run_that_ends_while_the_operator_is_away(
    jobs: Jobs, installation: Installation, kill_rank: Any
) -> None:
    """A rank is killed, the run goes on and ends, and only then does anybody come to hear of it."""
    jobs.create(tiny_job("unheard", training={"maxSteps": 400}))
    jobs.await_step("unheard", 40)
    leader = jobs.pod_at("unheard", 0)
    installation.scale(0)
    try:
        kill_rank("unheard", 1)
        ended = eventually(lambda: jobs.ended(leader), "the leader's end", 300)
    finally:
        installation.scale(2)
    row = assert_went_on(jobs, "unheard", "InPlace")
    status = jobs.status("unheard")
    assert (row["signal"], status["counters"]["restarts"], status["goodput"]["lostSteps"]) == (
        9,
        1,
        row["lostSteps"],
    )
    assert (status["progress"]["step"], status["checkpoints"][0]["step"]) == (400, 400)
    finished = datetime.fromisoformat(status["finishedAt"])
    # The kubelet's stamp has whole seconds; the leader's last word is before its end.
    assert abs((finished - ended).total_seconds()) <= 1
    assert status["goodput"]["sinceCreation"] == pytest.approx(
        (
            finished - datetime.fromisoformat(jobs.get("unheard")["metadata"]["creationTimestamp"])
        ).total_seconds(),
        abs=0.01,
    )


@pytest.mark.fault("F68")
def test_a_tracking_server_that_is_down_never_stops_training(jobs: Jobs) -> None:
    tracking = {"mlflow": {"uri": "http://no-such-server.invalid:5000", "experiment": "e2e"}}
    jobs.create(tiny_job("no-tracking", tracking=tracking, training={"maxSteps": 60}))
    jobs.await_condition("no-tracking", "Complete")
    row = jobs.condition("no-tracking", "TrackingDegraded")
    assert row is not None and row["status"] == "True" and row["reason"] == "TrackingUnreachable"


def test_suspend_saves_and_resume_goes_on_at_the_same_step(jobs: Jobs) -> None:
    jobs.create(tiny_job("paused"))
    jobs.await_step("paused", 40)
    jobs.patch("paused", {"suspend": True})
    status = jobs.await_condition("paused", "Suspended")
    eventually(lambda: not jobs.pods("paused"), "pods of a suspended job are gone")
    saved = status["checkpoints"][0]["step"]
    assert saved >= 40 - INTERVAL
    jobs.patch("paused", {"suspend": False})
    status = jobs.await_condition("paused", "Complete")
    assert status["goodput"]["lostSteps"] == 0
    assert status["goodput"]["seconds"]["suspended"] > 0


@pytest.mark.bad_input("B75")
def test_deleting_a_job_mid_run_leaves_no_children(jobs: Jobs) -> None:
    jobs.create(tiny_job("deleted"))
    jobs.await_step("deleted", 10)
    jobs.delete("deleted")
    eventually(lambda: jobs.get("deleted") is None, "the job is gone", 30)
    eventually(lambda: not jobs.pods("deleted"), "its pods are gone", 90)
    names = {row.metadata.name for row in jobs.core.list_namespaced_service(jobs.namespace).items}
    assert "deleted" not in names


def test_a_missing_file_fails_with_its_uri_and_does_not_loop(jobs: Jobs) -> None:
    manifest = tiny_job("no-data")
    manifest["spec"]["data"]["sources"] = [{"uri": "pvc://data/missing.jsonl", "format": "Chat"}]
    jobs.create(manifest)
    status = jobs.await_condition("no-data", "Failed")
    assert status["lastFailure"]["reason"] == "DataNotFound"
    assert "pvc://data/missing.jsonl" in status["lastFailure"]["message"]
    assert status["lastFailure"]["hint"]


def test_an_unreadable_row_is_named_by_file_line_and_reason(jobs: Jobs) -> None:
    (jobs.volumes / "data" / "broken.jsonl").write_text('{"messages": []}\n{"messages": \n')
    manifest = tiny_job("bad-row")
    manifest["spec"]["data"]["sources"] = [{"uri": "pvc://data/broken.jsonl", "format": "Chat"}]
    jobs.create(manifest)
    status = jobs.await_condition("bad-row", "Failed")
    assert status["lastFailure"]["reason"] == "DataUnreadable"
    assert "broken.jsonl" in status["lastFailure"]["message"]


@pytest.mark.bad_input("B49")
def test_a_missing_claim_is_a_condition_and_heals_when_it_appears(jobs: Jobs) -> None:
    jobs.create(tiny_job("late-claim", checkpoint={"store": "pvc://late"}, training={"maxSteps": 30}))
    row = eventually(lambda: jobs.condition("late-claim", "Stalled"), "a condition within seconds", 10)
    eventually(lambda: jobs.condition_is("late-claim", "Stalled"), "stalled", 10)
    row = jobs.condition("late-claim", "Stalled")
    assert row["reason"] == "ClaimNotFound" and "late" in row["message"]
    assert jobs.pods("late-claim") == []
    jobs.core.create_namespaced_persistent_volume_claim(
        jobs.namespace,
        {
            "metadata": {"name": "late"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    jobs.await_condition("late-claim", "Complete")


def test_two_operators_have_one_leader(jobs: Jobs, installation: Installation) -> None:
    leases = client.CoordinationV1Api(jobs.api).list_namespaced_lease(installation.namespace).items
    holders = {lease.spec.holder_identity for lease in leases if lease.spec.holder_identity}
    names = {pod.metadata.name for pod in installation.operator_pods()}
    assert len(names) == 2
    assert len([holder for holder in holders if any(name in holder for name in names)]) == 1
