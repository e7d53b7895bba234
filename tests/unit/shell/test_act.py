"""Carrying out decisions: the order of writes, refusals in a row, preconditions, and edits by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault, failure
from unit.shell.life import KEY, Life, world
from unit.shell.test_rounds import all_run, condition, pods, run, status
from windlass.api.meta import Reason
from windlass.core.decision import Decision, Delete, Event
from windlass.core.observed import Refusal
from windlass.shell.act import Stale, classify, members
from windlass.shell.errors import Conflict, Forbidden, Invalid
from windlass.shell.observe import Memory
from windlass.shell.together import together


@pytest_asyncio.fixture
async def life(api: FakeApi, hand: Hand) -> AsyncIterator[Life]:
    made = Life(api, hand)
    yield made
    await made.close()


async def step(life: Life) -> None:
    life.load()
    await life.settle()


def actor(life: Life) -> Any:
    return life.reconciler._actor


def events(api: FakeApi) -> list[tuple[str, str, str]]:
    return [
        (body["type"], body["reason"], body["note"])
        for (plural, _, _), body in api.objects.items()
        if plural == "events"
    ]


def a_pod(name: str, uid: str) -> dict[str, Any]:
    owner = {"kind": "FineTuneJob", "name": "ft", "uid": uid, "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "team", "ownerReferences": [owner], "labels": {}},
        "spec": {},
    }


def a_map(name: str, uid: str, **data: str) -> dict[str, Any]:
    return a_pod(name, uid) | {"kind": "ConfigMap", "data": data}


def job_of(api: FakeApi, life: Life) -> dict[str, Any]:
    life.load()
    job = life.caches.jobs.get(("FineTuneJob", "team", "ft"))
    assert job is not None
    return job


async def test_writes_come_in_the_promised_order(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    old = api.put("pods", a_pod("ft-9-9", uid))
    decision = Decision(
        status={"incarnation": 1},
        applies=(a_map("ft-ca", uid, ca="x"),),
        creates=(a_pod("ft-0-1", uid),),
        deletes=(Delete("Pod", "ft-9-9", old["metadata"]["uid"]),),
        events=(Event("Normal", Reason.STARTING, "m"),),
    )
    done = await actor(life).act(job, decision, Memory())
    assert [(method, path.rsplit("/", 1)[1]) for method, path in api.writes()] == [
        ("PUT", "status"),
        ("POST", "configmaps"),
        ("POST", "pods"),
        ("DELETE", "ft-9-9"),
        ("POST", "events"),
    ]
    assert (done.writes, done.again) == (5, False)


async def test_new_tickets_are_the_only_write_of_their_round_but_for_the_event(
    api: FakeApi, life: Life
) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    gang = {"attempt": 1, "lastTicket": 1, "members": [{"index": 0, "ticket": 1}]}
    decision = Decision(
        status={"gang": gang},
        creates=(a_pod("ft-0-1", uid),),
        events=(Event("Normal", Reason.ACCEPTED, "m"),),
    )
    done = await actor(life).act(job, decision, Memory())
    assert done.again and pods(api) == []
    assert [path.rsplit("/", 1)[1] for _, path in api.writes()] == ["status", "events"]


@pytest.mark.parametrize("only_tells", [True, False])
async def test_a_status_that_only_tells_is_no_reason_for_another_round(
    api: FakeApi, life: Life, only_tells: bool
) -> None:
    world(api)
    job = job_of(api, life)
    told: list[str] = []
    life.caches.jobs.when_changed(lambda body: told.append(body["metadata"]["name"]))
    decision = Decision(status={"incarnation": 1}, only_tells=only_tells)
    done = await actor(life).act(job, decision, Memory())
    assert (done.writes, done.again) == (1, False)
    assert (life.caches.jobs.get(("FineTuneJob", "team", "ft")) or {})["status"] == {"incarnation": 1}
    assert told == ([] if only_tells else ["ft"])


async def test_unchanged_status_is_not_written(api: FakeApi, life: Life) -> None:
    body = world(api)
    body["status"] = {"incarnation": 1}
    api.put("finetunejobs", body)
    done = await actor(life).act(job_of(api, life), Decision(status={"incarnation": 1}), Memory())
    assert (done.writes, api.writes()) == (0, [])


async def test_a_pod_believed_gone_that_is_there_stops_the_round(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    api.put("pods", a_pod("ft-0-1", job["metadata"]["uid"]))
    with pytest.raises(Stale):
        await actor(life).act(job, Decision(status={"incarnation": 9}, confirm_absent=("ft-0-1",)), Memory())
    assert api.writes() == []
    assert life.caches.pods.get("team", "ft-0-1") is not None, "the next round sees it"


async def test_confirming_an_absence_lets_the_round_go_on(api: FakeApi, life: Life) -> None:
    world(api)
    done = await actor(life).act(
        job_of(api, life), Decision(status={"incarnation": 9}, confirm_absent=("ft-0-1",)), Memory()
    )
    assert done.writes == 1


async def test_a_delete_of_another_object_of_the_name_makes_the_view_stale(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    api.put("pods", a_pod("ft-0-1", job["metadata"]["uid"]))
    with pytest.raises(Stale):
        await actor(life).act(job, Decision(deletes=(Delete("Pod", "ft-0-1", "older-uid"),)), Memory())
    assert pods(api) == ["ft-0-1"]


async def test_a_delete_of_what_is_gone_is_done(api: FakeApi, life: Life) -> None:
    world(api)
    done = await actor(life).act(
        job_of(api, life), Decision(deletes=(Delete("Pod", "ft-0-1", "u"),)), Memory()
    )
    assert done.again is False


# --- refusals --------------------------------------------------------------------------------------

RIGHTS = 'pods is forbidden: User "op" cannot create resource "pods" in API group ""'
QUOTA = 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1'


def refuse_pods(api: FakeApi, times: int, name: str = "/pods") -> None:
    api.faults.append(Fault("POST", name, 403, reason="Forbidden", message=QUOTA, times=times))


async def test_refusals_in_a_row_are_counted_whatever_the_pod_is_called(api: FakeApi, life: Life) -> None:
    """A gang that was given back comes with new names; its pauses must go on growing."""
    world(api)
    job, memory = job_of(api, life), Memory()
    uid = job["metadata"]["uid"]
    refuse_pods(api, 3)
    for number in (1, 2, 3):
        done = await actor(life).act(job, Decision(creates=(a_pod(f"ft-0-{number}", uid),)), memory)
        assert done.again
        ((key, refusal),) = memory.refusals.items()
        assert key == ("Pod", f"ft-0-{number}")
        assert (refusal.count, refusal.reason) == (number, Reason.QUOTA_EXCEEDED)
    await actor(life).act(job, Decision(creates=(a_pod("ft-0-4", uid),)), memory)
    assert memory.refusals == {}, "one that was made ends the row"


async def test_another_reason_begins_another_row(api: FakeApi, life: Life) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    uid = job["metadata"]["uid"]
    refuse_pods(api, 2)
    api.faults.append(Fault("POST", "/pods", 403, message="violates PodSecurity: hostPath", times=1))
    counts = []
    for _ in range(3):
        await actor(life).act(job, Decision(creates=(a_pod("ft-0-1", uid),)), memory)
        counts += [(one.reason, one.count) for one in memory.refusals.values()]
    assert counts == [
        (Reason.QUOTA_EXCEEDED, 1),
        (Reason.QUOTA_EXCEEDED, 2),
        (Reason.POD_SECURITY_DENIED, 1),
    ]


async def test_the_first_refused_pod_ends_the_makings_of_the_round(api: FakeApi, life: Life) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    uid = job["metadata"]["uid"]
    await actor(life).act(job, Decision(creates=(a_pod("ft-0-1", uid),)), memory)
    refuse_pods(api, 1)
    creates = tuple(a_pod(f"ft-{index}-{index + 1}", uid) for index in (1, 2, 3))
    await actor(life).act(job, Decision(creates=creates), memory)
    assert pods(api) == ["ft-0-1"]
    assert [key[1] for key in memory.refusals] == ["ft-1-2"]


async def test_pods_are_made_in_batches_that_double(api: FakeApi, life: Life, monkeypatch: Any) -> None:
    world(api)
    job = job_of(api, life)
    creates = tuple(a_pod(f"ft-{index}-{index + 1}", job["metadata"]["uid"]) for index in range(8))
    batches: list[list[str]] = []

    async def record(work: Any, items: Any) -> list[Any]:
        if items and "kind" in items[0]:
            batches.append([item["metadata"]["name"] for item in items])
        return await together(work, items)

    monkeypatch.setattr("windlass.shell.act.together", record)
    done = await actor(life).act(job, Decision(creates=creates), Memory())
    assert [len(batch) for batch in batches] == [1, 2, 4, 1], "one pod finds out whether pods are refused"
    assert [name for batch in batches for name in batch] == [pod["metadata"]["name"] for pod in creates]
    assert (done.writes, done.again, len(pods(api))) == (8, False, 8)


async def test_a_refusal_in_a_later_batch_leaves_what_was_made_and_stops(
    api: FakeApi, life: Life, monkeypatch: Any
) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    create = api.create

    def with_quota(plural: str, namespace: str, body: Any) -> Any:
        full = plural == "pods" and len(pods(api)) >= 2
        return failure(403, "Forbidden", QUOTA) if full else create(plural, namespace, body)

    monkeypatch.setattr(api, "create", with_quota)
    creates = tuple(a_pod(f"ft-{index}-{index + 1}", job["metadata"]["uid"]) for index in range(8))
    done = await actor(life).act(job, Decision(creates=creates), memory)
    assert done.again and len(pods(api)) == 2
    assert done.writes == 1 + 2, "the third batch was not tried"
    assert [one.count for one in memory.refusals.values()] == [1]


async def test_pods_that_one_lost_request_kept_back_are_made_by_the_next_round(
    api: FakeApi, hand: Hand, life: Life
) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    creates = tuple(a_pod(f"ft-{index}-{index + 1}", job["metadata"]["uid"]) for index in range(8))
    # Every try of the second batch is refused for a reason that no job is to blame for.
    await actor(life).act(job, Decision(creates=creates[:1]), memory)
    api.faults.append(Fault("POST", "/pods", 403, message=RIGHTS, times=1))
    with pytest.raises(Forbidden):
        await actor(life).act(job, Decision(creates=creates[1:]), memory)
    assert memory.refusals == {}
    await actor(life).act(job, Decision(creates=creates), memory)
    assert pods(api) == sorted(pod["metadata"]["name"] for pod in creates), "and none is made twice"


async def test_objects_are_made_side_by_side_and_a_refused_one_keeps_no_other_back(
    api: FakeApi, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    uid = job["metadata"]["uid"]
    applies = tuple(a_map(f"ft-{name}", uid, key=name) for name in "abc")
    create = api.create

    def without_b(plural: str, namespace: str, body: Any) -> Any:
        refused = body["metadata"]["name"] == "ft-b"
        return failure(403, "Forbidden", QUOTA) if refused else create(plural, namespace, body)

    monkeypatch.setattr(api, "create", without_b)
    creates = (a_pod("ft-0-1", uid),)
    done = await actor(life).act(job, Decision(applies=applies, creates=creates), memory)
    assert done.again and pods(api) == [], "pods wait for all objects"
    assert [api.get("configmaps", f"ft-{name}") is not None for name in "abc"] == [True, False, True]
    assert list(memory.refusals) == [("ConfigMap", "ft-b")]


async def test_deletes_go_together_and_a_changed_pod_makes_the_round_stale(api: FakeApi, life: Life) -> None:
    world(api)
    job = job_of(api, life)
    uid = job["metadata"]["uid"]
    bodies = [api.put("pods", a_pod(f"ft-{index}-{index + 1}", uid)) for index in range(20)]
    life.load()
    deletes = tuple(Delete("Pod", body["metadata"]["name"], body["metadata"]["uid"]) for body in bodies)
    api.faults.append(Fault("DELETE", "ft-17-18", 409, reason="Conflict", message="changed", times=1))
    with pytest.raises(Stale):
        await actor(life).act(job, Decision(deletes=deletes), Memory())
    assert "ft-17-18" in pods(api)
    assert len(pods(api)) <= 4, "the first sixteen are gone whatever became of the rest"
    await actor(life).act(job, Decision(deletes=deletes), Memory())
    assert pods(api) == [], "what is gone already counts as deleted"


@pytest.mark.fault("F18")
@pytest.mark.bad_input("B80")
async def test_a_part_that_quota_admits_is_given_back_and_the_whole_is_made_later(
    api: FakeApi, hand: Hand, life: Life
) -> None:
    world(api)
    life.load()
    await life.reconciler.attempt(KEY)
    # The first pod is admitted, the second never.
    admitted: list[str] = []
    create = api.create

    def admit_one(plural: str, namespace: str, body: dict[str, Any]) -> Any:
        if plural != "pods" or not [name for name in pods(api) if name != body["metadata"]["name"]]:
            admitted.append(body["metadata"]["name"])
            return create(plural, namespace, body)
        from unit.shell.fakeapi import failure

        return failure(403, "Forbidden", QUOTA)

    api.create = admit_one  # type: ignore[method-assign]
    for _ in range(8):
        await step(life)
        if status(api).get("backOffUntil"):
            break
        hand.at += 170
    await step(life)
    assert pods(api) == []
    assert condition(api)["reason"] == "QuotaExceeded"
    assert "admits 1 of 2 pods" in condition(api)["message"] and "used: pods=1" in condition(api)["message"]
    api.create = create  # type: ignore[method-assign]
    hand.at += 400
    await step(life)
    assert len(pods(api)) == 2 and not set(pods(api)) & set(admitted)
    all_run(api)
    await step(life)
    assert condition(api)["reason"] != "QuotaExceeded"
    assert condition(api, "Stalled")["status"] == "False"


async def test_a_namespace_that_ends_is_not_the_jobs_fault(api: FakeApi, life: Life) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    text = "unable to create new content in namespace team because it is being terminated"
    api.faults.append(Fault("POST", "/pods", 403, message=text))
    with pytest.raises(Forbidden):
        await actor(life).act(job, Decision(creates=(a_pod("ft-0-1", job["metadata"]["uid"]),)), memory)
    assert memory.refusals == {}


async def test_a_pod_of_another_owner_under_our_name_is_told_as_a_conflict(api: FakeApi, life: Life) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    api.put("pods", a_pod("ft-0-1", "somebody-else"))
    done = await actor(life).act(job, Decision(creates=(a_pod("ft-0-1", job["metadata"]["uid"]),)), memory)
    assert done.again
    assert memory.refusals["Pod", "ft-0-1"].reason is Reason.OBJECT_CONFLICT


async def test_refused_objects_keep_pods_back(api: FakeApi, life: Life) -> None:
    world(api)
    job, memory = job_of(api, life), Memory()
    uid = job["metadata"]["uid"]
    api.faults.append(Fault("POST", "configmaps", 403, message="exceeded quota: count/configmaps"))
    decision = Decision(applies=(a_map("ft-ca", uid, ca="x"),), creates=(a_pod("ft-0-1", uid),))
    done = await actor(life).act(job, decision, memory)
    assert done.again and pods(api) == []
    assert memory.refusals["ConfigMap", "ft-ca"].reason is Reason.QUOTA_EXCEEDED
    await actor(life).act(job, decision, memory)
    assert pods(api) == ["ft-0-1"] and memory.refusals == {}


REFUSALS = [
    (403, "exceeded quota: small, used: pods=2, limited: pods=2", Reason.QUOTA_EXCEEDED),
    (403, "maximum memory usage per Container is 1Gi, but limit is 4Gi", Reason.QUOTA_EXCEEDED),
    (403, "minimum cpu usage per Pod is 1, but request is 500m", Reason.QUOTA_EXCEEDED),
    (403, "failed quota: q: must specify limits.cpu for: agent", Reason.QUOTA_EXCEEDED),
    (403, 'violates PodSecurity "restricted:latest": runAsNonRoot != true', Reason.POD_SECURITY_DENIED),
    (403, 'admission webhook "policy" denied the request: image registry', Reason.POD_SECURITY_DENIED),
    (400, 'admission webhook "policy" denied the request', Reason.POD_SECURITY_DENIED),
    (422, "spec.containers[0].image: Required value", Reason.INVALID_SPEC),
    (400, "strict decoding error: unknown field", Reason.INVALID_SPEC),
    (403, 'User "operator" cannot create resource "pods" in API group ""', None),
    (403, "unable to create: namespace team is being terminated", None),
    (403, "no reason at all", None),
]


@pytest.mark.parametrize(("code", "message", "reason"), REFUSALS, ids=[row[1][:30] for row in REFUSALS])
def test_what_a_refusal_is_called(code: int, message: str, reason: Reason | None) -> None:
    kind = Forbidden if code == 403 else Invalid
    assert classify(kind(code, "x", message)) is reason


@pytest.mark.parametrize(
    ("stored", "same"),
    [
        ({}, True),
        ({"gang": {"attempt": 0, "members": []}}, True),
        ({"gang": {"attempt": 1, "members": []}}, False),
        ({"gang": {"members": [{"index": 0, "ticket": 1}]}}, False),
    ],
)
def test_what_counts_as_the_same_gang(stored: dict[str, Any], same: bool) -> None:
    assert (members(stored) == members({})) is same


def test_uids_of_pods_are_no_change_of_the_gang() -> None:
    one = {"gang": {"attempt": 1, "members": [{"index": 0, "ticket": 1}]}}
    other = {"gang": {"attempt": 1, "members": [{"index": 0, "ticket": 1, "podUid": "u"}]}}
    assert members(one) == members(other)


async def test_a_remembered_refusal_is_bounded(life: Life) -> None:
    memory = Memory()
    actor(life)._keep(memory, "Pod", "p", Reason.QUOTA_EXCEEDED, "x" * 9000)
    (kept,) = memory.refusals.values()
    assert isinstance(kept, Refusal) and len(kept.message) == 2048


# --- hands -----------------------------------------------------------------------------------------


@pytest.mark.bad_input("B72")
async def test_an_object_edited_by_hand_is_put_back_with_one_event(api: FakeApi, life: Life) -> None:
    world(api)
    await step(life)
    run(api, "ft-0-1")
    run(api, "ft-1-2")
    await step(life)
    before = json.loads(json.dumps(status(api)))
    service = api.get("services", "ft")
    assert service is not None
    service["spec"]["publishNotReadyAddresses"] = False
    api.put("services", service)
    await step(life)
    await step(life)
    assert (api.get("services", "ft") or {})["spec"]["publishNotReadyAddresses"] is True
    drifts = [one for one in events(api) if one[1] == "DriftCorrected"]
    assert drifts == [
        (
            "Warning",
            "DriftCorrected",
            "Service ft was changed by somebody and is put back. hint: change the job instead; what the run needs is "
            "rendered from it",
        )
    ]
    assert condition(api) == next(item for item in before["conditions"] if item["type"] == "Ready")


@pytest.mark.bad_input("B72")
async def test_whoever_edits_again_and_again_makes_one_series(api: FakeApi, hand: Hand, life: Life) -> None:
    world(api)
    await step(life)
    all_run(api)
    await step(life)
    for _ in range(6):
        service = api.get("services", "ft")
        assert service is not None
        service["spec"]["publishNotReadyAddresses"] = False
        api.put("services", service)
        hand.at += 5
        await step(life)
    drifts = [body for (plural, _, _), body in api.objects.items() if plural == "events"]
    drifts = [body for body in drifts if body["reason"] == "DriftCorrected"]
    assert len(drifts) == 1 and drifts[0]["series"]["count"] >= 2


async def test_a_lost_answer_to_a_status_write_is_a_conflict_that_the_next_round_heals(
    api: FakeApi, life: Life
) -> None:
    world(api)
    job = job_of(api, life)
    api.faults.append(Fault("PUT", "/status", drop=True, after=True))
    with pytest.raises(Conflict):
        await actor(life).act(job, Decision(status={"incarnation": 1}), Memory())
    life.load()
    done = await actor(life).act(job_of(api, life), Decision(status={"incarnation": 1}), Memory())
    assert done.writes == 0
