"""Tells the operator how the run goes and takes its orders. A missing operator is normal.

Must never hold anything up: a report runs in a thread and has a limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from windlass.api.contract import Orders, Report
from windlass_workloads.agent.delivery import Courier, Undelivered

log = logging.getLogger(__name__)

LEAST_INTERVAL_SECONDS: Final = 0.3
# A new operator has 30 seconds to take a run over: its start, the Lease of the one before, and this.
LONGEST_PAUSE_SECONDS: Final = 5.0
FAREWELL_PAUSE_SECONDS: Final = 0.5


def pause_after(failures: int, interval_seconds: float) -> float:
    """Seconds until the next try after this many in a row that failed."""
    return min(LONGEST_PAUSE_SECONDS, interval_seconds * 2.0 ** min(failures, 8))


class Reporter:
    """Reports at an interval, and at once after poke(); with growing pauses while nobody answers."""

    def __init__(
        self,
        courier: Courier,
        build: Callable[[], Report],
        on_orders: Callable[[Orders], None],
        *,
        interval_seconds: float,
    ) -> None:
        self._courier = courier
        self._build = build
        self._on_orders = on_orders
        self._interval_seconds = interval_seconds
        self._poked = asyncio.Event()
        self._failures = 0

    def poke(self) -> None:
        """Something worth telling has happened."""
        self._poked.set()

    async def run(self) -> None:
        """Reports for ever."""
        while True:
            self._poked.clear()
            try:
                pause = await self._report()
            except Exception:  # a report that cannot be made must not end the run
                log.exception("report failed")
                self._failures, pause = self._failures + 1, LONGEST_PAUSE_SECONDS
            await asyncio.sleep(LEAST_INTERVAL_SECONDS if not self._failures else pause)
            if not self._failures:
                await self._wait(pause - LEAST_INTERVAL_SECONDS)

    async def farewell(self, limit_seconds: float) -> None:
        """The last report, tried until it arrives or the limit passes."""
        deadline = time.monotonic() + limit_seconds
        self._failures = 0
        while time.monotonic() < deadline:
            try:
                await asyncio.wait_for(self._report(), deadline - time.monotonic())
            except TimeoutError:
                return
            except Exception:  # a report that cannot be made must not take the verdict with it
                log.exception("report failed")
                return
            if not self._failures:
                return
            await asyncio.sleep(FAREWELL_PAUSE_SECONDS)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._poked.wait(), max(0.0, seconds))
        except TimeoutError:
            return

    async def _report(self) -> float:
        """Sends one report; returns the pause after it in seconds."""
        report = self._build()
        try:
            orders = await asyncio.to_thread(self._courier.deliver, report)
        except Undelivered as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("the operator does not answer", extra={"reason": str(error)})
            return pause_after(self._failures, self._interval_seconds)
        if self._failures:
            log.info("the operator answers again", extra={"missed": self._failures})
        self._failures = 0
        self._on_orders(orders)
        return max(self._interval_seconds, orders.retry_after_seconds)
