"""The latest report of each run and the orders that answer it.

The report server puts reports in, rounds take them out and leave orders. Memory only: a report carries the
leader's whole view, so losing one costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from windlass.api.contract import Orders, Report
from windlass.shell.clock import utc_now


class Inbox:
    """Reports and orders by the run's UID. `arrived` hears of each report that counts."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._reports: dict[str, Report] = {}
        self._heard: dict[str, datetime] = {}
        self._orders: dict[str, Orders] = {}
        self.arrived: Callable[[Report], None] = lambda _: None

    def put(self, report: Report) -> Orders:
        """Take a report unless a newer one is known, and answer with the orders of the last decision."""
        known = self._reports.get(report.run.uid)
        if known is None or is_newer(report, known):
            self._reports[report.run.uid] = report
            self._heard[report.run.uid] = self._now()
            self.arrived(report)
        return self.orders(report.run.uid)

    def report(self, uid: str) -> Report | None:
        """The latest report of a run."""
        return self._reports.get(uid)

    def heard_at(self, uid: str) -> datetime | None:
        """When the latest report of a run arrived, by this process's clock."""
        return self._heard.get(uid)

    def orders(self, uid: str) -> Orders:
        """The orders of a run: to go on, unless a decision said otherwise."""
        return self._orders.get(uid) or Orders()

    def set_orders(self, uid: str, orders: Orders) -> None:
        """Keep what the next report of the run is answered with."""
        self._orders[uid] = orders

    def forget(self, uid: str) -> None:
        """The run is gone."""
        self._reports.pop(uid, None)
        self._heard.pop(uid, None)
        self._orders.pop(uid, None)


def is_newer(report: Report, known: Report) -> bool:
    """Whether a report replaces another: by sequence of one pod, else by ticket, the later leader's."""
    if report.pod_uid == known.pod_uid:
        return report.sequence > known.sequence
    return report.ticket >= known.ticket
