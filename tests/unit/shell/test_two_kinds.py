"""Two kinds side by side: jobs of one name in one namespace never meet in caches, queue, probe, metrics or reports."""

from __future__ import annotations

import asyncio
import copy
from http import HTTPStatus
from typing import Any

import kopf
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.crd.specs import NEW_LLAMA
from unit.shell.conftest import Hand, until
from unit.shell.fakeapi import FakeApi, Fault
from unit.shell.life import KEY, Life, world
from unit.shell.test_rounds import run
from windlass.api.contract import Report
from windlass.api.kinds import KINDS
from windlass.api.meta import Reason
from windlass.core.decision import Event
from windlass.shell.events import Recorder
from windlass.shell.handlers import Intake, register
from windlass.shell.identity import Caller, Reviewer
from windlass.shell.inbox import Inbox
from windlass.shell.jobs import Jobs, Key, key_of
from windlass.shell.metrics import Metrics
from windlass.shell.observe import Caches
from windlass.shell.probe import WatchProbe
from windlass.shell.queue import KeyedQueue
from windlass.shell.reports import Refusal, ReportServer
from windlass.shell.waking import Waker, owner_key

TUNED: Key = ("FineTuneJob", "team", "ft")
TRAINED: Key = ("PretrainJob", "team", "ft")
BOTH = [TUNED, TRAINED]
PLURALS = {name: kind.plural for name, kind in KINDS.items()}


def body(key: Key, version: int = 1, **status: Any) -> dict[str, Any]:
    kind, namespace, name = key
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{kind}", "resourceVersion": str(version)}
    return {"kind": kind, "metadata": metadata, "spec": {}, "status": status}


def both() -> Jobs:
    jobs = Jobs()
    for key in BOTH:
        jobs.upsert(body(key))
    return jobs


# --- cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", BOTH, ids=lambda key: key[0])
def test_jobs_of_one_name_come_and_go_apart(gone: Key) -> None:
    jobs = both()
    kept = next(key for key in BOTH if key != gone)
    assert (len(jobs), jobs.all_keys(), [key_of(job) for job in jobs]) == (2, BOTH, BOTH)
    jobs.upsert(body(gone, 5, incarnation=3))
    assert (jobs.get(gone) or {})["status"] == {"incarnation": 3}
    assert jobs.get(kept) == body(kept), "a newer version of the one is none of the other"
    jobs.drop(body(gone, 6))
    assert (jobs.get(gone), jobs.all_keys(), len(jobs)) == (None, [kept], 1)
    assert not jobs.upsert(body(gone, 5)), "its removal is remembered"
    assert jobs.upsert(body(kept, 2)), "and is none of the other's"


def test_a_namespace_has_the_jobs_of_all_kinds() -> None:
    jobs = both()
    jobs.upsert(body(("PretrainJob", "other", "ft")))
    assert [key_of(job) for job in jobs.find("team")] == BOTH
    assert [key_of(job) for job in jobs.find("other")] == [("PretrainJob", "other", "ft")]
    assert jobs.find("nowhere") == []
    assert len(jobs.of("PretrainJob")) == 2


def test_whoever_listens_hears_of_every_kind_and_not_of_what_is_kept_quiet() -> None:
    jobs, heard = Jobs(), []
    jobs.when_changed(lambda job: heard.append(key_of(job)))
    for key in BOTH:
        jobs.upsert(body(key))
    jobs.upsert(body(TRAINED, 2), quiet=True)
    jobs.drop(body(TRAINED, 3))
    assert heard == [TUNED, TRAINED, TRAINED]


def test_a_foreign_kind_is_a_defect_and_named() -> None:
    jobs, foreign = both(), body(("EvalRun", "team", "ft"))
    for ask in (
        lambda: jobs.of("EvalRun"),
        lambda: jobs.get(key_of(foreign)),
        lambda: jobs.upsert(foreign),
        lambda: jobs.drop(foreign),
    ):
        with pytest.raises(KeyError, match="EvalRun"):
            ask()


# --- kopf ---------------------------------------------------------------------------------------------


async def test_kopf_hands_over_each_kind_with_its_name() -> None:
    """Items of a list do not say their kind."""
    registry, jobs = kopf.OperatorRegistry(), Jobs()
    register(registry, Intake(asyncio.get_running_loop(), jobs))
    found = {handler.selector.any_name: handler.fn for handler in registry._watching.get_all_handlers()}
    assert set(found) == set(PLURALS.values())
    for kind, plural in PLURALS.items():
        item = {key: value for key, value in body((kind, "team", "ft")).items() if key != "kind"}
        await found[plural](event={"type": None, "object": item})
    await until(lambda: len(jobs) == 2)
    assert jobs.all_keys() == BOTH
    await found["pretrainjobs"](event={"type": "DELETED", "object": body(TRAINED, 2)})
    await until(lambda: len(jobs) == 1)
    assert jobs.all_keys() == [TUNED]


# --- queue --------------------------------------------------------------------------------------------


def owned(kind: str, **changes: Any) -> dict[str, Any]:
    owner = {"kind": kind, "name": "ft", "uid": f"uid-{kind}", "controller": True} | changes
    metadata = {"name": "ft-0-1", "namespace": "team", "uid": "p", "ownerReferences": [owner]}
    return {"metadata": metadata | {"resourceVersion": "1"}, "status": {"phase": "Failed"}}


@pytest.mark.parametrize(
    ("pod", "key"),
    [
        (owned("FineTuneJob"), TUNED),
        (owned("PretrainJob"), TRAINED),
        (owned("PretrainJob", controller=False), None),
        (owned("Job"), None),
    ],
)
def test_an_object_leads_to_the_job_of_its_owners_kind(pod: dict[str, Any], key: Key | None) -> None:
    assert owner_key(pod, pod["metadata"]["ownerReferences"][0]) == key


@pytest.fixture
def rig(hand: Hand) -> tuple[Caches, Inbox, KeyedQueue[Key]]:
    """Caches with both jobs, and the queue that they wake."""
    caches, inbox, queue = Caches(), Inbox(hand.now), KeyedQueue[Key](hand.monotonic)
    for key in BOTH:
        caches.jobs.upsert(body(key))
    Waker(queue, caches, inbox).connect()
    return caches, inbox, queue


def due(queue: KeyedQueue[Key]) -> list[Key]:
    """Keys that are due, taken and done."""
    found = []
    while (key := queue.take()) is not None:
        queue.done(key)
        found.append(key)
    return found


@pytest.mark.parametrize("key", BOTH, ids=lambda key: key[0])
def test_what_happens_to_one_job_wakes_it_alone(rig: Any, key: Key) -> None:
    caches, inbox, queue = rig
    caches.pods.upsert(owned(key[0]))
    assert due(queue) == [key], "a pod of it ended"
    caches.jobs.upsert(body(key, 2))
    assert due(queue) == [key], "it changed"
    inbox.put(report(key))
    assert due(queue) == [key], "it reported"
    assert not queue.is_busy


def test_a_claim_wakes_the_jobs_of_all_kinds(rig: Any) -> None:
    caches, _, queue = rig
    claim = {"metadata": {"name": "data", "namespace": "team", "resourceVersion": "1"}}
    caches.claims.upsert(claim)
    assert due(queue) == BOTH


# --- probe --------------------------------------------------------------------------------------------


def stored(api: FakeApi, key: Key) -> dict[str, Any]:
    return copy.deepcopy(api.put(PLURALS[key[0]], {"metadata": {"name": key[2], "namespace": key[1]}}))


@pytest.fixture
def known(api: FakeApi) -> Jobs:
    """Both jobs, as the server has them."""
    jobs = Jobs()
    for key in BOTH:
        jobs.upsert(stored(api, key))
    return jobs


@pytest.mark.fault("F17")
@pytest.mark.parametrize("key", BOTH, ids=lambda key: key[0])
async def test_one_kind_that_stays_behind_makes_the_probe_old(
    api: FakeApi, hand: Hand, known: Jobs, key: Key
) -> None:
    probe = WatchProbe(api.client(), known, (), hand.clock())
    hand.at += 30
    await probe.compare()
    assert probe.age_seconds() == 0
    newer = copy.deepcopy(api.put(PLURALS[key[0]], api.get(PLURALS[key[0]], "ft") or {}))
    await probe.compare()
    hand.at += 30
    await probe.compare()
    assert probe.age_seconds() == 30
    known.upsert(newer)
    await probe.compare()
    assert probe.age_seconds() == 0


@pytest.mark.parametrize("key", BOTH, ids=lambda key: key[0])
async def test_one_kind_that_cannot_be_listed_leaves_the_probe_old(
    api: FakeApi, hand: Hand, known: Jobs, key: Key
) -> None:
    async def end(_: float) -> None:
        hand.at += 30
        if hand.at > 1050:
            raise asyncio.CancelledError

    clock = hand.clock()
    object.__setattr__(clock, "sleep", end)
    probe = WatchProbe(api.client(attempts=1), known, (), clock)
    api.faults.append(Fault("GET", PLURALS[key[0]], 403, reason="Forbidden"))
    with pytest.raises(asyncio.CancelledError):
        await probe.run()
    assert probe.age_seconds() == 60, "one comparison failed and none agreed"
    assert known.all_keys() == BOTH, "what could not be read is not gone"


@pytest.mark.parametrize("key", BOTH, ids=lambda key: key[0])
async def test_a_job_deleted_unseen_is_dropped_from_its_kind_alone(
    api: FakeApi, hand: Hand, known: Jobs, key: Key
) -> None:
    api.remove(PLURALS[key[0]], "team", "ft")
    await WatchProbe(api.client(), known, ("team",), hand.clock()).compare()
    assert known.all_keys() == [one for one in BOTH if one != key]


# --- metrics and events -------------------------------------------------------------------------------


def samples(metrics: Metrics, name: str) -> dict[tuple[str, str, str], float]:
    """Values of one metric by the labels of a job; the whole page is read as Prometheus reads it."""
    return {
        (one.labels["kind"], one.labels["namespace"], one.labels["name"]): one.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for one in family.samples
        if one.name == name
    }


RECOVERED = {"incarnation": 2, "rung": "InPlace", "class": "Crash"}


def test_jobs_of_one_name_are_two_series_of_every_metric() -> None:
    metrics = Metrics()
    shown = [body(key, progress={"step": 10 + place}) for place, key in enumerate(BOTH)]
    metrics.show_jobs(lambda: shown, lambda: True)
    assert samples(metrics, "windlass_job_step") == {TUNED: 10, TRAINED: 11}
    for key in BOTH:
        metrics.count_recoveries(body(key))
        metrics.count_recoveries(body(key, recoveries=[RECOVERED]))
    assert samples(metrics, "windlass_job_recoveries_total") == {TUNED: 1, TRAINED: 1}
    metrics.forget(body(TUNED))
    assert samples(metrics, "windlass_job_recoveries_total") == {TRAINED: 1}


@pytest.mark.parametrize("key", BOTH, ids=lambda key: key[0])
async def test_an_event_is_about_the_job_of_its_kind(api: FakeApi, hand: Hand, key: Key) -> None:
    recorder = Recorder(api.client(attempts=1), instance="operator-1", clock=hand.clock())
    await recorder.record(body(key), Event("Normal", Reason.TRAINING, "all pods run"))
    (made,) = [one for (plural, _, _), one in api.objects.items() if plural == "events"]
    told = made["regarding"]
    assert (told["kind"], told["namespace"], told["name"], told["uid"]) == (*key, f"uid-{key[0]}")


# --- reports ------------------------------------------------------------------------------------------


def report(key: Key, **changes: Any) -> Report:
    kind, namespace, name = key
    run = {"kind": kind, "namespace": namespace, "name": name, "uid": f"uid-{kind}"} | changes
    return Report.model_validate(
        {
            "run": run,
            "pod": "ft-0-1",
            "podUid": "p",
            "attempt": 1,
            "ticket": 1,
            "sequence": 1,
            "sentAt": "2026-11-23T12:00:00Z",
        }
    )


NOT_OF_THAT_NAME = "run.uid: belongs to another object of that name"
NOT_OF_THAT_RUN = "pod: is not controlled by the run"


@pytest.mark.parametrize(
    ("owner", "said", "refused"),
    [
        (TUNED, report(TUNED), None),
        (TRAINED, report(TRAINED), None),
        (TRAINED, report(TUNED), NOT_OF_THAT_RUN),
        (TUNED, report(TRAINED), NOT_OF_THAT_RUN),
        (TRAINED, report(TUNED, uid="uid-PretrainJob"), NOT_OF_THAT_NAME),
        (TUNED, report(TRAINED, uid="uid-FineTuneJob"), NOT_OF_THAT_NAME),
    ],
)
def test_a_pod_reports_for_the_job_of_its_kind_alone(
    api: FakeApi, hand: Hand, owner: Key, said: Report, refused: str | None
) -> None:
    caches = Caches()
    for key in BOTH:
        caches.jobs.upsert(body(key, gang={"attempt": 1, "members": [{"index": 0, "ticket": 1}]}))
    pod = owned(owner[0])
    pod["metadata"]["labels"] = {f"windlass.dev/{name}": "1" for name in ("ticket", "attempt")} | {
        "windlass.dev/index": "0"
    }
    caches.pods.upsert(pod)
    server = ReportServer(
        reviewer=Reviewer(api.client(), hand.clock()),
        inbox=Inbox(),
        caches=caches,
        is_leader=lambda: True,
        clock=hand.clock(),
    )
    caller = Caller(namespace="team", pod="ft-0-1", pod_uid="p")
    if refused is None:
        server.check(caller, said)
        return
    with pytest.raises(Refusal) as caught:
        server.check(caller, said)
    assert (caught.value.status, caught.value.message) == (HTTPStatus.FORBIDDEN, refused)


# --- rounds -------------------------------------------------------------------------------------------


WEB: Key = ("PretrainJob", "team", "web")


async def test_a_pretrain_job_lives_beside_a_fine_tune_job(api: FakeApi, hand: Hand) -> None:
    world(api)
    api.put("pretrainjobs", {"metadata": {"name": "web", "namespace": "team"}, "spec": NEW_LLAMA["spec"]})
    life = Life(api, hand)
    for key in (KEY, WEB):
        await life.settle(job=key)
    owners = {
        name: made["metadata"]["ownerReferences"][0]["kind"]
        for (plural, _, name), made in api.objects.items()
        if plural == "pods"
    }
    assert owners == {"ft-0-1": "FineTuneJob", "ft-1-2": "FineTuneJob", "web-0-1": "PretrainJob"}
    run(api, "web-0-1")
    life.load()
    await life.settle(job=WEB)
    reasons = {}
    for kind, plural in PLURALS.items():
        made = api.get(plural, "web" if kind == "PretrainJob" else "ft") or {}
        assert made["status"]["gang"]["attempt"] == 1
        (reasons[kind],) = [one["reason"] for one in made["status"]["conditions"] if one["type"] == "Ready"]
    assert reasons == {"FineTuneJob": "WaitingForPods", "PretrainJob": "Starting"}
    await life.close()


@pytest.mark.parametrize(("first", "second"), [BOTH, BOTH[::-1]], ids=["tuned", "trained"])
async def test_of_two_jobs_of_one_name_the_later_waits_and_says_why(
    api: FakeApi, hand: Hand, first: Key, second: Key
) -> None:
    """Names of pods and Services do not tell the kind: two jobs of one name cannot run at once in a namespace."""
    world(api)
    api.put("pretrainjobs", {"metadata": {"name": "ft", "namespace": "team"}, "spec": NEW_LLAMA["spec"]})
    life = Life(api, hand)
    for key in (first, second, first):
        await life.settle(job=key)
    owners = {
        made["metadata"]["ownerReferences"][0]["kind"]
        for (plural, _, _), made in api.objects.items()
        if plural in ("pods", "services", "networkpolicies")
    }
    assert owners == {first[0]}
    made = api.get(PLURALS[second[0]], "ft") or {}
    (ready,) = [one for one in made["status"]["conditions"] if one["type"] == "Ready"]
    assert ready["reason"] == "ObjectConflict"
    assert "ft-ca exists and does not belong to this run. hint: rename the job" in ready["message"]
    await life.close()
