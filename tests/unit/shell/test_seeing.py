"""What a round may look at: drift, strangers, warnings of slow pods, and what is remembered between rounds."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import Life, world
from unit.shell.test_senders import report
from windlass.core.observed import Job, Observed, PodView
from windlass.shell.observe import (
    STARTING_SECONDS,
    STRANGER_SECONDS,
    Memory,
    contains,
    has_drifted,
    is_placed_and_waiting,
)
from windlass.shell.warnings import WARNING_SECONDS


@pytest_asyncio.fixture
async def life(api: FakeApi, hand: Hand) -> AsyncIterator[Life]:
    made = Life(api, hand)
    yield made
    await made.close()


async def started(api: FakeApi, life: Life) -> None:
    world(api)
    life.load()
    await life.settle()
    life.load()


def job_in(life: Life) -> Job:
    body = life.caches.jobs.get(("FineTuneJob", "team", "ft"))
    assert body is not None
    return Job.from_wire(body)


async def look(life: Life) -> Observed:
    return await life.observer.observe(job_in(life))


def digest_of(seen: Observed, kind: str) -> str | None:
    return next(item.digest for item in seen.objects if item.kind == kind)


# --- the job ---------------------------------------------------------------------------------------


async def test_a_spec_is_read_once_for_each_generation(api: FakeApi, life: Life) -> None:
    world(api)
    life.load()
    body = copy.deepcopy(life.caches.jobs.get(("FineTuneJob", "team", "ft"))) or {}
    memory = Memory()
    first = memory.job(body)
    body["status"] = {"incarnation": 3}
    again = memory.job(body)
    assert again == Job.from_wire(body) and again.status.incarnation == 3
    assert again.spec is first.spec
    body["metadata"]["generation"] += 1
    body["spec"]["suspend"] = True
    changed = memory.job(body)
    assert changed.spec is not None and changed.spec.suspend and changed == Job.from_wire(body)


@pytest.mark.parametrize(
    "change",
    [{"spec": {"model": 1}}, {"status": {"finishedAt": "2026-11-23T12:00:00Z"}}],
    ids=["broken", "ended"],
)
async def test_a_spec_that_is_broken_or_of_an_ended_job_is_not_remembered(
    api: FakeApi, life: Life, change: dict[str, Any]
) -> None:
    world(api)
    life.load()
    body = copy.deepcopy(life.caches.jobs.get(("FineTuneJob", "team", "ft"))) or {}
    memory = Memory()
    memory.job(body)
    body |= change
    body["metadata"]["generation"] += "spec" in change
    assert memory.job(body) == Job.from_wire(body)
    assert memory.spec is None


# --- drift -----------------------------------------------------------------------------------------

EDITS: list[tuple[str, str, Any, bool]] = [
    ("services", "spec.publishNotReadyAddresses", False, True),
    ("services", "spec.selector", {"app": "web"}, True),
    ("services", "spec.ports", [], True),
    ("services", "spec.clusterIPs", ["None"], False),
    ("services", "spec.sessionAffinity", "None", False),
    ("services", "metadata.labels.team", "x", False),
    ("services", "metadata.labels.windlass~dev/run", "other", True),
    ("networkpolicies", "spec.ingress", [{}], True),
    ("networkpolicies", "spec.policyTypes", ["Ingress", "Egress"], True),
    ("networkpolicies", "spec.egress", [{}], False),
    ("configmaps", "data.ca~crt", "forged", True),
    ("configmaps", "data.more", "x", False),
]
KINDS = {"services": "Service", "networkpolicies": "NetworkPolicy", "configmaps": "ConfigMap"}
NAMES = {"services": "ft", "networkpolicies": "ft", "configmaps": "ft-ca"}


def edit(body: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = (part.replace("~", ".") for part in path.split("."))
    for part in parents:
        body = body.setdefault(part, {})
    body[last] = value


@pytest.mark.bad_input("B72")
@pytest.mark.parametrize(
    ("plural", "path", "value", "drifts"), EDITS, ids=[f"{row[0]} {row[1]}" for row in EDITS]
)
async def test_which_edits_are_drift(
    api: FakeApi, life: Life, plural: str, path: str, value: Any, drifts: bool
) -> None:
    await started(api, life)
    name = NAMES[plural]
    body = copy.deepcopy(api.get(plural, name))
    assert body is not None
    edit(body, path, value)
    api.put(plural, body)
    life.load()
    seen = await look(life)
    view = next(item for item in seen.objects if (item.kind, item.name) == (KINDS[plural], name))
    assert (view.digest is None) is drifts


async def test_another_rendering_is_no_drift_but_another_digest(api: FakeApi, life: Life) -> None:
    await started(api, life)
    body = copy.deepcopy(api.get("services", "ft"))
    assert body is not None
    body["metadata"]["annotations"]["windlass.dev/digest"] = "of-an-older-operator"
    api.put("services", body)
    life.load()
    assert digest_of(await look(life), "Service") == "of-an-older-operator"


def test_immutable_configuration_cannot_drift() -> None:
    intent = {"metadata": {"annotations": {}, "labels": {}}, "data": {"run.json": "x"}}
    body = {"metadata": {"annotations": {}}, "immutable": True}
    assert not has_drifted(intent, body)
    assert has_drifted(intent, body | {"immutable": False})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(PLAIN, st.dictionaries(st.sampled_from("pq"), PLAIN, max_size=2))
def test_what_a_server_adds_is_contained_and_what_it_lacks_is_not(wanted: Any, added: dict[str, Any]) -> None:
    def with_more(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_more(one) for key, one in value.items()} | added
        return [with_more(one) for one in value] if isinstance(value, list) else value

    assert contains(wanted, wanted)
    assert contains(with_more(wanted), wanted)
    if isinstance(wanted, dict) and wanted:
        gone = dict(wanted)
        gone.popitem()
        assert not contains(gone, wanted)


# --- warnings --------------------------------------------------------------------------------------


def slow_pod(api: FakeApi, name: str = "ft-0-1") -> dict[str, Any]:
    pod = copy.deepcopy(api.get("pods", name))
    assert pod is not None
    pod["spec"]["nodeName"] = "node-1"
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": "agent", "state": {"waiting": {}}}]}
    return api.put("pods", pod)


def warn(
    api: FakeApi, uid: str, note: str, *, reason: str = "FailedMount", at: str = "2026-11-23T12:00:05Z"
) -> None:
    name = f"{uid}.{len(api.objects)}"
    body = {
        "metadata": {"name": name, "namespace": "team"},
        "type": "Warning",
        "reason": reason,
        "note": note,
        "regarding": {"uid": uid},
        "eventTime": at,
    }
    api.put("events", body)


async def test_a_pod_that_is_slow_to_start_is_asked_about(api: FakeApi, hand: Hand, life: Life) -> None:
    await started(api, life)
    pod = slow_pod(api)
    warn(api, pod["metadata"]["uid"], "MountVolume.SetUp failed")
    life.load()
    before = len(api.requests)
    seen = await look(life)
    assert all(each.warning is None for each in seen.pods) and len(api.requests) == before
    assert life.observer.must_look_again(job_in(life).uid)
    hand.at += STARTING_SECONDS + 1
    seen = await look(life)
    assert [each.warning for each in seen.pods if each.name == "ft-0-1"] == ["MountVolume.SetUp failed"]
    asked = len(api.requests)
    await look(life)
    assert len(api.requests) == asked, "not again at once"
    hand.at += WARNING_SECONDS
    await look(life)
    assert len(api.requests) == asked + 1


async def test_a_pod_that_runs_at_last_is_not_asked_about_any_more(
    api: FakeApi, hand: Hand, life: Life
) -> None:
    await started(api, life)
    pod = slow_pod(api)
    warn(api, pod["metadata"]["uid"], "x")
    hand.at += 60
    life.load()
    await look(life)
    assert life.observer.memory(job_in(life).uid).warnings
    pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "agent", "state": {"running": {}}}]}
    api.put("pods", pod)
    life.load()
    seen = await look(life)
    assert not life.observer.memory(job_in(life).uid).warnings
    assert all(each.warning is None for each in seen.pods)
    assert not life.observer.must_look_again(job_in(life).uid)


async def test_events_that_cannot_be_read_cost_nothing(api: FakeApi, hand: Hand, life: Life) -> None:
    await started(api, life)
    slow_pod(api)
    hand.at += 60
    life.load()
    api.faults.append(Fault("GET", "/events", 403))
    seen = await look(life)
    assert all(each.warning is None for each in seen.pods)


async def test_newest_warning_counts_and_the_schedulers_do_not(api: FakeApi, hand: Hand, life: Life) -> None:
    await started(api, life)
    uid = slow_pod(api)["metadata"]["uid"]
    warn(api, uid, "old", at="2026-11-23T12:00:01Z")
    warn(api, uid, "new", at="2026-11-23T12:00:09Z")
    warn(api, uid, "no node", reason="FailedScheduling", at="2026-11-23T12:00:30Z")
    hand.at += 60
    life.load()
    seen = await look(life)
    assert [each.warning for each in seen.pods if each.name == "ft-0-1"] == ["new"]


@pytest.mark.parametrize(
    ("phase", "node", "waits"),
    [("Pending", "n", True), ("Pending", None, False), ("Running", "n", False), ("Failed", "n", False)],
)
def test_who_is_slow(phase: str, node: str | None, waits: bool) -> None:
    pod = PodView(name="p", uid="u", index=0, ticket=1, attempt=1, phase=phase, node=node)
    assert is_placed_and_waiting(pod) is waits


# --- strangers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["somebody-else", None])
async def test_a_stranger_is_shown_until_it_is_gone(
    api: FakeApi, hand: Hand, life: Life, owner: str | None
) -> None:
    await started(api, life)
    uid = job_in(life).uid
    memory = life.observer.memory(uid)
    memory.strangers["Service", "web"] = (hand.at, owner)
    api.put("services", {"metadata": {"name": "web", "namespace": "team"}})
    shown = [item for item in (await look(life)).objects if item.name == "web"]
    assert [(item.kind, item.owner_uid) for item in shown] == [("Service", owner)]
    hand.at += STRANGER_SECONDS
    assert [item.owner_uid for item in (await look(life)).objects if item.name == "web"] == [None]
    api.remove("services", "team", "web")
    hand.at += STRANGER_SECONDS
    assert [item for item in (await look(life)).objects if item.name == "web"] == []
    assert memory.strangers == {}


async def test_a_stranger_that_became_ours_is_none(api: FakeApi, hand: Hand, life: Life) -> None:
    await started(api, life)
    uid = job_in(life).uid
    memory = life.observer.memory(uid)
    memory.strangers["Service", "ft"] = (hand.at, "somebody-else")
    hand.at += STRANGER_SECONDS
    await look(life)
    assert memory.strangers == {}


# --- memory ----------------------------------------------------------------------------------------


def body_of(uid: str, version: str, phase: str = "Pending") -> dict[str, Any]:
    return {
        "metadata": {"name": f"ft-{uid}", "uid": uid, "resourceVersion": version, "labels": {}},
        "status": {"phase": phase},
    }


def test_a_pod_is_read_again_only_when_it_changed() -> None:
    memory = Memory()
    [first, second] = memory.pods([body_of("a", "1"), body_of("b", "2")])
    [again, changed] = memory.pods([body_of("a", "1"), body_of("b", "3", "Running")])
    assert again is first
    assert (second.phase, changed.phase) == ("Pending", "Running")


def test_pods_that_are_gone_are_forgotten() -> None:
    memory = Memory()
    memory.pods([body_of("a", "1"), body_of("b", "2")])
    assert [view.uid for view in memory.pods([body_of("b", "2")])] == ["b"]
    assert set(memory.views) == {"b"}
    # The name again, by another pod.
    [view] = memory.pods([body_of("c", "2")])
    assert view.uid == "c"


async def test_a_round_sees_how_many_runs_are_heard(api: FakeApi, life: Life) -> None:
    await started(api, life)
    for run in ("r1", "r2", "r3"):
        life.inbox.put(report(run=run))
    assert (await look(life)).runs_heard == 3


def test_memory_begins_empty() -> None:
    assert Memory() == Memory(refusals={}, strangers={}, warnings={}, starting=False, proven=None)


async def test_runs_do_not_share_their_memory(api: FakeApi, life: Life) -> None:
    one, other = life.observer.memory("a"), life.observer.memory("b")
    one.strangers["Service", "x"] = (0.0, None)
    assert other.strangers == {} and life.observer.memory("a") is one
    life.observer.forget("a")
    assert life.observer.memory("a").strangers == {}
    life.observer.forget("never-there")


async def test_claims_are_those_that_the_spec_and_the_installation_name(api: FakeApi, life: Life) -> None:
    world(api)
    api.put("persistentvolumeclaims", {"metadata": {"name": "other", "namespace": "team"}})
    api.put("persistentvolumeclaims", {"metadata": {"name": "models", "namespace": "elsewhere"}})
    life.load()
    seen = await look(life)
    assert [claim.name for claim in seen.claims] == ["checkpoints", "models", "data"]


async def test_a_job_that_does_not_parse_is_seen_without_claims(api: FakeApi, life: Life) -> None:
    body = world(api)
    body["spec"]["resources"] = {"nodes": "two"}
    api.put("finetunejobs", body)
    life.load()
    assert (await look(life)).claims == ()
