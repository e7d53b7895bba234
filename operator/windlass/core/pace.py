"""How often runs report and have their progress written, by how many of them run.

A few runs are followed closely; with hundreds, what only moves numbers must not take what decisions need. Every report
costs the operator a handshake, every write of a status the API server tens of milliseconds. News is never paced: a
leader with news reports at once, and what decisions change is written at once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

REPORTS_PER_SECOND: Final = 100.0
REPORT_SECONDS: Final = 2.0
"""Agents report so often unless asked for less."""
LONGEST_REPORT_SECONDS: Final = 6.0
"""A leader counts as silent after 15 s: two reports may be lost before that."""
WRITES_PER_SECOND: Final = 20.0
PROGRESS_SECONDS: Final = 5.0
STANDING_SECONDS: Final = 30.0


def report_seconds(runs: int) -> float:
    """Seconds that leaders are asked to wait between reports without news; 0 leaves it to them."""
    wanted = runs / REPORTS_PER_SECOND
    return min(wanted, LONGEST_REPORT_SECONDS) if wanted > REPORT_SECONDS else 0.0


def progress_interval(runs: int) -> timedelta:
    """How often the progress of one run is written while steps are taken."""
    return timedelta(seconds=max(PROGRESS_SECONDS, runs / WRITES_PER_SECOND))


def standing_interval(runs: int) -> timedelta:
    """The same while nothing but the time of the report moves."""
    return max(timedelta(seconds=STANDING_SECONDS), progress_interval(runs))
