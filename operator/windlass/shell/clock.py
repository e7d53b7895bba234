"""Time as the shell uses it, in one value that tests replace.

`monotonic` is for intervals, `now` for what is written into objects, `sleep` for pauses. Nothing in the shell
may call the time module or asyncio.sleep for these purposes except through a Clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

SHARE: Final = 20


def utc_now() -> datetime:
    """The present time with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """Sources of time; the defaults are the real ones."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def seldom(took: float, *, least: float, most: float) -> float:
    """Seconds to pause after work that took so many: repeated, it fills a twentieth of the time, within the bounds."""
    return max(min(SHARE * took, most), least)
