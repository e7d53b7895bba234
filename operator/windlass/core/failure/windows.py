"""Budgets for a window of time: which failures of the infrastructure and of storage still count.

An outage on Monday says nothing about Friday, even if no checkpoint was verified between; but a run that never
gets on ends all the same, after ten times its budget. Used by `budget`. No clock: a failure brings its time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass

WINDOWED: Final = (FailureClass.INFRASTRUCTURE, FailureClass.STORAGE)
WINDOWS: Final = 10
"""So many budgets in all, however far apart the failures are."""
EPOCH: Final = datetime.fromtimestamp(0, UTC)

Recent = dict[FailureClass, list[datetime]]


def recent_with(use: BudgetUse, kind: FailureClass, at: datetime | None, window_seconds: float) -> Recent:
    """The times that count once a failure of this class happened at `at`.

    Failures that an older version counted without their times count as if they had happened just now.
    """
    now = at or max((time for times in use.recent.values() for time in times), default=EPOCH)
    since = now - timedelta(seconds=window_seconds)
    known: Recent = {}
    for each in WINDOWED:
        times = list(use.recent.get(each, []))
        if each not in use.recent:
            times = [now] * use.used.get(each, 0)
        if each is kind:
            times = [*times, now]
        known[each] = sorted(time for time in times if time > since)
    return {each: times for each, times in known.items() if times or each in use.recent}


def counts(used: dict[FailureClass, int], recent: Recent) -> dict[FailureClass, int]:
    """Failures by class that count: all since the last progress, of windowed classes those of late."""
    return {kind: len(recent.get(kind, [])) if kind in WINDOWED else count for kind, count in used.items()}
