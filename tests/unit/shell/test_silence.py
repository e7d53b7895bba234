"""A kind on which nothing happens is not a broken watch: the reflector lists again, says nothing, and stays fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from windlass.shell.errors import Silent
from windlass.shell.reflector import Reflector, Selection
from windlass.shell.resources import PODS


class QuietServer:
    """Lists answer, watches stay silent until their limit."""

    def __init__(self, now: list[float]) -> None:
        self.lists = 0
        self.now = now

    async def list(self, *_: Any, **__: Any) -> Any:
        self.lists += 1
        if self.lists == 4:
            raise asyncio.CancelledError
        return SimpleNamespace(items=[], resource_version="7")

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        self.now[0] += 70.0
        raise Silent("SocketTimeoutError")
        yield {}


@pytest.mark.fault("F5")
async def test_silence_is_answered_by_a_list_and_keeps_the_watch_young(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    server = QuietServer(now)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    cache = SimpleNamespace(replace=lambda *_, **__: None)
    reflector = Reflector(server, cache, Selection(PODS, dict), clock)  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await reflector.run()
    assert server.lists == 4
    assert slept == []
    assert reflector.age_seconds() == 70.0
    assert caplog.records == []
