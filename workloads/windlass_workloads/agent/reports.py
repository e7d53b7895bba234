"""Tells the operator how the run goes and takes its orders. A missing operator is normal.

HTTPS with the pod's projected token; token and CA are read anew for each report, since both rotate.
Must never hold anything up: a report runs in a thread and has a limit.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from windlass.api.contract import Orders, Report, ReportTarget

log = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 5.0
LEAST_INTERVAL_SECONDS: Final = 0.3
# A new operator has 30 seconds to take a run over: its start, the Lease of the one before, and this.
LONGEST_PAUSE_SECONDS: Final = 5.0
FAREWELL_PAUSE_SECONDS: Final = 0.5
ANSWER_BYTES: Final = 1 << 20


class Undelivered(Exception):
    """A report did not arrive; the text says why."""


def pause_after(failures: int, interval_seconds: float) -> float:
    """Seconds until the next try after this many in a row that failed."""
    return min(LONGEST_PAUSE_SECONDS, interval_seconds * 2.0 ** min(failures, 8))


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address whose certificate carries another, fixed name."""

    def __init__(self, host: str, port: int, server_name: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=context)
        self._server_name = server_name
        self._secure = context

    def connect(self) -> None:
        """Connects and checks the certificate against the server's name."""
        plain = socket.create_connection((self.host, self.port), TIMEOUT_SECONDS)
        self.sock = self._secure.wrap_socket(plain, server_hostname=self._server_name)


def deliver(target: ReportTarget, report: Report, *, token_file: Path, ca_file: Path) -> Orders:
    """Sends one report and returns the answer; Undelivered when there is none. Blocks for seconds."""
    address = urlsplit(target.url)
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
        token = token_file.read_text().strip()
        connection = _Connection(address.hostname or "", address.port or 443, target.server_name, context)
        try:
            connection.request(
                "POST",
                address.path or "/",
                # As bytes: http.client would write text as Latin-1.
                body=report.model_dump_json(by_alias=True, exclude_none=True).encode(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(str(error) or type(error).__name__) from error
    if answer.status != http.client.OK:
        raise Undelivered(f"status {answer.status}: {body[:200].decode(errors='replace')}")
    try:
        return Orders.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise Undelivered("the answer is no order") from error


class Reporter:
    """Reports at an interval, and at once after poke(); with growing pauses while nobody answers."""

    def __init__(
        self,
        target: ReportTarget,
        build: Callable[[], Report],
        on_orders: Callable[[Orders], None],
        *,
        token_file: Path,
        ca_file: Path,
    ) -> None:
        self._target = target
        self._build = build
        self._on_orders = on_orders
        self._token_file = token_file
        self._ca_file = ca_file
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
            orders = await asyncio.to_thread(
                deliver, self._target, report, token_file=self._token_file, ca_file=self._ca_file
            )
        except Undelivered as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("the operator does not answer", extra={"reason": str(error)})
            return pause_after(self._failures, self._target.interval_seconds)
        if self._failures:
            log.info("the operator answers again", extra={"missed": self._failures})
        self._failures = 0
        self._on_orders(orders)
        return max(self._target.interval_seconds, orders.retry_after_seconds)
