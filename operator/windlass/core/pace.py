"""How often runs report, have their progress written and their checkpoints announced, by how many of them run.

A few runs are followed closely; with hundreds, what only moves numbers must not take what decisions need. A report
costs the operator milliseconds, every write of a status the API server tens of them. News is never held back:
what an agent tells at once it still does, and what changes by a decision is written at once.
"""

from __future__ import annotations

import zlib
from datetime import timedelta
from typing import Final

REPORTS_PER_SECOND: Final = 100.0
REPORT_SECONDS: Final = 2.0
"""Agents report so often unless asked for less."""
LONGEST_REPORT_SECONDS: Final = 10.0
UNHEARD_SECONDS: Final = 15.0
"""An agent whose leader reports every 2 s counts as unheard after so long."""
WRITES_PER_SECOND: Final = 20.0
PROGRESS_SECONDS: Final = 5.0
LONGEST_PROGRESS_SECONDS: Final = 50.0
"""Reached at 1,000 runs."""
WHILE_BUSY: Final = 2.0
"""So many times longer while many runs are due: what no decision needs waits for what one does."""
STANDING_SECONDS: Final = 30.0
ANNOUNCEMENTS_PER_SECOND: Final = 5.0
ANNOUNCEMENT_SECONDS: Final = 60.0


def report_seconds(runs: int) -> float:
    """Seconds that leaders are asked to wait between reports without news; 0 leaves it to them."""
    wanted = runs / REPORTS_PER_SECOND
    return min(wanted, LONGEST_REPORT_SECONDS) if wanted > REPORT_SECONDS else 0.0


def unheard_after(runs: int) -> timedelta:
    """How long without a report makes an agent unheard: its leader may lose one report to a time-out before that."""
    return timedelta(seconds=UNHEARD_SECONDS + max(0.0, report_seconds(runs) - REPORT_SECONDS))


def progress_interval(runs: int, uid: str, *, busy: bool = False) -> timedelta:
    """How often the progress of one run is written while steps are taken; `busy` says that many runs are due."""
    wanted = max(PROGRESS_SECONDS, runs_for(runs, uid) / WRITES_PER_SECOND)
    return timedelta(seconds=min(wanted, LONGEST_PROGRESS_SECONDS)) * (WHILE_BUSY if busy else 1.0)


def runs_for(runs: int, uid: str) -> float:
    """The number of runs, for one of them up to a quarter more or less.

    A new operator hears of all within seconds: what is counted by this alone would be due together ever after.
    """
    return runs * (0.75 + 0.5 * (zlib.crc32(uid.encode()) % 1000) / 1000)


def standing_interval(runs: int, uid: str, *, busy: bool = False) -> timedelta:
    """The same while nothing but the time of the report moves."""
    return max(timedelta(seconds=STANDING_SECONDS), progress_interval(runs, uid, busy=busy))


def announcement_interval(runs: int, uid: str, *, busy: bool = False) -> timedelta:
    """How often a run's new checkpoints are told beside its status: by an event, and by annotations on its pod.

    Each is a write that no decision needs: a minute up to 240 runs, some 200 s with 1,000. Events have a line of their
    own that waits while the operator is busy; annotations are asked for with `busy`.
    """
    wanted = max(ANNOUNCEMENT_SECONDS, runs_for(runs, uid) / ANNOUNCEMENTS_PER_SECOND)
    return timedelta(seconds=wanted) * (WHILE_BUSY if busy else 1.0)
