"""An operator that comes before its CRDs says so, waits alive and not ready, and goes on as soon as they are there."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from unit.shell.fakeapi import FakeApi, Fault
from windlass.api.kinds import KINDS, Kind
from windlass.shell import kinds
from windlass.shell.errors import Forbidden
from windlass.shell.kinds import await_kinds, missing_kinds

SERVED = {"resources": [{"name": kind.plural} for kind in KINDS.values()]}
SAID = (
    "customresourcedefinition {}.windlass.dev: is not installed (got no version v1alpha1); allowed: "
    "version v1alpha1. hint: kubectl apply -f crds/, or install the chart with crds.enabled=true"
)
TEXT = SAID.format("finetunejobs")


class Server:
    """A client whose discovery gives these answers, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def raw(self, _: str) -> dict[str, Any]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(kinds, "LONGEST_PAUSE_SECONDS", 0.01)


async def test_missing_kinds_are_told() -> None:
    assert await missing_kinds(Server(SERVED)) is None  # type: ignore[arg-type]
    assert await missing_kinds(Server({"resources": []})) == TEXT  # type: ignore[arg-type]


@pytest.mark.fault("F13")
@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
async def test_each_kind_is_asked_for(kind: Kind) -> None:
    """After an upgrade, the CRD of a new kind may come later than the operator."""
    others = {"resources": [one for one in SERVED["resources"] if one["name"] != kind.plural]}
    assert await missing_kinds(Server(others)) == SAID.format(kind.plural)  # type: ignore[arg-type]


async def test_an_unknown_group_is_a_missing_kind(api: FakeApi) -> None:
    api.faults.append(Fault("GET", "windlass.dev", 404, reason="NotFound"))
    async with api.client() as client:
        assert await missing_kinds(client) == TEXT


async def test_what_is_there_is_not_waited_for(port: int) -> None:
    server = Server(SERVED)
    assert await await_kinds(server, port, asyncio.Event())  # type: ignore[arg-type]
    assert server.asked == len(KINDS)


@pytest.mark.fault("F13")
@pytest.mark.parametrize("absent", [1, 2, 12])
async def test_a_crd_that_comes_later_is_waited_for(port: int, absent: int) -> None:
    server = Server(*[{}] * absent, SERVED)
    assert await await_kinds(server, port, asyncio.Event())  # type: ignore[arg-type]
    assert server.asked == absent + len(KINDS)


@pytest.mark.fault("F13")
async def test_it_is_alive_and_not_ready_meanwhile_and_ends_when_asked_to(port: int) -> None:
    stop = asyncio.Event()
    waiting = asyncio.create_task(await_kinds(Server({}), port, stop))  # type: ignore[arg-type]
    async with aiohttp.ClientSession() as session:

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        async with asyncio.timeout(5):
            while True:
                try:
                    assert await ask("/healthz") == (200, "ok\n")
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0)
        assert await ask("/readyz") == (503, f"{TEXT}\n")
    stop.set()
    async with asyncio.timeout(5):
        assert not await waiting
    with socket.socket() as later:
        later.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        later.bind(("127.0.0.1", port))


async def test_other_refusals_are_not_taken_for_a_missing_kind(port: int) -> None:
    refused = Forbidden(403, "Forbidden", "no")
    with pytest.raises(Forbidden):
        await await_kinds(Server({}, refused), port, asyncio.Event())  # type: ignore[arg-type]
