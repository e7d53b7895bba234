"""A small asynchronous Kubernetes client on plain dicts.

The reconciler, the reflector, the elector and the CLI call it. It retries what is safe to retry, honours
Retry-After, and applies with fixed field managers. It never sends typed models, so that a field newer than
this program survives, and never logs a body or a token.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import aiohttp
from pydantic_core import from_json, to_json

from windlass.api.meta import MANAGER, STATUS_MANAGER
from windlass.core.observed import controller_uid
from windlass.shell.clock import Clock
from windlass.shell.credentials import Credentials
from windlass.shell.errors import ApiError, Gone, NotOurs, Silent, Unreachable, from_status
from windlass.shell.resources import Resource

Json = dict[str, Any]

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
JSON_TYPE: Final = "application/json"
METADATA_LIST_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

PAGE: Final = 500
REAL: Final = Clock()
ATTEMPTS: Final = 5
REQUEST_TIMEOUT_SECONDS: Final = 30.0
CONNECT_TIMEOUT_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 300
WATCH_SILENCE_SECONDS: Final = 70.0
"""Servers send a bookmark each minute; a longer silence means a dead connection."""
MAX_RETRY_AFTER_SECONDS: Final = 30.0
RETRIED: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a perturbation sees it. `index` counts the writes of this client from 1; 0 is a read."""

    method: str
    path: str
    index: int


class Perturbation(Protocol):
    """Faults injected by tests: may raise instead of sending, or after the server has answered."""

    async def before(self, call: Call) -> None:
        """Called before a request is sent."""
        ...

    async def after(self, call: Call) -> None:
        """Called after the server has answered, before the caller hears of it."""
        ...


class Observer(Protocol):
    """Where request durations go."""

    def request(self, method: str, code: str, seconds: float) -> None:
        """One finished request; `code` is the status or `error`."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list and the version to watch from."""

    items: list[Json]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request before it is sent."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: Json | None = None
    content_type: str = JSON_TYPE
    accept: str = JSON_TYPE

    @property
    def is_write(self) -> bool:
        """Whether it changes anything; TokenReview and friends are POSTs that do not, see Client.ask."""
        return self.method != "GET"


class Client:
    """One connection pool to one API server. Close it, or use `async with`."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        perturbation: Perturbation | None = None,
        observer: Observer | None = None,
        clock: Clock = REAL,
        attempts: int = ATTEMPTS,
        request_timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> None:
        self.credentials = credentials
        self.writes = 0
        self._perturbation = perturbation
        self._observer = observer
        self._clock = clock
        self._attempts = attempts
        self._timeout = aiohttp.ClientTimeout(
            total=request_timeout_seconds, sock_connect=CONNECT_TIMEOUT_SECONDS
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client may not be used afterwards."""
        if self._session is not None:
            await self._session.close()

    def session(self) -> aiohttp.ClientSession:
        """The connection pool, made on first use inside the running loop."""
        if self._session is None:
            context = self.credentials.ssl_context()
            connector = aiohttp.TCPConnector(ssl=context if context is not None else True, limit=64)
            # trust_env is off: a proxy meant for users' traffic must not see the API's.
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session

    # --- verbs --------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Json:
        """One object; NotFound if there is none."""
        return await self.send(Request("GET", resource.path(namespace, name)))

    async def raw(self, path: str) -> Json:
        """GET of any path, for discovery."""
        return await self.send(Request("GET", path))

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        slim: Callable[[Json], Json] | None = None,
        metadata_only: bool = False,
    ) -> Listing:
        """All objects, page by page. `slim` is applied to each at once, so that a page is the peak of memory."""
        params = [("limit", str(PAGE))]
        params += [("labelSelector", labels)] if labels else []
        params += [("fieldSelector", fields)] if fields else []
        accept = METADATA_LIST_ONLY if metadata_only else JSON_TYPE
        request = Request("GET", resource.path(namespace), tuple(params), accept=accept)
        while True:
            try:
                return await self._pages(request, slim)
            except Gone:
                # The continue token outlived the server's history: begin again.
                await self._clock.sleep(self._pause(1))

    async def _pages(self, first: Request, slim: Callable[[Json], Json] | None) -> Listing:
        items: list[Json] = []
        token = ""
        while True:
            params = (*first.params, ("continue", token)) if token else first.params
            page = await self.send(replace(first, params=params))
            found = page.get("items") or []
            items.extend(map(slim, found) if slim else found)
            metadata = page.get("metadata") or {}
            token = metadata.get("continue") or ""
            if not token:
                return Listing(items, str(metadata.get("resourceVersion", "")))

    async def apply(self, resource: Resource, body: Json, *, manager: str = MANAGER) -> Json:
        """Server-side apply of the manager's whole intent, taking over conflicting fields."""
        metadata = body["metadata"]
        params = (("fieldManager", manager), ("force", "true"))
        path = resource.path(metadata.get("namespace"), metadata["name"])
        return await self.send(Request("PATCH", path, params, body, APPLY))

    async def replace_status(self, resource: Resource, job: Json, status: Json) -> Json:
        """PUT the whole status at the version of `job` that it was computed from; Conflict if that is old.

        The server keeps what else the object has: of a PUT of a status it takes nothing but the status.
        """
        metadata = job["metadata"]
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "status": status,
        }
        path = resource.path(metadata["namespace"], metadata["name"], "status")
        return await self.send(Request("PUT", path, (("fieldManager", STATUS_MANAGER),), body))

    async def create(self, resource: Resource, body: Json) -> Json:
        """POST; if the name is taken, the object that has it when the same owner controls it, else NotOurs."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace"))
        try:
            return await self.send(Request("POST", path, (("fieldManager", MANAGER),), body))
        except ApiError as error:
            if error.status != 409 or error.reason != "AlreadyExists":
                raise
        existing = await self.get(resource, metadata["name"], namespace=metadata.get("namespace"))
        if controller_uid(existing) != controller_uid(body):
            raise NotOurs(resource.kind, metadata["name"], controller_uid(existing))
        return existing

    async def replace(self, resource: Resource, body: Json) -> Json:
        """PUT at the body's resourceVersion; Conflict if it is old. Only for objects whose every field is ours."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        return await self.send(Request("PUT", path, (("fieldManager", MANAGER),), body))

    async def merge(self, resource: Resource, name: str, patch: Json, *, namespace: str) -> Json:
        """JSON merge patch."""
        params = (("fieldManager", MANAGER),)
        return await self.send(Request("PATCH", resource.path(namespace, name), params, patch, MERGE))

    async def ask(self, resource: Resource, body: Json) -> Json:
        """POST of a review that is answered and not stored; does not count as a write."""
        return await self.send(Request("POST", resource.path()), stored=False, body=body)

    async def delete(
        self, resource: Resource, name: str, *, namespace: str, uid: str, resource_version: str | None = None
    ) -> Json:
        """Delete exactly the object that was seen. NotFound counts as done; Conflict means it is another by now.

        Returns the server's answer: the object while it ends, a Status or nothing once it is gone.
        No UID is for names that only one object can ever have, and that is never read.
        """
        preconditions = {"uid": uid} if uid else {}
        if resource_version:
            preconditions["resourceVersion"] = resource_version
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        try:
            return await self.send(Request("DELETE", resource.path(namespace, name), (), body))
        except ApiError as error:
            if error.status != 404:
                raise
        return {}

    async def delete_by_force(self, resource: Resource, name: str, *, namespace: str, uid: str) -> None:
        """Remove exactly this object without waiting for whoever should end it. NotFound counts as done."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        }
        try:
            await self.send(Request("DELETE", resource.path(namespace, name), (), body))
        except ApiError as error:
            if error.status != 404:
                raise

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, labels: str = "", since: str = ""
    ) -> AsyncIterator[Json]:
        """Events from `since` until the server ends the stream; Gone when `since` is too old."""
        params = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(int(WATCH_SECONDS * random.uniform(0.9, 1.1)))),
            ("resourceVersion", since),
        ]
        if labels:
            params.append(("labelSelector", labels))
        url = self.credentials.server + resource.path(namespace)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=WATCH_SILENCE_SECONDS
        )
        try:
            async with self.session().get(
                url, params=params, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status >= 400:
                    if response.status == 401:
                        self.credentials.bearer(fresh=True)
                    raise from_status(response.status, await read_json(response), None)
                async for line in lines(response.content):
                    event: Json = from_json(line)
                    if event.get("type") == "ERROR":
                        status = event.get("object") or {}
                        raise from_status(int(status.get("code") or 500), status, None)
                    yield event
        except aiohttp.SocketTimeoutError as error:
            raise Silent(type(error).__name__) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from error

    # --- sending ------------------------------------------------------------------------------

    async def send(self, request: Request, *, stored: bool = True, body: Json | None = None) -> Json:
        """Send with retries. Every write here is idempotent by name, version or precondition."""
        if body is not None:
            request = replace(request, body=body)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(request, stored)
            except ApiError as error:
                if attempt >= self._attempts or not self._is_worth_retrying(error, attempt):
                    raise
                pause = self._pause(attempt, error.retry_after_seconds)
            except Unreachable:
                if attempt >= self._attempts:
                    raise
                pause = self._pause(attempt)
            await self._clock.sleep(pause)

    def _is_worth_retrying(self, error: ApiError, attempt: int) -> bool:
        if error.status == 401 and attempt == 1:
            self.credentials.bearer(fresh=True)
            return True
        return error.status in RETRIED

    def _pause(self, attempt: int, retry_after_seconds: float | None = None) -> float:
        if retry_after_seconds is not None:
            return min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS) + random.uniform(0, 0.25)
        return float(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))

    async def _once(self, request: Request, stored: bool) -> Json:
        index = 0
        if request.is_write and stored:
            self.writes += 1
            index = self.writes
        call = Call(request.method, request.path, index)
        if self._perturbation is not None:
            await self._perturbation.before(call)
        began, code = self._clock.monotonic(), "error"
        try:
            async with self.session().request(
                request.method,
                self.credentials.server + request.path,
                params=request.params,
                data=to_json(request.body) if request.body is not None else None,
                headers=self._headers(request.accept, request.content_type),
                timeout=self._timeout,
            ) as response:
                code = str(response.status)
                answer = await read_json(response)
                retry_after = response.headers.get("Retry-After")
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from error
        finally:
            if self._observer is not None:
                self._observer.request(request.method, code, self._clock.monotonic() - began)
        if self._perturbation is not None:
            await self._perturbation.after(call)
        if status >= 400:
            raise from_status(status, answer, retry_after)
        return answer

    def _headers(self, accept: str = JSON_TYPE, content_type: str = JSON_TYPE) -> dict[str, str]:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "windlass"}
        token = self.credentials.bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers


async def read_json(response: aiohttp.ClientResponse) -> Json:
    """The body as JSON; a proxy's plain text becomes a message."""
    raw = await response.read()
    try:
        answer = from_json(raw)
    except ValueError:
        return {"message": raw.decode(errors="replace")[:500]}
    return answer if isinstance(answer, dict) else {"message": str(answer)[:500]}


async def lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: the reader's own `readline` gives up on long ones."""
    rest = b""
    async for chunk in stream.iter_any():
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line.strip():
                yield line
    if rest.strip():
        yield rest
