"""Jobs that run: their start beside a bare client's, changes, a storm of restarts, the leader's death."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.operator import figures, leaders, load, plane
from bench.operator.audit import Write, by_resource
from bench.operator.leaders import Leader, Line
from bench.operator.load import Api, wait_for
from bench.operator.watching import Memory, Shown
from contract.operator.harness import LEASE, SYSTEM, Operator, prepare, service_token, start
from contract.server import Client
from windlass.core.settings import RenderSettings

Json = dict[str, Any]
BARE = "bare"
LEASE_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{LEASE}"
CHILDREN = {
    "Pod": "/api/v1/pods",
    "ConfigMap": "/api/v1/configmaps",
    "Service": "/api/v1/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
}


@dataclass
class Scene:
    """Everything that runs while jobs do."""

    plane: plane.Plane
    options: argparse.Namespace
    scratch: Path
    api: Api
    group: asyncio.TaskGroup
    memory: Memory = field(default_factory=Memory)
    operators: list[Operator] = field(default_factory=list)
    played: dict[str, Leader] = field(default_factory=dict)
    found: Json = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return load.job_names(self.options.jobs)

    def start(self, name: str) -> Operator:
        """One more operator; its memory is followed. Its pod is real, since others clean up after pods that are not."""
        uid = operator_pod(self.plane.api, name)
        operator = start(self.plane.api, self.scratch / name, name, POD_UID=uid)
        self.operators.append(operator)
        self.group.create_task(self.memory.follow(name, operator))
        return operator


def tell(text: str) -> None:
    """Say what is going on, with the time."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


async def measure(options: argparse.Namespace, scratch: Path) -> Json:
    """All figures of running jobs."""
    with plane.whole(scratch / "plane", int(options.jobs * options.nodes * 2.2)) as rig:
        async with scene(rig, options, scratch) as here:
            async with profiled(here, "bare"):
                await bare_start(here)
            async with profiled(here, "start"):
                await start_of_all(here)
            # Once more, since the machine may be another by now: the ratio is to the mean of both.
            await bare_start(here)
            if not options.only_start:
                async with profiled(here, "changes"):
                    await changes(here)
                await storm(here)
                await death(here)
            here.found["residentMegabytes"] = {
                name: {"highest": round(max(samples), 1), "last": round(samples[-1], 1)}
                for name, samples in here.memory.megabytes.items()
            }
            return here.found


@asynccontextmanager
async def scene(rig: plane.Plane, options: argparse.Namespace, scratch: Path) -> AsyncIterator[Scene]:
    """The rig's client with its own ServiceAccount: an administrator's requests would never have to queue."""
    account(rig.api)
    prepare(rig.api, scratch / "tls")
    token = service_token(rig.api, "default", "rig", expirationSeconds=7200)
    async with Api(rig.api.url, rig.api.context, token) as api:
        for namespace in (*load.namespaces(options.namespaces), BARE):
            await load.prepare_namespace(api, namespace)
        here: Scene | None = None
        try:
            async with asyncio.TaskGroup() as group:
                here = Scene(rig, options, scratch, api, group)
                yield here
                for operator in here.operators:
                    operator.stop()
        finally:
            for operator in here.operators if here is not None else ():
                if operator.process.poll() is None:
                    operator.kill()


def account(api: Client) -> None:
    """A ServiceAccount that may do everything."""
    api.until(lambda: api.get("/api/v1/namespaces/default").code == 200)
    api.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "rig"}}).expect(201)
    body = {
        "metadata": {"name": "rig"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "rig", "namespace": "default"}],
    }
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body).expect(201)


def operator_pod(api: Client, name: str) -> str:
    """A pod for the operator to be the owner of its endpoint with; kwok plays it. Its UID."""
    container = {"name": "operator", "image": "played"}
    body = {"metadata": {"name": name}, "spec": {"nodeName": "played-0", "containers": [container]}}
    return str(api.create(f"/api/v1/namespaces/{SYSTEM}/pods", body).expect(201)["metadata"]["uid"])


# --- start -------------------------------------------------------------------------------------------


@asynccontextmanager
async def profiled(here: Scene, name: str) -> AsyncIterator[None]:
    """With --profile, the first seconds of the API server meanwhile, in a file for `go tool pprof`."""
    if not here.options.profile:
        yield
        return
    path = here.options.keep / f"{name}.pb.gz"
    task = here.group.create_task(here.api.profile(here.options.profile))
    yield
    path.write_bytes(await task)
    tell(f"profile of the API server: go tool pprof -top {path}")


async def bare_start(here: Scene) -> None:
    """The same pods by a client that does nothing else, and then away with them."""
    options, api = here.options, here.api
    authority = (here.scratch / "tls" / "ca.crt").read_text()
    settings = RenderSettings(
        workload_image="workload:test",
        report_url="https://windlass-reports.windlass-system.svc:8443/v1/reports",
        ca_pem=authority,
    )
    bodies = [body for name in here.names for body in load.bare_pods(name, BARE, options.nodes, settings)]
    path = f"/api/v1/namespaces/{BARE}/pods"
    tell(f"bare client: {len(bodies)} pods")
    used = plane.cpu_seconds(os.getpid())
    began = time.monotonic()
    await load.each(bodies, lambda body: api.send("POST", path, body), at_once=options.at_once)
    seconds = time.monotonic() - began
    programs = figures.used(used, plane.cpu_seconds(os.getpid()))
    await load.all_run(api, path, 900)
    # The scheduler and the kubelets work on after the last creation: only now both sides have done the same.
    until_running = figures.used(used, plane.cpu_seconds(os.getpid()))
    row = {
        "pods": len(bodies),
        "seconds": round(seconds, 2),
        "podsPerSecond": round(len(bodies) / seconds, 1),
        "allRunSeconds": round(time.monotonic() - began, 1),
        "requestsAtOnce": options.at_once,
        "cpuSecondsByProgram": programs,
        "cpuSecondsByProgramUntilRunning": until_running,
        "loadAverage": os.getloadavg()[0],
    }
    here.found.setdefault("bare", []).append(row)
    tell(f"bare client: {row}")
    await api.send("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})

    async def gone() -> bool:
        return not await api.exists(path)

    await wait_for(gone, "bare pods are gone", 600, every=1.0)


async def start_of_all(here: Scene) -> None:
    """All jobs are there before the operator: the clock runs from the moment it may act."""
    options, audit = here.options, here.plane.audit
    submitted = await load.submit(here.api, here.names, options.nodes, options.namespaces)
    tell(f"jobs: {options.jobs} submitted in {submitted:.1f} s")
    pods = options.jobs * options.nodes
    used = plane.cpu_seconds(os.getpid())
    operator = here.start("one")
    began = time.time()
    await wait_for(lambda: sum(one.made_a_pod for one in audit.read()) >= pods, "all pods are made", 1200)
    cpu, programs = operator.cpu_seconds(), figures.used(used, plane.cpu_seconds(os.getpid()))
    acquired = acquired_at(here.plane.api)
    made = [one.at for one in audit.read() if one.made_a_pod]
    here.found["start"] = {
        "jobs": options.jobs,
        "pods": pods,
        "seconds": round(max(made) - acquired, 2),
        "podsPerSecond": round(pods / (max(made) - acquired), 1),
        "firstPodSeconds": round(min(made) - acquired, 2),
        "processStartToLeaseSeconds": round(acquired - began, 2),
        "cpuSeconds": round(cpu, 1),
        "cpuSecondsByProgram": programs,
        "writesPerJobUntilLastPod": per_job(of_jobs(audit.since(acquired, max(made) + 1e-6)), options.jobs),
        "readsPerJobUntilLastPod": per_job(of_jobs(audit.reads_since(acquired, max(made))), options.jobs),
        "loadAverage": os.getloadavg()[0],
    }
    tell(f"start: {here.found['start']}")
    await load.all_run(here.api, CHILDREN["Pod"], 900)
    here.found["start"]["allRunSeconds"] = round(time.time() - acquired, 1)
    until_running = figures.used(used, plane.cpu_seconds(os.getpid()))
    here.found["start"]["cpuSecondsByProgramUntilRunning"] = until_running
    await settled(here, operator)
    writes = of_jobs(audit.since(acquired))
    here.found["start"]["writesPerJob"] = per_job(writes, options.jobs)
    here.found["start"]["readsPerJob"] = per_job(of_jobs(audit.reads_since(acquired)), options.jobs)
    here.found["start"]["refusedWrites"] = sum(one.code >= 300 for one in writes)
    here.found["start"]["cpuSecondsUntilRunning"] = round(operator.cpu_seconds(), 1)
    tell(f"start: {here.found['start']}")


def of_jobs(requests: list[Write]) -> list[Write]:
    """Those that were made for a job rather than for the operator itself."""
    return [one for one in requests if one.is_of_jobs]


def acquired_at(api: Client) -> float:
    """When the present leader took the Lease, in seconds since 1970."""
    spec = api.get(LEASE_PATH).expect(200)["spec"]
    return datetime.fromisoformat(spec["acquireTime"]).timestamp()


async def settled(here: Scene, operator: Operator, quiet_seconds: float = 3.0) -> None:
    """Wait until the operator has written nothing about jobs for a while."""
    audit = here.plane.audit

    def quiet() -> bool:
        last = max((one.at for one in audit.read() if one.is_of_jobs), default=0.0)
        return time.time() - last > quiet_seconds

    await wait_for(quiet, "the operator has written everything", 300, every=0.5)
    assert operator.process.poll() is None, f"operator ended, see {operator.directory}"


def per_job(writes: list[Write], jobs: int) -> dict[str, float]:
    """Writes for each job by resource."""
    counted = by_resource(writes)
    return {name: round(count / jobs, 2) for name, count in counted.items()} | {
        "all": round(len(writes) / jobs, 2)
    }


# --- changes -----------------------------------------------------------------------------------------


async def changes(here: Scene) -> None:
    """Leaders tell of new checkpoints at a fixed pace; status shows them."""
    options, audit = here.options, here.plane.audit
    operator = here.operators[0]
    played = await leaders.find(here.api, here.names)
    here.played = {one.job: one for one in played}
    tell(f"changes: {len(played)} leaders have tokens")
    async with Line([operator.report_port], here.scratch / "tls" / "ca.crt") as line:
        await line.all_train(played)
        await settled(here, operator)
        shown = Shown()
        version = (await here.api.send("GET", load.ALL_JOBS, query={"limit": "1"}))["metadata"]
        steady = here.group.create_task(line.steady(played))
        watch = here.group.create_task(shown.follow(here.api, version["resourceVersion"]))
        pace = min(options.changes_per_second, 2.0 * len(played))
        began, cpu = time.time(), operator.cpu_seconds()
        used = plane.cpu_seconds(os.getpid())
        told = await line.changes(played, pace, options.seconds)
        routine = line.routine
        worked, programs = operator.cpu_seconds() - cpu, figures.used(used, plane.cpu_seconds(os.getpid()))
        took = time.time() - began
        await wait_for_all(shown, told)
        steady.cancel()
        await settled(here, operator)
        watch.cancel()
    delays, missing = shown.delays(told)
    writes = of_jobs(audit.since(began))
    here.found["changes"] = {
        "asked": options.changes_per_second,
        "perSecond": round(len(told) / took, 1),
        "seconds": round(took, 1),
        "latencySeconds": figures.latency(delays, missing),
        "writesPerChange": round(len(writes) / len(told), 3),
        "writesByResource": by_resource(writes),
        "readsByResource": by_resource(of_jobs(audit.reads_since(began))),
        "routineReportsPerSecond": round(routine / took, 1),
        "refusedReports": len(line.refused),
        "firstRefusals": line.refused[:3],
        "operatorCores": round(worked / took, 3),
        "cpuSecondsByProgram": programs,
        "loadAverage": os.getloadavg()[0],
    }
    tell(f"changes: {here.found['changes']}")


async def wait_for_all(shown: Shown, told: dict[tuple[str, int], float]) -> None:
    """Give the last changes time to show; what has not shown by then counts as missing."""
    with suppress(AssertionError):
        await wait_for(lambda: shown.delays(told)[1] == 0, "all changes show", 30)


# --- storm -------------------------------------------------------------------------------------------


async def storm(here: Scene) -> None:
    """Leaders of many gangs ask for a whole new gang at the same time."""
    options, audit = here.options, here.plane.audit
    operator = here.operators[0]
    names = here.names[: options.storm]
    # The same leaders as before: a report counts only if it is newer than its pod's last.
    played = [here.played[name] for name in names]
    pods = len(names) * options.nodes
    tell(f"storm: {len(names)} gangs")
    async with Line([operator.report_port], here.scratch / "tls" / "ca.crt") as line:
        # The others go on reporting, or the operator would find each of them silent and say so in its status.
        others = [one for name, one in here.played.items() if name not in set(names)]
        steady = here.group.create_task(line.steady(others))
        began = time.time()
        await load.each(played, lambda one: line.send(one, ask_anew(one)), at_once=64)

        def made() -> list[float]:
            return [one.at for one in audit.since(began) if one.made_a_pod]

        await wait_for(lambda: len(made()) >= pods, "all pods are made anew", 300)
        times = made()
        await load.all_run(here.api, CHILDREN["Pod"], 300)
        steady.cancel()
    deleted = [one.at for one in audit.since(began) if (one.verb, one.resource) == ("delete", "pods")]
    here.found["storm"] = {
        "gangs": len(names),
        "pods": pods,
        "seconds": round(max(times) - began, 2),
        "firstPodSeconds": round(min(times) - began, 2),
        "lastDeleteSeconds": round(max(deleted) - began, 2) if deleted else None,
        "refusedReports": len(line.refused),
        "firstRefusals": line.refused[:3],
    }
    tell(f"storm: {here.found['storm']}")
    await settled(here, operator)


def ask_anew(leader: Leader) -> bytes:
    """The report of a leader whose ranks do not come up again."""
    return leader.report(wanted="RecreateGang")


# --- death -------------------------------------------------------------------------------------------


async def death(here: Scene) -> None:
    """The leader is killed while it makes pods anew, with a standby beside it."""
    options, audit, api = here.options, here.plane.audit, here.api
    old = here.operators[0]
    standby = here.start("two")
    await wait_for(lambda: standby.get("/readyz")[0] == 200, "the standby is ready", 120)
    # A standby whose view of jobs is complete shows it by its own number of them.
    await asyncio.sleep(5.0)
    lost = here.names[-options.lost :]
    gangs = {
        item["metadata"]["name"]: item["status"]["gang"]["members"]
        for item in (await api.send("GET", load.ALL_JOBS))["items"]
    }
    victims = [
        f"/api/v1/namespaces/{load.namespace_of(name, options.namespaces)}/pods/{name}-{one['index']}-{one['ticket']}"
        for name in lost
        for one in gangs[name][-2:]
    ]
    tell(f"death: {len(victims)} pods of {len(lost)} jobs go, then the leader")
    at_once = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
    await load.each(victims, lambda path: api.send("DELETE", path, at_once))
    before = time.time()
    old.kill()
    killed = time.time()

    def decisions() -> list[float]:
        # What the dead one had sent is still answered, if only by giving up; a decision follows the Lease.
        taken = acquired_at(here.plane.api)
        if taken < killed:
            return []
        return [one.at for one in audit.since(taken) if one.is_of_jobs and one.code < 300]

    await wait_for(decisions, "the standby decides", 120)

    async def whole() -> bool:
        pods = await api.send("GET", CHILDREN["Pod"], accept=load.METADATA)
        return len(figures.places("Pod", pods["items"])) >= options.jobs * options.nodes

    await wait_for(whole, "all gangs are whole again", 300, every=1.0)
    complete = time.time()
    await load.all_run(api, CHILDREN["Pod"], 300)
    await settled(here, standby)
    children: list[tuple[str, str, str]] = []
    for kind, path in CHILDREN.items():
        found = await api.send("GET", path, accept=load.METADATA)
        children += figures.places(kind, found["items"])
    twice = figures.duplicates(children)
    here.found["death"] = {
        "runningJobs": options.jobs,
        "podsLostBefore": len(victims),
        "killedAfterSeconds": round(killed - before, 3),
        "leaseSeconds": round(acquired_at(here.plane.api) - killed, 2),
        "nextDecisionSeconds": round(min(decisions()) - killed, 2),
        "allWholeSeconds": round(complete - killed, 1),
        "children": len(children),
        "duplicates": len(twice),
        "firstDuplicates": twice[:5],
    }
    tell(f"death: {here.found['death']}")
