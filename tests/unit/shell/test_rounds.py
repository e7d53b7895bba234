"""Rounds: the order of writes, staleness, refusals, drift, rest, and a crash at every write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import KEY, Life, world
from unit.shell.test_client import Crash, KillAt
from windlass.api.meta import Reason
from windlass.core.decision import Decision
from windlass.shell.act import classify
from windlass.shell.errors import Forbidden, Invalid
from windlass.shell.observe import contains
from windlass.shell.reconciler import Reconciler

CONTAINER = {"name": "agent"}


@pytest_asyncio.fixture
async def life(api: FakeApi, hand: Hand) -> AsyncIterator[Life]:
    made = Life(api, hand)
    yield made
    await made.close()


def status(api: FakeApi) -> dict[str, Any]:
    return (api.get("finetunejobs", "ft") or {}).get("status") or {}


def condition(api: FakeApi, type: str = "Ready") -> dict[str, Any]:
    return next((item for item in status(api).get("conditions", []) if item["type"] == type), {})


def pods(api: FakeApi) -> list[str]:
    return sorted(name for plural, _, name in api.objects if plural == "pods")


def set_state(api: FakeApi, name: str, state: dict[str, Any], phase: str) -> None:
    pod = api.get("pods", name)
    assert pod is not None
    pod["spec"]["nodeName"] = "node-1"
    pod["status"] = {"phase": phase, "podIP": "1.2.3.4", "containerStatuses": [CONTAINER | {"state": state}]}
    api.put("pods", pod)


def run(api: FakeApi, name: str) -> None:
    set_state(api, name, {"running": {"startedAt": "2026-11-23T12:00:05Z"}}, "Running")


def succeed(api: FakeApi, name: str) -> None:
    message = json.dumps({"result": "Succeeded", "step": 40, "incarnation": 1})
    ended = {"exitCode": 0, "reason": "Completed", "message": message, "finishedAt": "2026-11-23T12:00:09Z"}
    set_state(api, name, {"terminated": ended}, "Succeeded")


async def step(life: Life) -> None:
    life.load()
    await life.settle()


async def test_tickets_are_stored_before_any_pod_is_made(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    writes = [(method, path.rsplit("/", 1)[1] if method == "POST" else path) for method, path in api.writes()]
    first_pod = writes.index(("POST", "pods"))
    statuses = [index for index, (_, path) in enumerate(writes) if path.endswith("/status")]
    assert statuses[0] < first_pod
    assert pods(api) == ["ft-0-1", "ft-1-2"]
    assert status(api)["gang"]["lastTicket"] == 2


async def test_at_rest_nothing_is_written(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    run(api, "ft-0-1")
    run(api, "ft-1-2")
    await step(life)
    before = len(api.writes())
    for _ in range(5):
        await step(life)
    assert len(api.writes()) == before


async def test_a_fresh_process_writes_nothing_at_rest_either(api: FakeApi, hand: Hand, life: Life) -> None:
    world(api)
    await step(life)
    before = len(api.writes())
    second = Life(api, hand)
    await step(second)
    assert len(api.writes()) == before
    await second.close()


@pytest.mark.fault("F17")
async def test_pods_are_not_made_on_a_stale_view(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    stale = life.caches.jobs.get(("FineTuneJob", "team", "ft"))
    assert stale is not None
    for name in ("ft-0-1", "ft-1-2"):
        api.remove("pods", "team", name)
    body = api.get("finetunejobs", "ft")
    assert body is not None
    moved = json.loads(json.dumps(body))
    moved["status"]["gang"] = {"attempt": 2, "lastTicket": 4, "members": []}
    api.put("finetunejobs", moved)
    for pod in list(life.caches.pods):
        life.caches.pods.drop(pod["metadata"] and pod)
    await life.reconciler.attempt(KEY)
    assert pods(api) == []


async def test_a_pod_is_told_to_go_once(api: FakeApi, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next round may come before the watch does: what a delete answers is what is known of the pod."""
    world(api)
    await step(life)
    for name in pods(api):
        run(api, name)
    await step(life)

    def gracefully(key: tuple[str, str, str], present: dict[str, Any], body: dict[str, Any]) -> web.Response:
        present["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:40Z"
        return web.json_response(api.put(key[0], present))

    monkeypatch.setattr(api, "delete", gracefully)
    job = api.get("finetunejobs", "ft")
    assert job is not None
    job["spec"]["suspend"] = True
    api.put("finetunejobs", job)
    life.load()
    life.hand.at += 3600
    for _ in range(4):
        await life.reconciler.attempt(KEY)
    deleted = [path for method, path in api.requests if method == "DELETE" and "/pods/" in path]
    assert len(deleted) == len(set(deleted)) == 2


async def test_no_timer_keeps_a_worker_busy_for_good(life: Life, api: FakeApi) -> None:
    """Neither does a queue that always has a key: others of the loop have their turn after each round."""
    world(api)
    life.load()
    turns = 0
    rounds: list[int] = []

    def again(*_: Any) -> Decision:
        rounds.append(turns)
        if len(rounds) > 1000:
            life.queue.close()  # it has kept all others away: fail rather than hang
        life.queue.add(KEY)
        return Decision(requeue_after_seconds=0.0)

    restless = Reconciler(
        queue=life.queue,
        observer=life.observer,
        actor=life.reconciler._actor,
        metrics=life.metrics,
        decide=again,
        clock=life.hand.clock(),
    )
    life.queue.add(KEY)
    worker = asyncio.create_task(restless.work())
    for _ in range(50):
        await asyncio.sleep(0)
        turns += 1
    life.queue.close()
    await worker
    assert len(set(rounds)) > 10
    assert (life.queue.seconds_until_next() or 0.0) >= 0.1


@pytest.mark.fault("F17")
async def test_a_pod_that_changed_since_it_was_seen_is_not_deleted(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    body = api.get("finetunejobs", "ft")
    assert body is not None
    body["spec"]["suspend"] = True
    api.put("finetunejobs", body)
    life.load()
    api.put("pods", api.get("pods", "ft-0-1") or {})
    await life.reconciler.attempt(KEY)
    assert "ft-0-1" in pods(api)
    await step(life)
    assert pods(api) == []


async def test_a_job_deleted_meanwhile_gets_no_pods(api: FakeApi, life: Life) -> None:
    world(api)
    await life.reconciler.attempt(KEY)
    api.remove("finetunejobs", "team", "ft")
    for _ in range(5):
        await life.reconciler.attempt(KEY)
    assert pods(api) == []


async def test_a_job_of_the_same_name_starts_afresh(api: FakeApi, life: Life) -> None:
    first = world(api)
    await step(life)
    memory = life.observer.memory(first["metadata"]["uid"])
    api.remove("finetunejobs", "team", "ft")
    for name in pods(api):
        api.remove("pods", "team", name)
    await step(life)
    second = world(api)
    await step(life)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert life.observer.memory(first["metadata"]["uid"]) is not memory


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'pods "ft-0-1" is forbidden: exceeded quota: small, requested: pods=1', "QuotaExceeded"),
        (
            403,
            'pods "ft-0-1" is forbidden: maximum memory usage per Pod is 1Gi, but limit is 4Gi',
            "QuotaExceeded",
        ),
        (
            403,
            'pods "ft-0-1" is forbidden: violates PodSecurity "restricted:latest": hostPath',
            "PodSecurityDenied",
        ),
        (403, 'admission webhook "x" denied the request: no', "PodSecurityDenied"),
        (422, 'Pod "ft-0-1" is invalid: spec.containers[0].image: Required value', "InvalidSpec"),
    ],
)
async def test_a_refusal_becomes_a_condition_and_passes(
    api: FakeApi, hand: Hand, life: Life, code: int, message: str, reason: str
) -> None:
    world(api)
    api.faults.append(Fault("POST", "/pods", code, reason="Forbidden", message=message))
    await step(life)
    assert condition(api)["reason"] == reason
    assert condition(api, "Stalled")["status"] == "True"
    assert message[:40] in condition(api)["message"]
    hand.at += 600
    await step(life)
    assert pods(api) == ["ft-0-1", "ft-1-2"]
    assert condition(api, "Stalled")["status"] == "False"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Forbidden(403, "Forbidden", 'pods is forbidden: User "x" cannot create resource "pods"'), None),
        (
            Forbidden(
                403, "Forbidden", "unable to create new content in namespace x because it is being terminated"
            ),
            None,
        ),
        (
            Forbidden(403, "Forbidden", "pods is forbidden: failed quota: q: must specify cpu"),
            Reason.QUOTA_EXCEEDED,
        ),
        (Invalid(422, "Invalid", "spec: wrong"), Reason.INVALID_SPEC),
        (Forbidden(403, "Forbidden", "for no reason given"), None),
    ],
)
def test_who_is_to_blame_for_a_refusal(error: Any, reason: Reason | None) -> None:
    assert classify(error) == reason


async def test_a_lack_of_rights_is_retried_not_blamed_on_the_job(api: FakeApi, life: Life) -> None:
    world(api)
    fault = Fault("POST", "/pods", 403, message='User "operator" cannot create resource "pods"', times=1)
    api.faults.append(fault)
    await step(life)
    assert life.queue.seconds_until_next() is not None
    assert condition(api, "Stalled").get("status") != "True"


@pytest.mark.bad_input("B72")
async def test_an_edited_object_is_put_right_and_a_defaulted_one_left(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    service = api.get("services", "ft")
    assert service is not None
    service["spec"]["clusterIPs"] = ["None"]
    service["spec"]["ports"][0]["nodePort"] = 0
    api.put("services", service)
    before = len(api.writes())
    await step(life)
    assert len(api.writes()) == before, "defaults of the server are no drift"
    service["spec"]["publishNotReadyAddresses"] = False
    api.put("services", service)
    await step(life)
    assert (api.get("services", "ft") or {})["spec"]["publishNotReadyAddresses"] is True


async def test_a_foreign_object_is_seen_and_its_removal_too(api: FakeApi, hand: Hand, life: Life) -> None:
    foreign = {
        "metadata": {"name": "ft", "namespace": "team", "labels": {}},
        "spec": {"selector": {"app": "web"}},
    }
    api.put("services", foreign)
    world(api)
    life.load()
    life.caches.children["Service"].drop(foreign)
    await life.settle_without_load()
    assert condition(api)["reason"] == "ObjectConflict"
    assert (api.get("services", "ft") or {})["spec"] == {"selector": {"app": "web"}}
    api.remove("services", "team", "ft")
    hand.at += 10
    await life.settle_without_load()
    assert "ft-0-1" in pods(api)


@pytest.mark.parametrize(
    ("actual", "wanted", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        ({}, {"a": None}, False),
        (None, {}, False),
        ({"a": "x"}, {"a": {"b": 1}}, False),
    ],
)
def test_what_counts_as_contained(actual: Any, wanted: Any, same: bool) -> None:
    assert contains(actual, wanted) is same


# --- a crash at every write -----------------------------------------------------------------------


def all_run(api: FakeApi) -> None:
    for name in pods(api):
        if (api.get("pods", name) or {}).get("status", {}).get("phase") != "Running":
            run(api, name)


def lose_pod(api: FakeApi) -> None:
    for name in pods(api):
        if name.startswith("ft-1-"):
            api.remove("pods", "team", name)


def suspend(api: FakeApi) -> None:
    body = api.get("finetunejobs", "ft")
    assert body is not None
    body["spec"]["suspend"] = True
    api.put("finetunejobs", body)


def resume(api: FakeApi) -> None:
    body = api.get("finetunejobs", "ft")
    assert body is not None
    body["spec"]["suspend"] = False
    api.put("finetunejobs", body)


def all_succeed(api: FakeApi) -> None:
    for name in pods(api):
        succeed(api, name)


Scenario = tuple[Callable[[FakeApi], None], ...]
SCENARIOS: dict[str, Scenario] = {
    "succeed": (all_run, all_succeed),
    "pod lost": (all_run, lose_pod, all_run),
    "suspend and resume": (all_run, suspend, resume, all_run),
}


async def play(api: FakeApi, hand: Hand, scenario: Scenario, kill: KillAt | None) -> tuple[int, bool]:
    """Play a scenario; a killed process is followed by a fresh one. Returns writes of the first, and if it died."""
    world(api)
    life = Life(api, hand, perturbation=kill)
    crashed = False
    for event in (lambda _: None, *scenario):
        event(api)
        for _ in range(4):
            # Back-off and refusals pass; the fake has no kubelet that would need time.
            hand.at += 30
            life.load()
            try:
                await life.settle()
            except Crash:
                crashed = True
                await life.close()
                life = Life(api, hand)
            check_always(api)
    writes = life.client.writes
    await life.close()
    return writes, crashed


def check_always(api: FakeApi) -> None:
    """What no crash may break: pods only of stored tickets, at most one pod of an index that is no leftover."""
    stored = status(api).get("gang") or {}
    for name in pods(api):
        assert int(name.rsplit("-", 1)[1]) <= stored.get("lastTicket", 0), (
            "a pod with a ticket that was never stored"
        )
    tickets = [one["ticket"] for one in stored.get("members") or []]
    assert len(tickets) == len(set(tickets))


def ending(api: FakeApi) -> dict[str, Any]:
    """What is compared between a perturbed and an undisturbed play."""
    gang = status(api).get("gang") or {}
    return {
        "ready": condition(api).get("reason"),
        "complete": condition(api, "Complete").get("status"),
        "attempt": gang.get("attempt"),
        "indices": [one["index"] for one in gang.get("members") or []],
        "pods": len(pods(api)),
        "services": sum(plural == "services" for plural, _, _ in api.objects),
        "configmaps": sum(plural == "configmaps" for plural, _, _ in api.objects),
        "policies": sum(plural == "networkpolicies" for plural, _, _ in api.objects),
    }


@pytest.mark.fault("F16")
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_a_crash_at_any_write_ends_in_the_same_state(hand: Hand, name: str, after: bool) -> None:
    scenario = SCENARIOS[name]
    undisturbed = await FakeApi().start()
    writes, _ = await play(undisturbed, Hand(), scenario, None)
    wanted = ending(undisturbed)
    await undisturbed.stop()
    assert writes > 5
    for index in range(1, writes + 1):
        api = await FakeApi().start()
        _, crashed = await play(api, Hand(), scenario, KillAt(index, after=after))
        found = ending(api)
        await api.stop()
        assert crashed, f"write {index} never happened"
        assert found == wanted, f"crash at write {index}"
