"""How the parts of one operator are wired: what wakes which job, what a probe says, what is rendered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.core import GaugeMetricFamily

from contract.operator.harness import write_serving_pair
from unit.shell.test_senders import report
from windlass.api.meta import LABEL_ATTEMPT, Reason
from windlass.core.decision import Event
from windlass.core.observed import Job
from windlass.core.settings import HostRootMount
from windlass.shell import health as probes
from windlass.shell.clock import Clock
from windlass.shell.credentials import Credentials
from windlass.shell.health import Health, LoopLag, answer, limit
from windlass.shell.metrics import Metrics, add
from windlass.shell.operator import OURS, Operator
from windlass.shell.queue import BUSY_KEYS
from windlass.shell.settings import Settings
from windlass.shell.waking import BUSY_GATHER_SECONDS, GATHER_SECONDS, MANY_RUNS

SETTINGS = Settings("windlass-system", "operator-1", "uid-1", "10.0.0.7", "workload:1")


@pytest_asyncio.fixture
async def operator() -> AsyncIterator[Operator]:
    made = Operator(SETTINGS, Credentials(server="http://127.0.0.1:1"))
    yield made
    await made.client.close()
    await made._lease_client.close()


def owned(kind: str = "FineTuneJob", *, controller: bool = True, name: str = "ft") -> dict[str, Any]:
    owner = {"kind": kind, "name": name, "uid": "u", "controller": controller}
    return {
        "metadata": {
            "name": "ft-0-1",
            "namespace": "team",
            "uid": "p",
            "resourceVersion": "3",
            "ownerReferences": [owner],
        }
    }


def job(name: str = "ft", *, namespace: str = "team", **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "2"}
    return {"kind": "FineTuneJob", "metadata": metadata, "spec": {}, "status": status}


def keys(operator: Operator) -> list[str]:
    found = []
    while (key := operator.queue.take()) is not None:
        operator.queue.done(key)
        found.append("/".join(key))
    return sorted(found)


async def test_a_job_wakes_itself(operator: Operator) -> None:
    operator.caches.jobs.upsert(job())
    assert keys(operator) == ["FineTuneJob/team/ft"]
    operator.caches.jobs.upsert(job())
    assert keys(operator) == [], "the same version is no news"


@pytest.mark.parametrize(
    ("body", "woken"),
    [
        (owned(), ["FineTuneJob/team/ft"]),
        (owned(controller=False), []),
        (owned("Deployment"), []),
        ({"metadata": {"name": "x", "namespace": "team", "resourceVersion": "1"}}, []),
    ],
    ids=["ours", "not the controller", "another kind", "nobody's"],
)
async def test_a_child_that_goes_wakes_its_owner(
    operator: Operator, body: dict[str, Any], woken: list[str]
) -> None:
    for cache in operator.caches.children.values():
        cache.upsert(body)
        assert keys(operator) == [], "it may be the answer to our own write"
        assert (wait(operator) is not None) is bool(woken)
        cache.drop(body)
        assert keys(operator) == woken
        operator.queue._later.clear()
        operator.queue._later_at.clear()


@pytest.mark.parametrize(("others", "pause"), [(0, GATHER_SECONDS), (BUSY_KEYS, BUSY_GATHER_SECONDS)])
async def test_pods_that_come_up_wait_longer_while_many_jobs_are_due(
    operator: Operator, others: int, pause: float
) -> None:
    for number in range(others):
        operator.queue.add(("FineTuneJob", "team", f"other-{number}"))
    operator.caches.pods.upsert(a_pod("Running"))
    waits = wait(operator)
    assert waits is not None and pause - 0.2 < waits <= pause


@pytest.mark.parametrize("news", ["report", "pod that ended", "object that is gone"])
async def test_what_cannot_wait_is_looked_at_before_all_others(operator: Operator, news: str) -> None:
    for number in range(40):
        operator.queue.add(("FineTuneJob", "team", f"other-{number}"))
    services = operator.caches.children["Service"]
    services.upsert(owned())
    match news:
        case "report":
            operator.inbox.put(report())
        case "pod that ended":
            operator.caches.pods.upsert(a_pod("Failed"))
        case _:
            services.drop(owned())
    assert operator.queue.take() == ("FineTuneJob", "team", "ft")


@pytest.mark.parametrize(("runs", "pause"), [(MANY_RUNS, 0.0), (MANY_RUNS + 1, 5.0), (1000, 50.0)])
async def test_numbers_of_many_runs_are_no_reason_for_a_round_at_once(
    operator: Operator, runs: int, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.inbox.put(report(1))
    assert keys(operator) == ["FineTuneJob/team/ft"], "the first one is news"
    monkeypatch.setattr(operator.inbox, "runs_heard", lambda: runs)
    operator.inbox.put(report(2))
    assert keys(operator) == ([] if pause else ["FineTuneJob/team/ft"])
    waits = wait(operator)
    assert (waits or 0.0) == pytest.approx(pause, abs=0.2)
    operator.inbox.put(report(3).model_copy(update={"restarts": 1}))
    assert keys(operator) == ["FineTuneJob/team/ft"], "news never waits"


def a_pod(phase: str = "Running", *, version: int = 3, leaving: bool = False) -> dict[str, Any]:
    body = owned()
    body["metadata"]["resourceVersion"] = str(version)
    if leaving:
        body["metadata"]["deletionTimestamp"] = "2026-11-25T12:00:00Z"
    return body | {"status": {"phase": phase}}


def wait(operator: Operator) -> float | None:
    return operator.queue.seconds_until_next()


@pytest.mark.parametrize("phase", ["Pending", "Running"])
async def test_pods_that_come_up_are_looked_at_together(operator: Operator, phase: str) -> None:
    operator.caches.pods.upsert(a_pod(phase))
    assert keys(operator) == []
    pause = wait(operator)
    assert pause is not None and 0 < pause <= GATHER_SECONDS
    for version in range(4, 20):
        operator.caches.pods.upsert(a_pod(phase, version=version))
    later = wait(operator)
    assert later is not None and later <= pause, "what comes later does not put it off"
    assert len(operator.queue._later) == 1


@pytest.mark.parametrize(
    "body",
    [a_pod("Failed"), a_pod("Succeeded"), a_pod("Unknown"), a_pod("Running", leaving=True)],
    ids=["failed", "succeeded", "unknown", "leaving"],
)
async def test_a_pod_that_ends_is_looked_at_now(operator: Operator, body: dict[str, Any]) -> None:
    operator.caches.pods.upsert(body)
    assert keys(operator) == ["FineTuneJob/team/ft"]


async def test_a_pod_that_is_gone_is_looked_at_now_even_while_another_comes_up(operator: Operator) -> None:
    operator.caches.pods.upsert(a_pod("Running"))
    assert keys(operator) == []
    operator.caches.pods.drop(a_pod("Running", version=4))
    assert keys(operator) == ["FineTuneJob/team/ft"]


def place(index: int, *, attempt: int, leaving: bool = True, version: int = 3) -> dict[str, Any]:
    """A pod of one attempt of job `ft`, on its way out."""
    body = a_pod("Running", version=version, leaving=leaving)
    body["metadata"]["name"] = f"ft-{index}-{attempt}"
    body["metadata"]["labels"] = {LABEL_ATTEMPT: str(attempt)}
    return body


@pytest.mark.parametrize(
    ("attempt", "gone"),
    [
        pytest.param(1, [None, None, "now"], id="an attempt that is over goes: its last pod counts"),
        pytest.param(2, ["now", "now", "now"], id="pods of the present attempt count one by one"),
    ],
)
async def test_pods_that_go_together_are_looked_at_when_the_last_is_gone(
    operator: Operator, attempt: int, gone: list[str | None]
) -> None:
    operator.caches.jobs.upsert(job(gang={"attempt": 2}) | {"metadata": {**job()["metadata"], "uid": "u"}})
    for index in range(3):
        operator.caches.pods.upsert(place(index, attempt=attempt))
    operator.caches.pods.upsert(place(7, attempt=2, leaving=False))
    keys(operator)
    found = []
    for index in range(3):
        operator.caches.pods.drop(place(index, attempt=attempt, version=10 + index))
        found.append("now" if keys(operator) else None)
        assert wait(operator) is not None, "if nothing follows it is looked at all the same"
    assert found == gone


@pytest.mark.parametrize("owner", ["gone", "another of its name", "at the same attempt", "never had a gang"])
async def test_a_pod_whose_attempt_is_not_known_to_be_over_never_waits(
    operator: Operator, owner: str
) -> None:
    uid = "v" if owner == "another of its name" else "u"
    status = {} if owner == "never had a gang" else {"gang": {"attempt": 1}}
    if owner != "gone":
        operator.caches.jobs.upsert(job(**status) | {"metadata": {**job()["metadata"], "uid": uid}})
    for index in range(2):
        operator.caches.pods.upsert(place(index, attempt=1))
    keys(operator)
    operator.caches.pods.drop(place(0, attempt=1, version=9))
    assert keys(operator) == ["FineTuneJob/team/ft"]


async def test_all_jobs_are_looked_at_and_what_a_job_that_is_gone_has_left(operator: Operator) -> None:
    operator.caches.jobs.upsert(job("a"))
    operator.caches.jobs.upsert(job("b", finishedAt="2026-11-25T12:00:00Z"))
    for name, finalizers in (("held", ["kueue.x-k8s.io/managed"]), ("free", [])):
        body = a_pod("Running", leaving=True)
        body["metadata"] |= {"name": f"{name}-0-1", "uid": name, "finalizers": finalizers}
        body["metadata"]["ownerReferences"][0] |= {"name": name, "uid": f"job-{name}"}
        operator.caches.pods.upsert(body)
    assert len(keys(operator)) == 4
    operator.waker.all_jobs()
    assert keys(operator) == [f"FineTuneJob/team/{name}" for name in ("a", "b", "held")]


async def test_rounds_are_told_whether_many_jobs_are_due(operator: Operator) -> None:
    body = job("one")
    body["metadata"]["creationTimestamp"] = "2026-11-23T12:00:00Z"
    one = Job.from_wire(body)
    assert not (await operator.observer.observe(one)).busy
    for number in range(BUSY_KEYS):
        operator.queue.add(("FineTuneJob", "team", f"other-{number}"))
    assert (await operator.observer.observe(one)).busy


async def test_a_pod_of_nobody_wakes_nobody(operator: Operator) -> None:
    for body in (owned(controller=False), owned("Deployment")):
        operator.caches.pods.upsert(body | {"status": {"phase": "Failed"}})
    assert keys(operator) == [] and wait(operator) is None


async def test_a_claim_wakes_the_unfinished_jobs_of_its_namespace(operator: Operator) -> None:
    for body in (
        job("a"),
        job("b"),
        job("done", finishedAt="2026-11-23T12:00:00Z"),
        job("c", namespace="other"),
    ):
        operator.caches.jobs.upsert(body)
    keys(operator)
    operator.caches.claims.upsert({"metadata": {"name": "data", "namespace": "team", "resourceVersion": "9"}})
    assert keys(operator) == ["FineTuneJob/team/a", "FineTuneJob/team/b"]


async def test_a_report_wakes_its_run(operator: Operator) -> None:
    operator.inbox.put(report())
    assert keys(operator) == ["FineTuneJob/team/ft"]


async def test_only_labelled_children_are_watched_and_all_claims(operator: Operator) -> None:
    watched = {each.resource.kind: each._labels for each in operator.reflectors}
    assert watched == {
        "Pod": OURS,
        "PersistentVolumeClaim": "",
        "ConfigMap": OURS,
        "Service": OURS,
        "NetworkPolicy": OURS,
    }
    assert all(each._namespace is None for each in operator.reflectors)


async def test_named_namespaces_are_watched_one_by_one() -> None:
    settings = replace(SETTINGS, watch_namespaces=("a", "b"))
    made = Operator(settings, Credentials(server="http://127.0.0.1:1"))
    assert sorted({str(each._namespace) for each in made.reflectors}) == ["a", "b"]
    assert len(made.reflectors) == 10
    await made.client.close()
    await made._lease_client.close()


# --- probes ----------------------------------------------------------------------------------------


async def test_ready_once_every_cache_is_filled(operator: Operator) -> None:
    assert answer(operator._health.ready).text == "caches: are not filled yet\n"
    for each in operator.reflectors:
        each.synced.set()
    assert answer(operator._health.ready).status == 200


@pytest.mark.fault("F8")
async def test_alive_names_each_part_that_hangs(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(operator._health.alive).status == 200
    operator.reflectors[0].heard_at -= probes.WATCH_LIMIT_SECONDS + 5
    operator._lag.worst_seconds = 11.0
    operator._kopf = type("Gone", (), {"alive": False})()  # type: ignore[assignment]
    text = answer(operator._health.alive).text or ""
    assert text.splitlines() == [
        "watch of pods: 125 s (limit 120 s)",
        "loop lag: 11 s (limit 10 s)",
        "kopf: its thread has ended",
    ]


async def test_keys_get_old_on_the_leader_only(operator: Operator) -> None:
    operator.queue.add(("FineTuneJob", "team", "ft"))
    operator.queue._due[("FineTuneJob", "team", "ft")] -= 700
    assert operator._oldest_key() == 0.0
    operator.elector.leading = True
    assert operator._oldest_key() >= 700
    assert "oldest key: 700 s (limit 600 s)" in (answer(operator._health.alive).text or "")


@pytest.mark.parametrize(
    ("value", "said"),
    [(9.9, None), (10.0, None), (10.1, "x: 10 s (limit 10 s)"), (99, "x: 99 s (limit 10 s)")],
)
def test_a_limit_speaks_only_beyond_itself(value: float, said: str | None) -> None:
    assert limit("x", lambda: value, 10.0)() == said


def test_all_problems_are_told_one_per_line() -> None:
    response = answer([lambda: "a: broke", lambda: None, lambda: "b: broke"])
    assert (response.status, response.text) == (503, "a: broke\nb: broke\n")
    assert answer([]).text == "ok\n"


async def test_a_hung_loop_counts_while_it_hangs() -> None:
    now = [0.0]
    lag = LoopLag(Clock(monotonic=lambda: now[0]))
    now[0] = 30.0
    assert lag.seconds() == 29.5


async def test_a_scrape_sets_the_gauges_first() -> None:
    metrics, called = Metrics(), []
    health = Health(metrics, before_scrape=lambda: called.append(1))
    response = await health.scrape(None)  # type: ignore[arg-type]
    assert called == [1] and b"windlass_leader 0.0" in (response.body or b"")  # type: ignore[operator]


async def test_gauges_show_queue_lease_and_watches(operator: Operator) -> None:
    operator.queue.add(("FineTuneJob", "team", "ft"))
    operator.elector.leading = True
    operator.recorder.dropped = 3
    operator._set_gauges()
    text = operator.metrics.render().decode()
    for line in (
        "workqueue_depth 1.0",
        "windlass_leader 1.0",
        "windlass_events_dropped 3.0",
        'windlass_watch_age_seconds{kind="FineTuneJob"}',
        'windlass_watch_age_seconds{kind="Pod"}',
    ):
        assert line in text, line


# --- what is rendered ------------------------------------------------------------------------------


async def test_without_a_certificate_nobody_is_told_to_report(operator: Operator) -> None:
    made = operator._render
    assert (made.report_url, made.ca_pem) == (None, "")
    assert made.workload_image == "workload:1"


async def test_with_a_certificate_pods_are_told_where_to_report(tmp_path: Path) -> None:
    write_serving_pair(tmp_path, "windlass-reports.windlass-system.svc")
    root = (HostRootMount("usr", "/usr"),)
    settings = replace(SETTINGS, tls_directory=tmp_path, host_root=root, image_pull_policy="Never")
    made = Operator(settings, Credentials(server="http://127.0.0.1:1"))
    rendered = made._render
    assert rendered.report_url == "https://windlass-reports.windlass-system.svc:8443/v1/reports"
    assert rendered.report_server_name == "windlass-reports.windlass-system.svc"
    assert rendered.ca_pem.startswith("-----BEGIN CERTIFICATE-----")
    assert (rendered.host_root, rendered.image_pull_policy) == (root, "Never")
    assert "PRIVATE" not in repr(rendered)
    await made.client.close()
    await made._lease_client.close()


async def test_background_parts_are_named(operator: Operator) -> None:
    parts = operator.background()
    assert {"probe", "lag"} < set(parts)
    assert sum(name.startswith("watch ") for name in parts) == 5
    for body in parts.values():
        body.close()


# --- numbers of jobs -------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "samples"), [(None, 0), (0, 1), (0.0, 1), (5, 1)])
def test_unknown_numbers_have_no_sample(value: float | None, samples: int) -> None:
    family = GaugeMetricFamily("x", "y", labels=["a"])
    add(family, ["b"], value)
    assert len(family.samples) == samples


@pytest.mark.parametrize(
    ("rows", "more", "counted"),
    [
        ([], [2], 1),
        ([2], [2], 0),
        ([2], [2, 3, 4], 2),
        ([4], [3], 0),
        ([], [], 0),
    ],
)
def test_recoveries_since_the_last_look(rows: list[int], more: list[int], counted: int) -> None:
    metrics = Metrics()

    def look(incarnations: list[int]) -> None:
        made = [{"incarnation": each, "rung": "InPlace", "class": "Crash"} for each in incarnations]
        metrics.count_recoveries(job(recoveries=made))

    look(rows)
    look(more)
    total = sum(
        sample.value
        for metric in metrics.meter.counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
    assert total == counted


def test_a_job_that_is_gone_takes_its_series_along() -> None:
    metrics = Metrics()
    for name in ("a", "b"):
        metrics.count_recoveries(job(name))
        metrics.count_recoveries(
            job(name, recoveries=[{"incarnation": 2, "rung": "InPlace", "class": "Crash"}])
        )
    metrics.forget(job("a"))
    text = metrics.render().decode()
    assert 'name="b"' in text and 'name="a"' not in text


# --- events ------------------------------------------------------------------------------------------


async def test_events_are_written_beside_the_rounds_and_what_is_left_at_the_end(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    first = asyncio.Event()

    async def record(body: dict[str, Any], event: Event) -> None:
        written.append(event.message)
        first.set()

    monkeypatch.setattr(operator.recorder, "record", record)
    parts = operator.background()
    for name, part in parts.items():
        if name != "events":
            part.close()
    writers = asyncio.create_task(parts["events"])
    await operator.postbox.record(job(), Event("Normal", Reason.STARTING, "at work"))
    async with asyncio.timeout(5):
        await first.wait()
    writers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writers
    await operator.postbox.record(job(), Event("Normal", Reason.STARTING, "the last one"))
    await operator.stop()
    assert written == ["at work", "the last one"]


async def test_events_that_a_full_box_dropped_are_counted_with_the_others(operator: Operator) -> None:
    operator.recorder.dropped, operator.postbox.dropped = 3, 4
    operator._set_gauges()
    assert "windlass_events_dropped 7.0" in operator.metrics.render().decode()
