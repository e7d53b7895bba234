"""Queues in the shell: what is kept of a pod, and groups that are let go, of a job and of one that is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unit.shell import life as lives
from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import KEY, Life, world
from windlass.core.observed import PodView
from windlass.shell.cache import slim_pod

QUEUE = {"queue": {"kind": "Kueue", "name": "team-a"}}
MANAGED = "kueue.x-k8s.io/managed"


@pytest.fixture(autouse=True)
def enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "SETTINGS", replace(lives.SETTINGS, kueue=True))


def pods(api: FakeApi) -> list[dict[str, Any]]:
    return [body for (plural, _, _), body in sorted(api.objects.items()) if plural == "pods"]


def workloads(api: FakeApi) -> list[str]:
    return [
        path.rsplit("/", 1)[1]
        for method, path in api.requests
        if method == "DELETE" and "/workloads/" in path
    ]


def mark_all(api: FakeApi) -> None:
    """The webhook's finalizer, and a delete that it holds up."""
    for body in pods(api):
        body["metadata"]["finalizers"] = [MANAGED]
        body["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:30Z"
        api.put("pods", body)


async def queued(api: FakeApi, hand: Hand) -> Life:
    """A life with two pods at their gates."""
    world(api, scheduling=QUEUE)
    life = Life(api, hand)
    for _ in range(4):
        hand.at += 1
        life.load()
        await life.settle()
    assert len(pods(api)) == 2
    return life


async def rounds(life: Life, hand: Hand) -> None:
    """Some rounds, one by one: Kueue is not there to let the pods go, so that none of them is the last."""
    for _ in range(3):
        hand.at += 30
        life.load()
        await life.reconciler.attempt(KEY)


def group(api: FakeApi, uid: str = "") -> str:
    job = api.get("finetunejobs", "ft")
    return f"ft-{(uid or (job or {})['metadata']['uid'])[:8]}-1"


def test_what_a_queue_sets_stays_in_a_slim_pod() -> None:
    body = {
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "u",
            "finalizers": [MANAGED],
            "labels": {"kueue.x-k8s.io/pod-group-name": "g"},
        },
        "spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}], "containers": []},
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "TerminationTarget", "status": "True", "reason": "WorkloadEvicted"}],
        },
    }
    view = PodView.from_wire(slim_pod(body))
    assert view == PodView.from_wire(body)
    assert (view.is_gated, view.is_held, view.in_group, view.disruption) == (
        True,
        True,
        True,
        "WorkloadEvicted",
    )
    assert slim_pod(slim_pod(body)) == slim_pod(body)


async def test_a_suspended_gang_at_its_gates_leaves_its_queue(api: FakeApi, hand: Hand) -> None:
    life = await queued(api, hand)
    mark_all(api)
    job = api.get("finetunejobs", "ft")
    assert job is not None
    job["spec"]["suspend"] = True
    api.put("finetunejobs", job)
    await rounds(life, hand)
    assert set(workloads(api)) == {group(api)}
    assert any(
        "preconditions" in body and body["preconditions"] == {}
        for body in api.bodies
        if isinstance(body, dict)
    )
    await life.close()


async def test_a_gang_that_waits_is_left_in_its_queue(api: FakeApi, hand: Hand) -> None:
    life = await queued(api, hand)
    await rounds(life, hand)
    assert workloads(api) == []
    await life.close()


@pytest.mark.parametrize("restarted", [False, True], ids=["same operator", "restarted operator"])
async def test_pods_of_a_job_that_is_gone_leave_their_queue(
    api: FakeApi, hand: Hand, restarted: bool
) -> None:
    life = await queued(api, hand)
    job = api.get("finetunejobs", "ft")
    assert job is not None
    uid = job["metadata"]["uid"]
    mark_all(api)
    del api.objects["finetunejobs", "team", "ft"]
    if restarted:
        await life.close()
        life = Life(api, hand)
    life.caches.jobs.drop(job | {"metadata": job["metadata"] | {"resourceVersion": "999999"}})
    life.load()
    assert await life.reconciler.round(KEY) == "written"
    assert set(workloads(api)) == {group(api, uid)}
    await life.close()


async def test_pods_of_a_job_whose_name_was_taken_again_leave_their_queue(api: FakeApi, hand: Hand) -> None:
    """Deleted and applied anew at once: the garbage collector comes to the pods when the name is another job's."""
    life = await queued(api, hand)
    former = api.get("finetunejobs", "ft")
    assert former is not None
    uid = former["metadata"]["uid"]
    del api.objects["finetunejobs", "team", "ft"]
    world(api, scheduling=QUEUE)
    life.load()
    await life.reconciler.attempt(KEY)
    assert workloads(api) == [], "its pods are still to be deleted"
    mark_all(api)
    life.load()
    await life.reconciler.attempt(KEY)
    assert workloads(api) == [group(api, uid)]
    for key in [key for key in api.objects if key[0] not in ("finetunejobs", "persistentvolumeclaims")]:
        del api.objects[key]
    for _ in range(4):
        hand.at += 60
        life.load()
        await life.settle()
    assert workloads(api) == [group(api, uid)]
    assert len(pods(api)) == 2, "the names are free for the new one"
    await life.close()


@pytest.mark.parametrize("spoilt", ["no queue", "not leaving", "another job", "not set up"])
async def test_nothing_is_let_go_for_a_job_that_is_gone_without_need(
    api: FakeApi, hand: Hand, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = await queued(api, hand)
    job = api.get("finetunejobs", "ft")
    assert job is not None
    if spoilt != "not leaving":
        mark_all(api)
    for body in pods(api):
        if spoilt == "no queue":
            body["metadata"]["labels"].pop("kueue.x-k8s.io/pod-group-name")
        if spoilt == "another job":
            body["metadata"]["labels"]["windlass.dev/run"] = "other"
        api.put("pods", body)
    if spoilt == "not set up":
        monkeypatch.setattr(lives, "SETTINGS", replace(lives.SETTINGS, kueue=False))
    del api.objects["finetunejobs", "team", "ft"]
    life.caches.jobs.drop(job | {"metadata": job["metadata"] | {"resourceVersion": "999999"}})
    life.load()
    assert await life.reconciler.round(KEY) == "gone"
    assert workloads(api) == []
    await life.close()


async def test_a_failed_release_is_tried_again(api: FakeApi, hand: Hand) -> None:
    life = await queued(api, hand)
    job = api.get("finetunejobs", "ft")
    assert job is not None
    mark_all(api)
    del api.objects["finetunejobs", "team", "ft"]
    life.caches.jobs.drop(job | {"metadata": job["metadata"] | {"resourceVersion": "999999"}})
    life.load()
    api.faults.append(
        Fault("DELETE", "workloads", 403, reason="Forbidden", message='cannot delete resource "workloads"')
    )
    await life.reconciler.attempt(KEY)
    await rounds(life, hand)
    assert len(workloads(api)) >= 2
    await life.close()
