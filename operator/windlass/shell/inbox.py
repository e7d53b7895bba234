"""The latest report of each run and the orders that answer it.

The report server puts reports in, rounds take them out and leave orders. Memory only: a report carries the
leader's whole view, so losing one costs nothing, and the last one stays in the leader's pod as well. With many runs
leaders are asked to report more seldom, and a report that only moves numbers is no reason for a round at once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from windlass.api.contract import Orders, Report
from windlass.core.pace import report_seconds
from windlass.shell.clock import utc_now

HEARD: Final = timedelta(seconds=25)
COUNTED: Final = timedelta(seconds=5)
"""A run counts as heard for so long, which outlasts one report that times out, and runs are counted so often."""


class Inbox:
    """Reports and orders by the run's UID. `arrived` hears of each report that counts, and whether it is routine."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._reports: dict[str, Report] = {}
        self._heard: dict[str, datetime] = {}
        self._orders: dict[str, Orders] = {}
        self._runs = 0
        self._counted_at: datetime | None = None
        self.arrived: Callable[[Report, bool], None] = lambda *_: None

    def put(self, report: Report) -> Orders:
        """Take a report unless a newer one is known, and answer with the orders of the last decision."""
        known = self._reports.get(report.run.uid)
        if known is None or is_newer(report, known):
            now, before = self._now(), self._heard.get(report.run.uid)
            # A leader that is heard again after a silence is news, whatever it says.
            lately = before is not None and now - before < HEARD
            if not lately and self._counted_at is not None:
                self._runs += 1
            self._reports[report.run.uid] = report
            self._heard[report.run.uid] = now
            self.arrived(report, known is not None and lately and is_routine(report, known))
        orders, pause = self.orders(report.run.uid), report_seconds(self.runs_heard())
        return orders.model_copy(update={"retry_after_seconds": pause}) if pause else orders

    def runs_heard(self) -> int:
        """Runs of which a report came lately."""
        now = self._now()
        if self._counted_at is None or not timedelta() <= now - self._counted_at < COUNTED:
            self._counted_at = now
            self._runs = sum(now - at < HEARD for at in self._heard.values())
        return self._runs

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


def is_routine(report: Report, known: Report) -> bool:
    """Whether a report tells nothing new but numbers: steps, losses, seconds."""
    numbers: dict[str, object] = {name: getattr(known, name) for name in ("sequence", "sent_at", "timeline")}
    numbers["progress"] = known.progress.model_copy(update={"phase": report.progress.phase})
    if report.tracking is not None and known.tracking is not None:
        numbers["tracking"] = report.tracking.model_copy(update={"spooled": known.tracking.spooled})
    return report.model_copy(update=numbers) == known
