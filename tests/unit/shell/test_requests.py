"""How many requests a decision costs: what was checked or cannot change is not asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import Life, world
from unit.shell.test_act import a_map, a_pod, actor, job_of, pods
from windlass.core.decision import Decision
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


async def test_what_never_changes_is_made_by_one_request(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    api.requests.clear()
    decision = Decision(applies=(fixed("ft-config-1", uid), a_map("ft-ca", uid, ca="x")))
    await actor(life).act(job, decision, Memory())
    assert asked(api, "POST", "configmaps") == 1 and asked(api, "GET", "ft-config-1") == 0
    assert asked(api, "PATCH", "ft-ca") == 1 and asked(api, "GET", "ft-ca") == 1
    assert life.caches.children["ConfigMap"].get("team", "ft-config-1") is not None


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
