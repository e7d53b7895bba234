"""`make bench-status`: what one write of a job's status costs the API server, in processor time.

A gang of eight is made by the real operator, which then stops; after that its status is written again and again, each
time with another step, in the ways that a controller has: server-side apply, PUT, merge patch. The same writes go to a
kind without the rules of ours, and to one without any schema, which is what such a write costs at least. Ways take
turns, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "operator")]

from bench.operator import plane  # noqa: E402
from bench.operator.load import Api, job_body  # noqa: E402
from bench.record import spread, write  # noqa: E402
from contract.operator.harness import Cluster, prepare, start, until  # noqa: E402
from contract.server import ADMIN_TOKEN, CRD_PATH, Client, install, running, shipped_crds  # noqa: E402
from windlass.api.meta import GROUP, STATUS_MANAGER, VERSION  # noqa: E402

Json = dict[str, Any]
NAMESPACE = "bench"
NAME = "gang"
SERVER = "kube-apiserver"
WARM_UP = 20
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


def without_rules(schema: Any) -> Any:
    """A schema without any rule."""
    if isinstance(schema, dict):
        return {
            key: without_rules(value) for key, value in schema.items() if key != "x-kubernetes-validations"
        }
    return [without_rules(item) for item in schema] if isinstance(schema, list) else schema


def open_schema(_: Any) -> Any:
    """A schema that takes anything."""
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


KINDS: dict[str, Callable[[Any], Any]] = {
    "shipped": copy.deepcopy,
    "withoutRules": without_rules,
    "withoutSchema": open_schema,
}


def renamed(crd: Json, number: int, change: Callable[[Any], Any]) -> Json:
    """The same kind by another name, with another schema."""
    body: Json = copy.deepcopy(crd)
    names = body["spec"]["names"]
    plural = f"kind{number}s"
    body["metadata"] = {"name": f"{plural}.{GROUP}"}
    body["spec"]["names"] = {
        "kind": f"Kind{number}",
        "listKind": f"Kind{number}List",
        "plural": plural,
        "singular": f"kind{number}",
        "categories": names.get("categories", []),
    }
    for version in body["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"] = change(version["schema"]["openAPIV3Schema"])
    return body


async def apply(api: Api, path: str, job: Json, status: Json) -> Json:
    """Server-side apply at a version."""
    metadata = {name: job["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    body = {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "status": status}
    query = {"fieldManager": STATUS_MANAGER, "force": "true"}
    return await api.send("PATCH", path, body, query=query, media="apply-patch+yaml")


async def put(api: Api, path: str, job: Json, status: Json, **more: Any) -> Json:
    """PUT of what the status belongs to and the status, at a version."""
    metadata = {name: job["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    body = {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "status": status}
    query = {"fieldManager": STATUS_MANAGER, **more.pop("query", {})}
    return await api.send("PUT", path, body, query=query, **more)


async def put_unwarned(api: Api, path: str, job: Json, status: Json) -> Json:
    """The same, without warnings of fields that the schema does not know."""
    return await put(api, path, job, status, query={"fieldValidation": "Ignore"})


async def put_briefly(api: Api, path: str, job: Json, status: Json) -> Json:
    """The same, answered with the metadata alone."""
    answer = await put(api, path, job, status, query={"fieldValidation": "Ignore"}, accept=METADATA_ONLY)
    return answer | {"apiVersion": job["apiVersion"], "kind": job["kind"]}


async def merge(api: Api, path: str, job: Json, status: Json) -> Json:
    """Merge patch at a version; what the patch does not name stays."""
    body = {"metadata": {"resourceVersion": job["metadata"]["resourceVersion"]}, "status": status}
    return await api.send(
        "PATCH", path, body, query={"fieldManager": STATUS_MANAGER}, media="merge-patch+json"
    )


WAYS = {"apply": apply, "put": put, "putUnwarned": put_unwarned, "putBriefly": put_briefly, "merge": merge}


async def burst(api: Api, path: str, way: str, count: int) -> tuple[float, float]:
    """Milliseconds of the server's processor time and of waiting for each of so many writes."""
    seen = await api.send("GET", path)
    status = copy.deepcopy(seen["status"])

    async def once(job: Json) -> Json:
        status["progress"]["step"] = int(status["progress"].get("step", 0)) + 1
        return await WAYS[way](api, f"{path}/status", job, status)

    for _ in range(WARM_UP):
        seen = await once(seen)
    used, began = plane.cpu_seconds(os.getpid())[SERVER], time.monotonic()
    for _ in range(count):
        seen = await once(seen)
    took = time.monotonic() - began
    return (plane.cpu_seconds(os.getpid())[SERVER] - used) / count * 1000, took / count * 1000


def made_by_the_operator(api: Client, scratch: Path, nodes: int) -> Json:
    """A running gang with the status that the operator gave it; the operator has ended since."""
    prepare(api, scratch / "tls")
    one = start(api, scratch / "operator", "operator")
    try:
        one.await_ready().await_leading()
        cluster = Cluster(api, NAMESPACE)
        cluster.claims()
        cluster.submit(job_body(NAME, nodes))
        names = [f"{NAME}-{index}-{index + 1}" for index in range(nodes)]
        until(lambda: cluster.pod_names(NAME) == sorted(names), "all pods made")
        for name in names:
            cluster.run_pod(name)
        cluster.await_reason(NAME, "Starting")
        one.await_rest()
        return cluster.job(NAME)
    finally:
        one.stop()


def copies(api: Client, crd: Json, body: Json) -> dict[str, str]:
    """The same object of each kind; the path of each."""
    paths = {}
    for number, (name, change) in enumerate(KINDS.items()):
        kind = renamed(crd, number, change)
        install(api, kind)
        plural = kind["spec"]["names"]["plural"]
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{plural}"
        twin = {
            "apiVersion": body["apiVersion"],
            "kind": kind["spec"]["names"]["kind"],
            "metadata": {"name": NAME},
            "spec": body["spec"],
        }
        api.create(path, twin).expect(201)
        api.merge(f"{path}/{NAME}/status", {"status": body["status"] | {"progress": {"step": 1}}}).expect(200)
        paths[name] = f"{path}/{NAME}"
    return paths


async def measure(options: argparse.Namespace, scratch: Path) -> Json:
    """Bursts of all ways and kinds, in turns."""
    (scratch / "server").mkdir()
    with running(scratch / "server") as admin:
        (crd,) = [one for one in shipped_crds() if one["spec"]["names"]["kind"] == "FineTuneJob"]
        install(admin, crd)
        admin.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}).expect(201)
        body = made_by_the_operator(admin, scratch, options.nodes)
        paths = copies(admin, crd, body)
        figures: dict[str, dict[str, list[tuple[float, float]]]] = {
            kind: {way: [] for way in WAYS} for kind in paths
        }
        async with Api(admin.url, admin.context, ADMIN_TOKEN) as api:
            for _ in range(options.turns):
                for kind, path in paths.items():
                    for way in WAYS:
                        figures[kind][way].append(await burst(api, path, way, options.writes))
            owners = {
                kind: [
                    f"{row['manager']} {row['operation']} {row.get('subresource', '')}".strip()
                    for row in (await api.send("GET", path))["metadata"]["managedFields"]
                ]
                for kind, path in paths.items()
            }
        admin.request("DELETE", f"{CRD_PATH}/{crd['metadata']['name']}")
    return {
        "serverMilliseconds": {
            kind: {way: spread([used for used, _ in rows]) for way, rows in ways.items()}
            for kind, ways in figures.items()
        },
        "waitMilliseconds": {
            kind: {way: spread([took for _, took in rows]) for way, rows in ways.items()}
            for kind, ways in figures.items()
        },
        "owners": owners,
        "writes": options.writes,
        "turns": options.turns,
    }


def main() -> None:
    """Entry of `make bench-status`."""
    parser = argparse.ArgumentParser(prog="bench-status", description=__doc__)
    parser.add_argument("--writes", type=int, default=150, help="writes in a row")
    parser.add_argument("--turns", type=int, default=5, help="how often each way has its turn")
    parser.add_argument("--nodes", type=int, default=8, help="pods of the gang")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="windlass-bench-") as scratch:
        figures = asyncio.run(measure(options, Path(scratch)))
    write("status", figures, packages=("aiohttp", "pydantic"))


if __name__ == "__main__":
    main()
