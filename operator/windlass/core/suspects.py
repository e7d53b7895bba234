"""The list of nodes that a run avoids: who comes on it, for how long, and who has to make room.

`status.suspectNodes` is this list. The judges add to it, `gather` drops what is over, the renderer reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from windlass.api.contract import Suspicion
from windlass.api.meta import Exclusion
from windlass.api.status import SuspectNode

LIMIT: Final = 16
"""Nodes that a run can avoid at a time."""


def current(suspects: Sequence[SuspectNode], now: datetime) -> list[SuspectNode]:
    """Those that are still under suspicion."""
    return [item for item in suspects if item.until > now]


def suspected(
    suspects: Sequence[SuspectNode], node: str, found: Suspicion, *, now: datetime, seconds: float
) -> list[SuspectNode]:
    """The list with this node on it, under suspicion for so many seconds from now.

    A node that is on it already stays as strictly excluded as it was. When the list is full, the one that
    has been on it longest makes room, a merely avoided one first.
    """
    known = next((item for item in suspects if item.name == node), None)
    strict = known is not None and known.exclusion is Exclusion.REQUIRED
    keeps = known is not None and strict and found.exclusion is not Exclusion.REQUIRED
    entry = SuspectNode(
        name=node,
        reason=known.reason if known is not None and keeps else found.reason,
        failure_class=known.failure_class if known is not None and keeps else found.failure_class,
        exclusion=Exclusion.REQUIRED if strict else found.exclusion,
        since=known.since if known is not None else now,
        until=now + timedelta(seconds=seconds),
        count=known.count + 1 if known is not None else 1,
        evidence=known.evidence if known is not None and keeps else found.evidence,
    )
    others = sorted(
        (item for item in suspects if item.name != node),
        key=lambda item: (item.exclusion is Exclusion.REQUIRED, item.since, item.name),
    )
    return sorted([*others[-(LIMIT - 1) :], entry], key=lambda item: (item.since, item.name))


def until_expiry(suspects: Sequence[SuspectNode], now: datetime) -> float | None:
    """Seconds until the next suspicion is over, None if there is none."""
    return min((max((item.until - now).total_seconds(), 0.0) for item in suspects), default=None)


def excluded(suspects: Sequence[SuspectNode], how: Exclusion) -> tuple[str, ...]:
    """Names of the nodes that are avoided in this way, in order."""
    return tuple(sorted(item.name for item in suspects if item.exclusion is how))
