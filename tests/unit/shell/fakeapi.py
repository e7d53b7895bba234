"""A small API server for unit tests: versions, conflicts, watches, and faults on demand.

It knows what the client relies on and no more: resourceVersion, preconditions, server-side apply as a deep
merge, the status split, label selectors, bookmarks, 410. Contract tests use a real one.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from windlass.api.kinds import KINDS
from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.credentials import Credentials

Json = dict[str, Any]


@dataclass
class Fault:
    """Answers the next `times` matching requests otherwise. `after` lets the request take effect first."""

    method: str = ""
    part: str = ""
    status: int = 500
    reason: str = "InternalError"
    message: str = "fault"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    after: bool = False
    drop: bool = False
    hang: bool = False

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and (not self.method or method == self.method) and self.part in path


JOBS = {kind.plural: kind.name for kind in KINDS.values()}


class FakeApi:
    """State and handlers of the server."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.version = 100
        self.oldest = 0
        self.history: list[tuple[int, str, str, Json]] = []
        self.changed = asyncio.Event()
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Json] = []
        self.tokens: list[str] = []
        self.faults: list[Fault] = []
        self.reviews: Callable[[Json], Json] = lambda _: {"authenticated": False}
        self.stale_lists: dict[str, Json] = {}
        self.url = ""
        self.clients: list[Client] = []
        self._runner: web.AppRunner | None = None
        self._uid = 0
        self._specs: dict[str, Any] = {}

    async def start(self) -> FakeApi:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        for client in self.clients:
            await client.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def client(self, **options: Any) -> Client:
        """A client of this server that never really pauses between retries."""
        self.pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            await asyncio.sleep(0)

        options.setdefault("clock", Clock(sleep=sleep))
        made = Client(Credentials(server=self.url, token="secret-token"), **options)
        self.clients.append(made)
        return made

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.requests if method != "GET"]

    # --- state --------------------------------------------------------------------------------

    def put(self, plural: str, body: Json) -> Json:
        """Store an object as the server would: another spec is another generation."""
        metadata = body.setdefault("metadata", {})
        self._uid += 1
        metadata.setdefault("uid", f"uid-{self._uid}")
        metadata.setdefault("creationTimestamp", "2026-11-23T12:00:00Z")
        metadata.setdefault("generation", 1)
        if plural in JOBS:
            body.setdefault("kind", JOBS[plural])
        key = (plural, metadata.get("namespace", ""), metadata["name"])
        # Tests change what they got in place, so that the stored one is no witness.
        spec = copy.deepcopy(body.get("spec"))
        if self._specs.get(metadata["uid"], spec) != spec:
            metadata["generation"] += 1
        self._specs[metadata["uid"]] = spec
        return self._store(key, body, "MODIFIED" if key in self.objects else "ADDED")

    def _store(self, key: tuple[str, str, str], body: Json, kind: str) -> Json:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = body
        self._note(kind, key[0], body)
        return body

    def _note(self, kind: str, plural: str, body: Json) -> None:
        self.history.append((self.version, kind, plural, copy.deepcopy(body)))
        self.changed.set()
        self.changed = asyncio.Event()

    def remove(self, plural: str, namespace: str, name: str) -> None:
        body = self.objects.pop((plural, namespace, name))
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self._note("DELETED", plural, body)

    def get(self, plural: str, name: str, namespace: str = "team") -> Json | None:
        return self.objects.get((plural, namespace, name))

    # --- requests -----------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.requests.append((request.method, path))
        self.tokens.append(request.headers.get("Authorization", ""))
        fault = next((one for one in self.faults if one.matches(request.method, path)), None)
        if fault is not None:
            fault.times -= 1
            if fault.after:
                await self.route(request)
            if fault.hang:
                await asyncio.sleep(30)
            if fault.drop or fault.hang:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return failure(fault.status, fault.reason, fault.message, headers=fault.headers)
        return await self.route(request)

    async def route(self, request: web.Request) -> web.StreamResponse:
        plural, namespace, name, sub = split(request.path)
        text = await request.text()
        body = json.loads(text) if text else {}
        if text:
            self.bodies.append(body)
        if plural == "tokenreviews":
            return web.json_response({"status": self.reviews(body)}, status=201)
        if not name:
            if request.method == "POST":
                return self.create(plural, namespace, body)
            if request.query.get("watch"):
                return await self.watch(request, plural)
            return self.list(request, plural, namespace)
        key = (plural, namespace, name)
        if request.method == "PATCH":
            return self.patch(key, sub, body, apply="apply" in request.content_type)
        present = self.objects.get(key)
        if present is None:
            return failure(404, "NotFound", f"{plural} {name!r} not found")
        if request.method == "DELETE":
            return self.delete(key, present, body)
        if request.method == "PUT":
            return self.replace(key, present, sub, body)
        return web.json_response(present)

    def create(self, plural: str, namespace: str, body: Json) -> web.Response:
        body["metadata"].setdefault("namespace", namespace)
        key = (plural, namespace, body["metadata"]["name"])
        if key in self.objects:
            return failure(409, "AlreadyExists", f"{plural} {key[2]!r} already exists")
        return web.json_response(self.put(plural, body), status=201)

    def patch(self, key: tuple[str, str, str], sub: str, body: Json, *, apply: bool) -> web.Response:
        present = self.objects.get(key)
        if present is None:
            if not apply or sub:
                return failure(404, "NotFound", "not found")
            return web.json_response(self.put(key[0], body), status=201)
        wanted = body.get("metadata", {})
        for name in ("resourceVersion", "uid"):
            if wanted.get(name) not in (None, present["metadata"].get(name)):
                return failure(409, "Conflict", "the object has been modified")
        new = copy.deepcopy(present)
        assert not sub, f"nobody patches a {sub}"
        merge(new, {name: value for name, value in body.items() if name not in ("status",)})
        new["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
        if new == present:
            return web.json_response(present)
        return web.json_response(self._store(key, new, "MODIFIED"))

    def replace(self, key: tuple[str, str, str], present: Json, sub: str, body: Json) -> web.Response:
        wanted = body["metadata"]
        if wanted.get("resourceVersion") != present["metadata"]["resourceVersion"]:
            return failure(409, "Conflict", "the object has been modified")
        if wanted.get("uid") not in (None, present["metadata"].get("uid")):
            return failure(409, "Conflict", "the UID in the precondition does not match")
        if sub == "status":
            body = {**present, "status": body["status"]}
            if body == present:
                return web.json_response(present)
            body = copy.deepcopy(body)
        return web.json_response(self._store(key, body, "MODIFIED"))

    def delete(self, key: tuple[str, str, str], present: Json, body: Json) -> web.Response:
        for name, value in (body.get("preconditions") or {}).items():
            if present["metadata"].get(name) != value:
                return failure(409, "Conflict", f"the {name} in the precondition does not match")
        self.remove(*key)
        return web.json_response({"kind": "Status", "status": "Success"})

    def list(self, request: web.Request, plural: str, namespace: str) -> web.Response:
        if plural in self.stale_lists:
            return web.json_response(self.stale_lists[plural])
        wanted = selector(request.query.get("labelSelector", ""))
        found = [
            body
            for (kind, where, _), body in sorted(self.objects.items())
            if kind == plural and namespace in ("", where) and has_labels(body, wanted)
        ]
        limit = int(request.query.get("limit", "500"))
        start = int(request.query.get("continue", "0") or 0)
        metadata: Json = {"resourceVersion": str(self.version)}
        if start + limit < len(found):
            metadata["continue"] = str(start + limit)
        return web.json_response({"metadata": metadata, "items": found[start : start + limit]})

    async def watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or 0)
        if since < self.oldest:
            return failure(410, "Expired", "too old resource version")
        wanted = selector(request.query.get("labelSelector", ""))
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError, asyncio.CancelledError):
            while True:
                waiting = self.changed
                for version, kind, name, body in list(self.history):
                    if version > since and name == plural and has_labels(body, wanted):
                        since = version
                        await response.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")
                await waiting.wait()
        return response


def failure(status: int, reason: str, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return web.json_response(body, status=status, headers=headers)


def split(path: str) -> tuple[str, str, str, str]:
    """Plural, namespace, name and subresource of a path."""
    parts = [part for part in path.split("/") if part]
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts and parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    parts += [""] * (3 - len(parts))
    return parts[0], namespace, parts[1], parts[2]


def selector(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(",") if part)


def has_labels(body: Json, wanted: dict[str, str]) -> bool:
    labels = body["metadata"].get("labels") or {}
    return all(labels.get(name) == value for name, value in wanted.items())


def merge(target: Json, patch: Json) -> None:
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            merge(target[name], value)
        else:
            target[name] = value
