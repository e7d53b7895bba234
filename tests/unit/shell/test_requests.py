"""How many requests a decision costs: what was checked or cannot change is not asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import KEY, Life, world
from unit.shell.test_act import a_map, a_pod, actor, job_of, pods
from windlass.api.meta import MANAGER
from windlass.core.decision import Decision
from windlass.core.names import ANNOTATION_DIGEST
from windlass.shell.act import PROOF_SECONDS
from windlass.shell.errors import Conflict
from windlass.shell.observe import Memory


@pytest_asyncio.fixture
async def life(api: FakeApi, hand: Hand) -> AsyncIterator[Life]:
    made = Life(api, hand)
    yield made
    await made.close()


def asked(api: FakeApi, method: str, part: str) -> int:
    return sum(one == method and part in path for one, path in api.requests)


@pytest.mark.parametrize(("status", "reads"), [({"incarnation": 1}, 0), (None, 1)])
async def test_pods_need_one_proof_that_the_job_is_as_it_was(
    api: FakeApi, life: Life, status: dict[str, Any] | None, reads: int
) -> None:
    world(api)
    job = job_of(api, life)
    api.requests.clear()
    creates = (a_pod("ft-0-1", job["metadata"]["uid"]),)
    await actor(life).act(job, Decision(status=status, creates=creates), Memory())
    assert pods(api) == ["ft-0-1"]
    assert asked(api, "GET", "finetunejobs/ft") == reads


async def test_no_pod_is_made_after_a_status_that_was_of_an_older_view(api: FakeApi, life: Life) -> None:
    body = world(api)
    job = job_of(api, life)
    api.put("finetunejobs", body | {"status": {"incarnation": 7}})
    creates = (a_pod("ft-0-1", job["metadata"]["uid"]),)
    with pytest.raises(Conflict):
        await actor(life).act(job, Decision(status={"incarnation": 1}, creates=creates), Memory())
    assert pods(api) == []


def fixed(name: str, uid: str) -> dict[str, Any]:
    return a_map(name, uid, run="x") | {"immutable": True}


async def test_what_is_not_there_is_made_by_one_request(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    api.requests.clear()
    decision = Decision(applies=(fixed("ft-config-1", uid), a_map("ft-ca", uid, ca="x")))
    await actor(life).act(job, decision, Memory())
    assert [method for method, _ in api.requests] == ["POST", "POST"]
    for name in ("ft-config-1", "ft-ca"):
        assert life.caches.children["ConfigMap"].get("team", name) is not None


async def test_one_that_an_earlier_life_made_is_taken_as_it_is(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    api.put("configmaps", fixed("ft-config-1", uid))
    memory = Memory()
    done = await actor(life).act(job, Decision(applies=(fixed("ft-config-1", uid),)), memory)
    assert not done.again and memory.strangers == {}
    assert asked(api, "PATCH", "configmaps") == 0
    assert life.caches.children["ConfigMap"].get("team", "ft-config-1") is not None


async def test_one_that_belongs_to_somebody_else_is_left_and_remembered(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    before = api.put("configmaps", fixed("ft-config-1", "another-uid"))
    version, memory = before["metadata"]["resourceVersion"], Memory()
    done = await actor(life).act(
        job, Decision(applies=(fixed("ft-config-1", job["metadata"]["uid"]),)), memory
    )
    assert done.again
    assert memory.strangers["ConfigMap", "ft-config-1"][1] == "another-uid"
    found = api.get("configmaps", "ft-config-1")
    assert found is not None and found["metadata"]["resourceVersion"] == version, "it was not touched"


async def test_one_whose_answer_was_lost_is_not_made_twice(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    api.faults.append(Fault("POST", "/configmaps", after=True, drop=True))
    done = await actor(life).act(job, Decision(applies=(fixed("ft-config-1", uid),)), Memory())
    assert not done.again
    assert [name for plural, _, name in api.objects if plural == "configmaps"] == ["ft-config-1"]


# --- objects that may change -----------------------------------------------------------------------


def rendered(name: str, uid: str, digest: str, **data: str) -> dict[str, Any]:
    body = a_map(name, uid, **data)
    body["metadata"]["annotations"] = {ANNOTATION_DIGEST: digest}
    return body


MADE_BY_POST = {"manager": MANAGER, "operation": "Update", "fieldsV1": {"f:data": {"f:ca": {}, "f:old": {}}}}


@pytest.mark.parametrize(
    ("digest", "data", "corrected"),
    [("d1", {"ca": "x"}, False), ("d0", {"ca": "w"}, True), ("d1", {"ca": "edited"}, True)],
    ids=["as it should be", "of an older operator", "edited by hand"],
)
async def test_one_that_an_earlier_life_made_is_corrected_before_any_pod(
    api: FakeApi, life: Life, digest: str, data: dict[str, str], corrected: bool
) -> None:
    """The cache does not show it yet: the operator that made it has just died."""
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    api.put("configmaps", rendered("ft-ca", uid, digest, **data))
    creates = (a_pod("ft-0-1", uid),)
    decision = Decision(applies=(rendered("ft-ca", uid, "d1", ca="x"),), creates=creates)
    done = await actor(life).act(job, decision, Memory())
    found = api.get("configmaps", "ft-ca")
    assert found is not None and found["data"]["ca"] == "x" and not done.again
    writes = [method for method, path in api.writes() if "configmaps" in path]
    assert writes == (["POST", "PATCH"] if corrected else ["POST"])
    assert pods(api) == ["ft-0-1"]


@pytest.mark.parametrize("operation", ["Update", "Apply"])
async def test_what_a_post_made_counts_as_applied_before_it_is_applied_over(
    api: FakeApi, life: Life, operation: str
) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    body = rendered("ft-ca", uid, "d0", ca="w")
    body["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "windlass"}
    body["metadata"]["managedFields"] = [MADE_BY_POST | {"operation": operation}]
    api.put("configmaps", body)
    job = job_of(api, life)
    api.requests.clear()
    api.bodies.clear()
    await actor(life).act(job, Decision(applies=(rendered("ft-ca", uid, "d1", ca="x"),)), Memory())
    by_hand = [body["metadata"].get("managedFields") for body in api.bodies]
    if operation == "Update":
        assert by_hand == [[MADE_BY_POST | {"operation": "Apply"}], None]
        assert [method for method, _ in api.requests] == ["GET", "PATCH", "PATCH"]
    else:
        assert by_hand == [None] and [method for method, _ in api.requests] == ["GET", "PATCH"]


async def test_an_object_that_changes_while_its_owner_is_noted_makes_the_round_stale(
    api: FakeApi, life: Life
) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    body = rendered("ft-ca", uid, "d0", ca="w")
    body["metadata"]["managedFields"] = [MADE_BY_POST]
    api.put("configmaps", body)
    job = job_of(api, life)
    api.faults.append(Fault("PATCH", "ft-ca", 409, reason="Conflict", message="changed", times=1))
    with pytest.raises(Conflict):
        await actor(life).act(job, Decision(applies=(rendered("ft-ca", uid, "d1", ca="x"),)), Memory())
    found = api.get("configmaps", "ft-ca")
    assert found is not None and found["data"] == {"ca": "w"}


@pytest.mark.parametrize("owner", ["another-uid", None])
async def test_a_cached_object_of_somebody_else_is_never_applied_over(
    api: FakeApi, life: Life, owner: str | None
) -> None:
    world(api)
    uid = job_of(api, life)["metadata"]["uid"]
    body = rendered("ft-ca", owner or "", "d0", ca="theirs")
    if owner is None:
        del body["metadata"]["ownerReferences"]
    api.put("configmaps", body)
    memory, job = Memory(), job_of(api, life)
    done = await actor(life).act(job, Decision(applies=(rendered("ft-ca", uid, "d1", ca="x"),)), memory)
    assert done.again and memory.strangers["ConfigMap", "ft-ca"][1] == owner
    assert api.writes() == []


async def test_one_that_is_gone_and_still_cached_is_made_anew(api: FakeApi, life: Life) -> None:
    world(api)
    uid = job_of(api, life)["metadata"]["uid"]
    api.put("configmaps", rendered("ft-ca", uid, "d0", ca="w"))
    job = job_of(api, life)
    api.remove("configmaps", "team", "ft-ca")
    await actor(life).act(job, Decision(applies=(rendered("ft-ca", uid, "d1", ca="x"),)), Memory())
    found = api.get("configmaps", "ft-ca")
    assert found is not None and found["data"] == {"ca": "x"}


# --- what a write proves ---------------------------------------------------------------------------

GANG = {"gang": {"attempt": 1, "lastTicket": 1, "members": [{"index": 0, "ticket": 1}]}}


@pytest.mark.parametrize(
    ("seconds", "changed", "reads"),
    [(0.0, False, 0), (PROOF_SECONDS - 0.1, False, 0), (PROOF_SECONDS, False, 1), (0.0, True, 1)],
    ids=["at once", "just in time", "too late", "the job has changed since"],
)
async def test_the_round_after_new_tickets_need_not_ask_who_the_job_is(
    api: FakeApi, hand: Hand, life: Life, seconds: float, changed: bool, reads: int
) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    assert (await actor(life).act(job, Decision(status=GANG), memory)).again
    hand.at += seconds
    if changed:
        found = api.get("finetunejobs", "ft")
        assert found is not None
        api.put("finetunejobs", found)
        life.load()
    job = life.caches.jobs.get(("FineTuneJob", "team", "ft"))
    assert job is not None
    api.requests.clear()
    await actor(life).act(job, Decision(creates=(a_pod("ft-0-1", job["metadata"]["uid"]),)), memory)
    assert pods(api) == ["ft-0-1"] and asked(api, "GET", "finetunejobs/ft") == reads


async def test_another_operators_memory_proves_nothing(api: FakeApi, life: Life) -> None:
    world(api)
    await actor(life).act(job_of(api, life), Decision(status=GANG), Memory())
    job = job_of(api, life)
    await actor(life).act(job, Decision(creates=(a_pod("ft-0-1", job["metadata"]["uid"]),)), Memory())
    assert asked(api, "GET", "finetunejobs/ft") == 1


async def test_a_gang_from_nothing_costs_one_status_write_and_no_read_before_its_last_pod(
    api: FakeApi, life: Life
) -> None:
    world(api)
    life.load()
    life.queue.add(KEY)
    while len(pods(api)) < 2:
        key = life.queue.take()
        assert key is not None, "tickets bring the job back at once"
        await life.reconciler.attempt(key)
        life.queue.done(key)
    before_last = api.requests[: max(n for n, one in enumerate(api.requests) if one[1].endswith("/pods")) + 1]
    counted = Counter(
        (method, path.rsplit("/", 1)[1]) for method, path in before_last if "/events" not in path
    )
    assert counted == {
        ("PUT", "status"): 1,
        ("POST", "configmaps"): 2,
        ("POST", "services"): 1,
        ("POST", "networkpolicies"): 1,
        ("POST", "pods"): 2,
    }
