"""Fixtures of the shell's unit tests: a fake API server and a hand-driven clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from unit.shell.fakeapi import FakeApi
from windlass.shell.client import Client, Listing
from windlass.shell.clock import Clock


class Hand:
    """A clock that moves only when told; its sleep moves it and returns at once."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=self.at - 1000.0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds

    def clock(self) -> Clock:
        return Clock(monotonic=self.monotonic, now=self.now, sleep=self.sleep)


async def until(look: Callable[[], Any]) -> None:
    """Let the loop run until something is true."""
    async with asyncio.timeout(10):
        while not look():  # noqa: ASYNC110 - conditions of several kinds
            await asyncio.sleep(0.005)


def slow_lists(client: Client, hand: Hand, took: float, *ends: BaseException | None) -> list[float]:
    """Let each list take so long and end with these errors in turn, then with nothing; when they were asked for."""
    asked: list[float] = []

    async def slow(*_: Any, **__: Any) -> Listing:
        asked.append(hand.at)
        hand.at += took
        end = ends[len(asked) - 1] if len(asked) <= len(ends) else None
        if end is not None:
            raise end
        return Listing([], "1")

    client.list = slow  # type: ignore[method-assign]
    return asked


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest_asyncio.fixture
async def api() -> AsyncIterator[FakeApi]:
    server = await FakeApi().start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with api.client() as made:
        yield made
