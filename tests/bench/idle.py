"""`make bench-idle`: how long the operator takes to start, and what it costs while nothing happens.

A real API server, which counts all writes itself, and the operator in its own environment with finished jobs.
Processor seconds say more than wall time on a shared machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator")]

from bench.record import spread, write  # noqa: E402
from contract.operator.harness import Cluster, Operator, job, prepare, start, writes_by_resource  # noqa: E402
from contract.server import Client, install, running, shipped_crds  # noqa: E402

GOALS = {"startSeconds": 3.0, "megabytes": 120, "writesOtherThanLeases": 0}
NAMESPACE = "bench"


def starts(api: Client, directory: Path, count: int) -> dict[str, Any]:
    """Process start to ready, some times one after another."""
    seconds, work, memory = [], [], []
    for _ in range(count):
        one = start(api, directory, "operator-start")
        try:
            seconds.append(one.await_ready().seconds_since_start())
            work.append(one.cpu_seconds())
            memory.append(one.resident_megabytes())
        finally:
            one.stop()
    return {"seconds": spread(seconds), "cpuSeconds": spread(work), "megabytes": spread(memory)}


def finish_jobs(cluster: Cluster, count: int) -> None:
    """Jobs of one pod each, played to their success."""
    cluster.claims()
    names = [f"done-{number}" for number in range(count)]
    for name in names:
        cluster.submit(job(name, resources={"nodes": 1}))
    for name in names:
        cluster.finish(name)
    for name in names:
        cluster.await_reason(name, "Completed", "Complete", 60)


def idle(operator: Operator, cluster: Cluster, seconds: float) -> dict[str, Any]:
    """Watch a leader that has nothing to do."""
    operator.await_rest()
    before, worked, began = writes_by_resource(cluster.api), operator.cpu_seconds(), time.monotonic()
    memory = []
    while time.monotonic() - began < seconds:
        memory.append(operator.resident_megabytes())
        time.sleep(1.0)
    written = writes_by_resource(cluster.api) - before
    return {
        "seconds": round(time.monotonic() - began, 1),
        "writesByResource": dict(written),
        "writesOtherThanLeases": sum(count for resource, count in written.items() if resource != "leases"),
        "megabytes": spread(memory),
        "cpuSeconds": round(operator.cpu_seconds() - worked, 2),
    }


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Start the server, then the operator again and again, then one that stays."""
    (scratch / "server").mkdir()
    with running(scratch / "server") as api:
        for crd in shipped_crds():
            install(api, crd)
        api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}).expect(201)
        prepare(api, scratch / "tls")
        begun = starts(api, scratch / "starts", options.starts)
        leader = start(api, scratch / "leader", "operator-leader")
        try:
            leader.await_ready().await_leading()
            cluster = Cluster(api, NAMESPACE)
            finish_jobs(cluster, options.jobs)
            rest = idle(leader, cluster, options.seconds)
        finally:
            leader.stop()
    return {"start": begun, "idle": rest, "finishedJobs": options.jobs, "goals": GOALS}


def main() -> None:
    """Entry of `make bench-idle`."""
    parser = argparse.ArgumentParser(prog="bench-idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to look on")
    parser.add_argument("--jobs", type=int, default=20, help="finished jobs")
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as scratch:
        figures = measure(options, Path(scratch))
    write("idle", figures, packages=("kopf", "aiohttp", "pydantic"))


if __name__ == "__main__":
    main()
