"""Many jobs that have ended: how long a new operator takes to look at all of them, and what it costs at rest."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.operator import load, plane
from bench.operator.audit import by_resource
from bench.operator.load import Api
from bench.operator.running import account, tell
from bench.operator.watching import Memory
from contract.operator.harness import JOBS, Operator, prepare, service_token, start
from windlass.core.status import conditions

Json = dict[str, Any]
QUIET_SAMPLES, QUIET_CPU_SECONDS = 10, 0.1
NAMESPACE = "bench"


def ended_status(nodes: int) -> Json:
    """The status of a job that went to its success, with as much in it as a real one has."""
    at = datetime.now(UTC)
    stamp = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    aspects = conditions.complete("40 steps done; output at pvc://checkpoints/final")
    merged = conditions.merge([], aspects, now=at, generation=1)
    rows = [
        {
            "step": step,
            "incarnation": 1,
            "name": f"step-{step:09d}",
            "digest": "sha256:" + "0" * 64,
            "bytes": 1 << 30,
            "committedAt": stamp,
        }
        for step in (20, 30, 40)
    ]
    members = [
        {"index": index, "ticket": index + 1, "podUid": f"00000000-0000-4000-8000-{index:012d}"}
        for index in range(nodes)
    ]
    return {
        "observedGeneration": 1,
        "conditions": [item.to_wire() for item in merged],
        "gang": {"attempt": 1, "lastTicket": nodes, "members": members},
        "incarnation": 1,
        "admittedAt": stamp,
        "startedAt": stamp,
        "finishedAt": stamp,
        "progress": {"phase": "Export", "step": 40, "totalSteps": 40, "loss": 1.5, "updatedAt": stamp},
        "checkpoints": rows,
    }


async def fill(api: Api, count: int, nodes: int) -> None:
    """Jobs with the status of ended ones."""
    status = {"status": ended_status(nodes)}
    path = JOBS.format(NAMESPACE)

    async def one(name: str) -> None:
        await api.send("POST", path, load.job_body(name, nodes))
        await api.send("PATCH", f"{path}/{name}/status", status, media="merge-patch+json")

    await load.each(load.job_names(count), one)


async def measure(options: argparse.Namespace, scratch: Path) -> Json:
    """All figures of ended jobs."""
    with plane.alone(scratch / "plane") as rig:
        account(rig.api)
        prepare(rig.api, scratch / "tls")
        token = service_token(rig.api, "default", "rig", expirationSeconds=7200)
        async with Api(rig.api.url, rig.api.context, token) as api:
            await api.send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            began = time.monotonic()
            await fill(api, options.finished, options.nodes)
            tell(f"finished: {options.finished} jobs written in {time.monotonic() - began:.1f} s")
            operator = start(rig.api, scratch / "one", "one")
            memory = Memory()
            watch = asyncio.create_task(memory.follow("one", operator))
            try:
                found = await first_pass(operator, options)
                found |= await rest(rig, operator, options.rest)
            finally:
                watch.cancel()
                operator.stop()
            found["residentMegabytes"] = {
                "highest": memory.highest(),
                "last": round(memory.megabytes["one"][-1], 1),
            }
            tell(f"finished: {found}")
            return found


async def first_pass(operator: Operator, options: argparse.Namespace) -> Json:
    """From the start of the process until every job was looked at once.

    Its metrics tell of every job, so that asking for them often would take as long as what is measured. They are
    asked for once its processor time stands still; the clock stops where that stillness began.
    """
    samples: list[tuple[float, float]] = []
    deadline = time.monotonic() + 600
    while True:
        assert operator.process.poll() is None, f"operator ended, see {operator.directory}"
        assert time.monotonic() < deadline, "the first pass is not done within 600 s"
        samples.append((operator.seconds_since_start(), operator.cpu_seconds()))
        began, worked = samples[-QUIET_SAMPLES] if len(samples) >= QUIET_SAMPLES else samples[0]
        still = len(samples) >= QUIET_SAMPLES and samples[-1][1] - worked <= QUIET_CPU_SECONDS
        if still and operator.metric("windlass_reconcile_total") >= options.finished:
            break
        await asyncio.sleep(0.1)
    return {
        "jobs": options.finished,
        "firstPassSeconds": round(began, 1),
        "firstPassCpuSeconds": round(worked, 1),
        "loadAverage": os.getloadavg()[0],
    }


async def rest(rig: plane.Plane, operator: Operator, seconds: float) -> Json:
    """What is written while nothing happens, from a moment after the first pass."""
    began, cpu = time.time(), operator.cpu_seconds()
    await asyncio.sleep(seconds)
    writes = rig.audit.since(began)
    return {
        "restSeconds": seconds,
        "restWritesByResource": by_resource(writes),
        "restWrites": sum(one.resource != "leases" for one in writes),
        "restCpuSeconds": round(operator.cpu_seconds() - cpu, 2),
        "passWrites": by_resource(one for one in rig.audit.read() if one.is_of_jobs),
    }
