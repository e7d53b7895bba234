"""Warnings about pods, read from events: that a volume cannot be mounted is told nowhere else.

The observer asks for pods that are slow to start. Servers keep no index of events: each list reads all of a
namespace, so one list answers for all pods of it, and is asked for at most every WARNING_SECONDS, and more seldom
where the server takes long over it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from windlass.shell.client import Client
from windlass.shell.clock import Clock, seldom
from windlass.shell.errors import ApiError, Unreachable
from windlass.shell.resources import EVENTS

Json = dict[str, Any]

WARNING_SECONDS: Final = 5.0
REMEMBERED_SECONDS: Final = 120.0
LONGEST_PAUSE_SECONDS: Final = 60.0
# A pod that waits for a node was refused by the scheduler; that is told by its conditions already.
SCHEDULERS: Final = "FailedScheduling"
FIELDS: Final = f"type=Warning,regarding.kind=Pod,reason!={SCHEDULERS}"


@dataclass(slots=True)
class Board:
    """The newest warning about each pod of one namespace, and when it was asked for."""

    at: float = float("-inf")
    pause: float = WARNING_SECONDS
    notes: dict[str, tuple[str, str]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Warnings:
    """The newest warning about pods, by namespace."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock.monotonic
        self._boards: dict[str, Board] = {}

    async def about(self, namespace: str, uid: str) -> str | None:
        """The newest warning about a pod as of the last list; None if there is none or nobody answers."""
        board = self._boards.setdefault(namespace, Board())
        async with board.lock:
            if self._clock() - board.at >= board.pause:
                await self._read(namespace, board)
        _, note = board.notes.get(uid, ("", ""))
        return note or None

    async def _read(self, namespace: str, board: Board) -> None:
        began = self._clock()
        try:
            listing = await self._client.list(EVENTS, namespace=namespace, fields=FIELDS, slim=slim)
        except (ApiError, Unreachable):
            return
        finally:
            # As of the answer, or of its failure: those that have waited for a slow one must not ask again in turn.
            board.at = self._clock()
            board.pause = seldom(board.at - began, least=WARNING_SECONDS, most=LONGEST_PAUSE_SECONDS)
        board.notes = {}
        for event in sorted(listing.items, key=lambda event: str(event["at"])):
            if event["reason"] != SCHEDULERS:
                board.notes[event["uid"]] = event["at"], event["note"]
        self._forget()

    def _forget(self) -> None:
        """Drop namespaces in which nothing has been slow for a while."""
        before = self._clock() - REMEMBERED_SECONDS
        self._boards = {name: board for name, board in self._boards.items() if board.at >= before}


def slim(event: Json) -> Json:
    """What is kept of an event."""
    return {
        "uid": str((event.get("regarding") or {}).get("uid") or ""),
        "reason": event.get("reason"),
        "note": str(event.get("note") or ""),
        "at": happened_at(event),
    }


def happened_at(event: Json) -> str:
    """When an event happened last, as text that sorts."""
    series = event.get("series") or {}
    for text in (
        series.get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
    ):
        if text:
            return str(text)
    return ""
