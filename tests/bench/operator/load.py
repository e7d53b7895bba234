"""The benchmark's own asynchronous client, and the objects that it makes: jobs, claims, bare pods."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from contract.operator.harness import JOBS, job
from windlass.api.meta import GROUP, VERSION
from windlass.core.observed import Job
from windlass.core.render.gang import whole_gang
from windlass.core.settings import RenderSettings

Json = dict[str, Any]
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
CLAIMS = ("models", "data", "checkpoints")
ALL_JOBS = f"/apis/{GROUP}/{VERSION}/finetunejobs"


@dataclass
class Api:
    """Requests of one user with many connections. Refusals are errors: nothing here expects one."""

    url: str
    context: ssl.SSLContext
    token: str
    connections: int = 64
    _session: aiohttp.ClientSession | None = field(default=None, repr=False)

    async def __aenter__(self) -> Api:
        connector = aiohttp.TCPConnector(ssl=self.context, limit=self.connections)
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = aiohttp.ClientTimeout(total=120)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use `async with`"
        return self._session

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        media: str = "json",
        accept: str = "application/json",
    ) -> Json:
        """One request and its decoded answer."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Content-Type": f"application/{media}", "Accept": accept}
        async with self.session.request(
            method, self.url + path, data=data, params=query, headers=headers
        ) as answer:
            text = await answer.read()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text[:500]!r}"
            return json.loads(text) if text else {}

    async def profile(self, seconds: int) -> bytes:
        """Where the API server's processor time goes in the next seconds, as `go tool pprof` reads it."""
        timeout = aiohttp.ClientTimeout(total=seconds + 60)
        async with self.session.get(
            f"{self.url}/debug/pprof/profile", params={"seconds": str(seconds)}, timeout=timeout
        ) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def watch(self, path: str, since: str) -> AsyncIterator[tuple[float, Json]]:
        """Events with the moment they arrived, until the caller stops.

        A server ends the watch of a client that reads too slowly: it goes on from the last event that came. Raises
        RuntimeError when the server does not know that version any more.
        """
        while True:
            async for at, event in self._stream(path, since):
                if event["type"] == "ERROR":
                    raise RuntimeError(f"watch of {path} from {since}: {event['object'].get('message')}")
                since = event["object"]["metadata"]["resourceVersion"]
                yield at, event

    async def _stream(self, path: str, since: str) -> AsyncIterator[tuple[float, Json]]:
        """Events of one watch, until the server ends it."""
        query = {"watch": "true", "resourceVersion": since}
        timeout = aiohttp.ClientTimeout(total=None)
        rest = b""
        async with self.session.get(self.url + path, params=query, timeout=timeout) as answer:
            async for chunk in answer.content.iter_any():
                at = time.time()
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield at, json.loads(line)

    async def exists(self, path: str, **query: str) -> bool:
        """Whether a collection has any such object."""
        found = await self.send("GET", path, query={"limit": "1", **query}, accept=METADATA)
        return bool(found.get("items"))


async def each(items: Iterable[Any], work: Callable[[Any], Awaitable[Any]], at_once: int = 32) -> list[Any]:
    """The results of some work on each item, in order, with so many at once."""
    todo = list(enumerate(items))
    results: list[Any] = [None] * len(todo)
    todo.reverse()

    async def worker() -> None:
        while todo:
            number, item = todo.pop()
            results[number] = await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(results))):
            group.create_task(worker())
    return results


async def wait_for(look: Callable[[], Any], what: str, seconds: float, every: float = 0.2) -> Any:
    """The first true result of `look`, which may be a coroutine; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = look()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        await asyncio.sleep(every)


def job_names(count: int) -> list[str]:
    """Names of the jobs."""
    return [f"job-{number:05d}" for number in range(count)]


def job_body(name: str, nodes: int) -> Json:
    """A job of so many pods, small enough that hundreds fit on a played node."""
    body = job(name, resources={"nodes": nodes, "perNode": {"cpu": "1", "memory": "1Gi"}})
    # One sample of a batch for each pod, at least.
    body["spec"]["training"] = {"globalBatchSize": nodes, "maxSteps": 1_000_000}
    return body


def bare_pods(name: str, namespace: str, nodes: int, settings: RenderSettings) -> list[bytes]:
    """The pods of a job as the operator would make them, but owned by nobody."""
    body = job_body(name, nodes)
    body["metadata"] |= {
        "namespace": namespace,
        "uid": f"uid-of-{name}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "generation": 1,
    }
    parsed = Job.from_wire(body)
    assert parsed.spec is not None, parsed.spec_error
    made = []
    for manifest in whole_gang(parsed, parsed.spec, settings=settings):
        pod = json.loads(json.dumps(manifest))
        if pod["kind"] == "Pod":
            del pod["metadata"]["ownerReferences"]
            made.append(json.dumps(pod).encode())
    return made


async def prepare_namespace(api: Api, namespace: str) -> None:
    """A namespace with the ServiceAccount and the bound claims that the jobs name."""
    await api.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    core = f"/api/v1/namespaces/{namespace}"
    await api.send("POST", f"{core}/serviceaccounts", {"metadata": {"name": "trainer"}})
    size = {"storage": "1Gi"}
    for name in CLAIMS:
        volume = {
            "metadata": {"name": f"{namespace}-{name}"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": size,
                "storageClassName": "played",
                "hostPath": {"path": f"/played/{name}"},
                "claimRef": {"namespace": namespace, "name": name},
            },
        }
        claim = {
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": size},
                "storageClassName": "played",
                "volumeName": f"{namespace}-{name}",
            },
        }
        await api.send("POST", "/api/v1/persistentvolumes", volume)
        await api.send("POST", f"{core}/persistentvolumeclaims", claim)

    async def bound() -> bool:
        claims = await api.send("GET", f"{core}/persistentvolumeclaims")
        return all(item["status"].get("phase") == "Bound" for item in claims["items"])

    await wait_for(bound, f"claims of {namespace} are bound", 60)


def namespaces(count: int) -> list[str]:
    """Where jobs are."""
    return [f"bench-{number}" for number in range(count)]


def namespace_of(name: str, count: int) -> str:
    """The namespace of a job, by its number."""
    return namespaces(count)[int(name.rpartition("-")[2]) % count]


async def submit(api: Api, names: Sequence[str], nodes: int, spread: int) -> float:
    """Create all jobs, over so many namespaces; the seconds it took."""
    began = time.monotonic()
    await each(
        names,
        lambda name: api.send("POST", JOBS.format(namespace_of(name, spread)), job_body(name, nodes)),
    )
    return time.monotonic() - began


async def all_run(api: Api, path: str, seconds: float) -> None:
    """Wait until the scheduler and the played kubelets have brought every pod of a collection to run."""

    async def done() -> bool:
        return not await api.exists(path, fieldSelector="status.phase!=Running")

    await wait_for(done, f"all of {path} run", seconds, every=1.0)
