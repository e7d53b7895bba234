"""The operator benchmark's watch: what a server that hangs up does not make it miss."""

from __future__ import annotations

import json
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.operator.load import Api


def line(version: int, kind: str = "MODIFIED") -> bytes:
    content = {"metadata": {"name": "a", "resourceVersion": str(version)}, "message": "too old"}
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


async def seen_from(streams: dict[str, list[bytes]], count: int) -> tuple[list[str], list[str]]:
    """Versions of the events that a watch from 1 yields, and versions that the server was asked to go on from."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        for part in streams[asked[-1]]:
            await response.write(part)
        return response

    app = web.Application()
    app.router.add_get("/jobs", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        api = SimpleNamespace(session=session, url=str(server.make_url("")).rstrip("/"))
        api._stream = lambda path, since: Api._stream(api, path, since)  # type: ignore[arg-type]
        found: list[str] = []
        async for _, event in Api.watch(api, "/jobs", "1"):  # type: ignore[arg-type]
            found.append(event["object"]["metadata"]["resourceVersion"])
            if len(found) == count:
                break
    return found, asked


async def test_a_watch_that_the_server_ends_goes_on_after_its_last_event() -> None:
    streams = {"1": [line(2), line(3)], "3": [line(4)[:9], line(4)[9:]], "4": [line(5)]}
    assert await seen_from(streams, 4) == (["2", "3", "4", "5"], ["1", "3", "4"])


async def test_an_event_that_is_cut_off_comes_again() -> None:
    streams = {"1": [line(2), line(3)[:20]], "2": [line(3)]}
    assert await seen_from(streams, 2) == (["2", "3"], ["1", "2"])


async def test_a_version_that_is_too_old_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="watch of /jobs from 2: too old"):
        await seen_from({"1": [line(2), line(0, "ERROR")]}, 2)
