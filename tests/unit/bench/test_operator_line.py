"""How played leaders reach the operator: over a connection of their own that is kept, as agents do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from bench.operator import line
from contract.operator.harness import write_serving_pair
from windlass.api.meta import REPORT_PATH
from windlass.shell.health import serve
from windlass.shell.tls import ServingCertificate

HOST = "windlass-reports.windlass-system.svc"


class Server:
    """Answers as it is told, over HTTPS; which requests came over which connection."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[tuple[int, str, str]] = []
        self.answers: list[web.Response | None] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        peer = request.transport.get_extra_info("peername")[1] if request.transport else 0
        self.seen.append((peer, request.headers["Authorization"], (await request.read()).decode()))
        answer = self.answers.pop(0) if self.answers else web.json_response({"retryAfterSeconds": 8.0})
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server()
    write_serving_pair(tmp_path, HOST)
    application = web.Application()
    application.router.add_post(REPORT_PATH, made.handle)
    runner, made.port = await serve(
        application, 0, host="127.0.0.1", ssl_context=ServingCertificate(tmp_path).context
    )
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def connection(server: Server, tmp_path: Path) -> AsyncIterator[line.Connection]:
    made = line.Connection(server.port, HOST, line.context(tmp_path / "ca.crt"))
    yield made
    made.close()


async def test_one_connection_takes_all_reports_one_after_another(
    server: Server, connection: line.Connection
) -> None:
    bodies = [json.dumps({"number": number, "text": "é" * 5000}).encode() for number in range(5)]
    answers = await asyncio.gather(*(connection.post("t1", body) for body in bodies))
    assert [answer.status for answer in answers] == [200] * 5
    assert {answer.retry_after_seconds for answer in answers} == {8.0}
    assert len({peer for peer, _, _ in server.seen}) == 1
    assert [body for _, _, body in server.seen] == [body.decode() for body in bodies]
    assert {token for _, token, _ in server.seen} == {"Bearer t1"}


async def test_a_refusal_is_an_answer(server: Server, connection: line.Connection) -> None:
    server.answers = [web.json_response({"error": {}}, status=403), web.json_response({})]
    refused = await connection.post("t1", b"{}")
    assert (refused.status, json.loads(refused.body)) == (403, {"error": {}})
    assert (await connection.post("t1", b"{}")).retry_after_seconds == 0.0


async def test_after_a_loss_the_next_report_opens_anew(server: Server, connection: line.Connection) -> None:
    await connection.post("t1", b"1")
    server.answers = [None]
    with pytest.raises(line.TROUBLE):
        await connection.post("t1", b"2")
    assert (await connection.post("t1", b"3")).status == 200
    assert len({peer for peer, _, _ in server.seen}) == 2


async def test_a_server_that_is_away_or_another_is_trouble(
    server: Server, connection: line.Connection, tmp_path: Path
) -> None:
    other = line.Connection(server.port, "another.host", line.context(tmp_path / "ca.crt"))
    with pytest.raises(line.TROUBLE):
        await other.post("t1", b"1")
    assert server.seen == []
    connection.port = 1
    with pytest.raises(line.TROUBLE):
        await connection.post("t1", b"1")
