"""Small parts: reflector, probe, endpoint, certificate, credentials, health, handlers, permissions, CRD check."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from contract.operator.harness import write_serving_pair
from unit.shell.conftest import Hand, slow_lists, until
from unit.shell.fakeapi import FakeApi, Fault
from windlass.api.kinds import KINDS
from windlass.shell import credentials as creds
from windlass.shell import permissions
from windlass.shell.cache import Cache, slim_pod
from windlass.shell.clock import Clock
from windlass.shell.credentials import CredentialsError, from_kubeconfig
from windlass.shell.endpoint import PORT_NAME, endpoint_slice, publish
from windlass.shell.errors import Unreachable
from windlass.shell.health import WATCH_LIMIT_SECONDS, Health, LoopLag, limit, serve
from windlass.shell.jobs import Jobs
from windlass.shell.lease import end_process
from windlass.shell.main import wait
from windlass.shell.metrics import Metrics
from windlass.shell.probe import LONGEST_INTERVAL_SECONDS, WatchProbe
from windlass.shell.reflector import Reflector, Selection
from windlass.shell.resources import BY_KIND, PODS, of
from windlass.shell.settings import Settings
from windlass.shell.tls import ServingCertificate

SETTINGS = Settings("windlass-system", "operator-1", "uid-1", "10.0.0.7", "workload:1")


def pod(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "team", "labels": labels or {"own": "yes"}}}


class Reflected:
    """A running reflector of pods labelled own=yes."""

    def __init__(self, api: FakeApi, hand: Hand) -> None:
        self.cache = Cache()
        clock = Clock(hand.monotonic, hand.now, self._sleep)
        self.pauses: list[float] = []
        self.reflector = Reflector(api.client(), self.cache, Selection(PODS, slim_pod, "own=yes"), clock)
        self.task = asyncio.create_task(self.reflector.run())

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def names(self) -> list[str]:
        return sorted(body["metadata"]["name"] for body in self.cache)

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def test_a_reflector_follows_its_kind(api: FakeApi, hand: Hand) -> None:
    api.put("pods", pod("a"))
    api.put("pods", pod("other", {"own": "no"}))
    running = Reflected(api, hand)
    await asyncio.wait_for(running.reflector.synced.wait(), 10)
    assert running.names() == ["a"]
    api.put("pods", pod("b"))
    await until(lambda: running.names() == ["a", "b"])
    api.remove("pods", "team", "a")
    await until(lambda: running.names() == ["b"])
    await running.stop()


async def test_a_reflector_lists_again_when_its_version_is_gone(api: FakeApi, hand: Hand) -> None:
    api.put("pods", pod("a"))
    running = Reflected(api, hand)
    await asyncio.wait_for(running.reflector.synced.wait(), 10)
    await until(lambda: any(path.endswith("/pods") for _, path in api.requests[1:]))
    # The server forgets its history and ends all streams.
    api.objects.pop(("pods", "team", "a"))
    api.put("pods", pod("b"))
    api.oldest = api.version + 1
    await running.stop()
    again = Reflected(api, hand)
    api.oldest = api.version
    await until(lambda: again.names() == ["b"])
    await again.stop()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "pods", 500, times=8),
        Fault("GET", "pods", drop=True, times=24),
        Fault("GET", "pods", 403),
    ],
)
async def test_a_reflector_never_gives_up(api: FakeApi, hand: Hand, fault: Fault) -> None:
    api.put("pods", pod("a"))
    api.faults.append(fault)
    running = Reflected(api, hand)
    await until(lambda: running.names() == ["a"])
    assert running.pauses
    await running.stop()


def test_a_bookmark_moves_the_version_and_changes_nothing(hand: Hand) -> None:
    cache = Cache()
    reflector = Reflector(None, cache, Selection(PODS, slim_pod), hand.clock())  # type: ignore[arg-type]
    reflector.take({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "77"}}})
    assert (reflector._since, len(cache)) == ("77", 0)


def test_a_silent_watch_gets_old(hand: Hand) -> None:
    reflector = Reflector(None, Cache(), Selection(PODS, slim_pod), hand.clock())  # type: ignore[arg-type]
    hand.at += 121
    assert reflector.age_seconds() == 121


# --- probe ----------------------------------------------------------------------------------------


def stored_job(api: FakeApi, name: str = "ft") -> dict[str, Any]:
    return api.put("finetunejobs", {"metadata": {"name": name, "namespace": "team"}})


async def test_a_probe_that_agrees_stays_young(api: FakeApi, hand: Hand) -> None:
    jobs = Jobs()
    jobs.upsert(json.loads(json.dumps(stored_job(api))))
    probe = WatchProbe(api.client(), jobs, (), hand.clock())
    hand.at += 30
    await probe.compare()
    assert probe.age_seconds() == 0


@pytest.mark.fault("F17")
async def test_a_cache_that_stays_behind_makes_the_probe_old(api: FakeApi, hand: Hand) -> None:
    jobs = Jobs()
    jobs.upsert(json.loads(json.dumps(stored_job(api))))
    probe = WatchProbe(api.client(), jobs, (), hand.clock())
    api.put("finetunejobs", api.get("finetunejobs", "ft") or {})
    await probe.compare()
    hand.at += 30
    await probe.compare()
    assert probe.age_seconds() == 30, "the second look proves it"
    jobs.upsert(json.loads(json.dumps(api.get("finetunejobs", "ft"))))
    await probe.compare()
    assert probe.age_seconds() == 0


async def test_a_busy_job_is_no_proof_of_a_stuck_watch(api: FakeApi, hand: Hand) -> None:
    jobs = Jobs()
    probe = WatchProbe(api.client(), jobs, (), hand.clock())
    stored_job(api)
    for _ in range(4):
        await probe.compare()
        jobs.upsert(json.loads(json.dumps(api.get("finetunejobs", "ft"))))
        api.put("finetunejobs", api.get("finetunejobs", "ft") or {})
        hand.at += 30
    assert probe.age_seconds() == 30


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 30.0), (1.5, 30.0), (2.0, 40.0), (2.5, 47.5), (9.0, 41.0), (25.0, 30)]
)
async def test_a_slow_server_is_compared_with_more_seldom(
    api: FakeApi, hand: Hand, took: float, pause: float
) -> None:
    client = api.client()
    agreed = [None] * len(KINDS)
    ends = (*agreed, *agreed[1:], Unreachable("no answer"), asyncio.CancelledError())
    slow_lists(client, hand, took / len(KINDS), *ends)
    with pytest.raises(asyncio.CancelledError):
        await WatchProbe(client, Jobs(), (), hand.clock()).run()
    assert hand.slept == [30.0, pause, pause], "an answer that never came took its time too"


def test_one_comparison_may_fail_before_the_watch_counts_as_stuck() -> None:
    longest_list = 10.0
    # From the start of one to that of the next is no longer than the interval; the last one has to end too.
    assert 2 * LONGEST_INTERVAL_SECONDS + len(KINDS) * longest_list <= WATCH_LIMIT_SECONDS


async def test_a_job_deleted_unseen_is_dropped(api: FakeApi, hand: Hand) -> None:
    jobs = Jobs()
    jobs.upsert(json.loads(json.dumps(stored_job(api))))
    api.remove("finetunejobs", "team", "ft")
    await WatchProbe(api.client(), jobs, (), hand.clock()).compare()
    assert len(jobs) == 0


# --- endpoint and certificate ---------------------------------------------------------------------


async def test_the_slice_is_written_once_and_again_only_when_it_differs(api: FakeApi) -> None:
    client = api.client()
    assert await publish(client, SETTINGS, 8443)
    assert not await publish(client, SETTINGS, 8443)
    body = api.get("endpointslices", "windlass-reports-leader", "windlass-system")
    assert body is not None
    body["endpoints"] = []
    assert await publish(client, SETTINGS, 8443)
    body = api.get("endpointslices", "windlass-reports-leader", "windlass-system")
    assert body is not None
    body["metadata"]["ownerReferences"] = []
    assert await publish(client, SETTINGS, 8443)
    await client.close()


@pytest.mark.parametrize(("address", "family"), [("10.0.0.7", "IPv4"), ("fd00::7", "IPv6")])
def test_the_slice_names_service_family_and_port(address: str, family: str) -> None:
    from dataclasses import replace

    body = endpoint_slice(replace(SETTINGS, pod_ip=address), 9443)
    assert body["addressType"] == family
    assert body["metadata"]["labels"]["kubernetes.io/service-name"] == "windlass-reports"
    assert body["ports"] == [{"name": PORT_NAME, "port": 9443, "protocol": "TCP"}]
    # It goes with its pod: agents are refused at once then, instead of waiting for an address that is gone.
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "operator-1", "uid": "uid-1"}
    ]


async def test_a_new_certificate_serves_new_connections(tmp_path: Path) -> None:
    write_serving_pair(tmp_path, "first.svc")
    certificate = ServingCertificate(tmp_path)
    health = Health(Metrics())
    runner, port = await serve(health.application(), 0, host="127.0.0.1", ssl_context=certificate.context)

    async def connects(name: str) -> bool:
        context = ssl.create_default_context(cadata=certificate.authority_pem())
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        except ssl.SSLError:
            return False
        writer.close()
        return True

    assert await connects("first.svc")
    assert not certificate.refresh()
    write_serving_pair(tmp_path, "second.svc")
    assert certificate.refresh()
    assert await connects("second.svc")
    (tmp_path / "tls.key").write_text("half a key")
    assert not certificate.refresh(), "a half-written pair is not taken"
    assert await connects("second.svc")
    await runner.cleanup()


# --- health ---------------------------------------------------------------------------------------


async def test_probes_name_what_is_wrong() -> None:
    health = Health(Metrics())
    age = [0.0]
    health.alive.append(limit("watch of pods", lambda: age[0], 120))
    runner, port = await serve(health.application(), 0, host="127.0.0.1")

    async def get(path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    assert await get("/healthz") == (200, "ok\n")
    age[0] = 121.0
    assert await get("/healthz") == (503, "watch of pods: 121 s (limit 120 s)\n")
    assert await get("/readyz") == (200, "ok\n")
    assert "windlass_leader" in (await get("/metrics"))[1]
    await runner.cleanup()


async def test_a_late_loop_is_noticed(hand: Hand) -> None:
    late = [0.0]

    async def sleep(seconds: float) -> None:
        hand.at += seconds + late.pop() if late else seconds
        if not late:
            raise asyncio.CancelledError

    late[:] = [0.0, 12.0]
    lag = LoopLag(Clock(hand.monotonic, hand.now, sleep))
    with suppress(asyncio.CancelledError):
        await lag.run()
    assert lag.worst_seconds == 12.0
    assert lag.seconds() >= 11


# --- credentials ----------------------------------------------------------------------------------


def kubeconfig(tmp_path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443/"} | cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_kubeconfig_with_inline_data_and_files(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    data = base64.b64encode(b"CERT").decode()
    user = {"client-certificate-data": data, "client-key-data": data}
    made = from_kubeconfig(kubeconfig(tmp_path, user, **{"certificate-authority": "ca.pem"}))
    assert (made.server, made.ca_pem, made.namespace) == ("https://127.0.0.1:6443", "CA", "team")
    assert (made.certificate_pem, made.key_pem) == ("CERT", "CERT")
    assert "CERT" not in repr(made).replace("certificate_pem='CERT'", "")


@pytest.mark.parametrize(
    ("context", "user", "text"),
    [
        ("other", {}, "kubeconfig.contexts: no such entry (got 'other'); allowed: c. hint: pass --context"),
        (
            None,
            {"exec": {"command": "aws"}},
            "kubeconfig.users: exec plugins are not supported (got user 'u'); allowed: token, tokenFile or client "
            "certificate. hint: make a token with kubectl create token",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, context: str | None, user: dict, text: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        from_kubeconfig(kubeconfig(tmp_path, user), context)
    assert str(caught.value) == text


def test_no_kubeconfig_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(CredentialsError, match="kubeconfig: not found"):
        creds.find(str(tmp_path / "none"))
    with pytest.raises(CredentialsError, match=r"kubeconfig: cannot be read .*hint: set KUBECONFIG"):
        from_kubeconfig(tmp_path)


def test_in_a_pod_the_token_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "namespace").write_text("windlass-system")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    made = creds.in_cluster(tmp_path)
    assert made is not None
    assert (made.server, made.namespace, made.bearer()) == ("https://[fd00::1]:443", "windlass-system", "one")
    (tmp_path / "token").write_text("two")
    assert (made.bearer(), made.bearer(fresh=True)) == ("one", "two")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert creds.in_cluster(tmp_path) is None


# --- rights and kinds -----------------------------------------------------------------------------


def test_the_operator_has_no_right_to_secrets_nodes_or_wildcards() -> None:
    rules = permissions.cluster_rules() + permissions.namespace_rules(lease="l", slice_name="s")
    for rule in rules:
        assert not {"secrets", "nodes", "pods/exec", "*"} & set(rule["resources"])
        assert "*" not in rule["verbs"] + rule["apiGroups"]
        if {kind.plural for kind in KINDS.values()} & set(rule["resources"]):
            assert not {"update", "patch", "create"} & set(rule["verbs"]), "the spec is never written"


def test_names_bind_every_right_in_our_namespace_but_create() -> None:
    for rule in permissions.namespace_rules(lease="the-lease", slice_name="the-slice"):
        assert rule["verbs"] == ["create"] or rule["resourceNames"] in (["the-lease"], ["the-slice"])


def test_resources_make_paths() -> None:
    assert PODS.path("team", "p", "status") == "/api/v1/namespaces/team/pods/p/status"
    for kind in KINDS.values():
        assert of(kind.name).path() == f"/apis/windlass.dev/v1alpha1/{kind.plural}"
    assert of("TokenReview").path() == "/apis/authentication.k8s.io/v1/tokenreviews"
    assert all(resource.kind == kind for kind, resource in BY_KIND.items())


# --- the process ----------------------------------------------------------------------------------


async def never() -> None:
    await asyncio.Event().wait()


async def breaks() -> None:
    raise RuntimeError("part broke")


async def ends() -> None:
    return


@pytest.mark.parametrize(
    ("part", "signalled", "status"), [(never, True, 0), (breaks, False, 5), (ends, False, 5)]
)
async def test_the_process_ends_by_signal_or_when_a_part_does(
    part: Callable[[], Any], signalled: bool, status: int
) -> None:
    stop = asyncio.Event()
    if signalled:
        stop.set()
    other = asyncio.create_task(never())
    assert await wait(stop, [asyncio.create_task(part()), other], never()) == status
    assert other.cancelled()


def test_the_lost_lease_ends_the_process_without_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    end_process()
    assert ended == [3]
