"""`windlass status [NAME] [-w]`: one job in full, or a line for each.

Called by `main`. With -w it redraws until the job is finished; where rich is missing or the output is no
terminal, a line is printed whenever something changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from windlass.api.kinds import KINDS
from windlass.api.meta import ConditionType
from windlass.cli import view
from windlass.cli.access import Access
from windlass.core.observed import parse_status

POLL_SECONDS = 1.0
Show = Callable[[dict[str, Any]], None]


def status_command(options: argparse.Namespace, access: Access) -> int:
    """Print; with -w the exit status says whether the job completed."""
    if options.name is None:
        print("\n".join(listing(access.jobs())) or f"no job in namespace {access.namespace}")
        return 0
    if options.watch:
        return watch(access, options.name)
    job = access.job(options.name)
    print(json.dumps(job.get("status") or {}, indent=2) if options.json else view.describe(job))
    return 0


def listing(jobs: list[dict[str, Any]]) -> list[str]:
    """A line for each job, which begins with its kind where there are several."""
    several = len({job["kind"] for job in jobs}) > 1
    return [f"{KINDS[job['kind']].short}  {line(job)}" if several else line(job) for job in jobs]


def line(job: dict[str, Any]) -> str:
    """One job in one line."""
    status = parse_status(job.get("status") or {})
    return f"{view.heading(job, status)}  {view.progress_lines(status)[0]}"


def watch(access: Access, name: str) -> int:
    """Follow to the end; 0 when the job completed, 1 when it failed."""
    job = follow(access, name, drawer())
    return 0 if view.is_true(parse_status(job.get("status") or {}), ConditionType.COMPLETE) else 1


def follow(access: Access, name: str, show: Show) -> dict[str, Any]:
    """Show the job whenever it changed; return it as it was when it finished."""
    seen = ""
    while True:
        job = access.job(name)
        if job["metadata"]["resourceVersion"] != seen:
            seen = job["metadata"]["resourceVersion"]
            show(job)
        if view.is_finished(parse_status(job.get("status") or {})):
            return job
        time.sleep(POLL_SECONDS)


def drawer() -> Show:
    """Redraws in place on a terminal with rich; prints lines elsewhere."""
    if sys.stdout.isatty():
        try:
            from rich.live import Live
            from rich.text import Text
        except ImportError:
            return line_printer()
        live = Live(auto_refresh=False)
        live.start()
        return lambda job: live.update(Text(view.describe(job)), refresh=True)
    return line_printer()


def line_printer() -> Show:
    """Prints a line when it differs from the last; each recovery gets a line of its own, once."""
    shown: set[int] = set()
    last = [""]

    def show(job: dict[str, Any]) -> None:
        text = line(job)
        if text != last[0]:
            print(text, flush=True)
            last[0] = text
        for row in parse_status(job.get("status") or {}).recoveries:
            # A row is there before its phases are measured; its total says that it is whole.
            if row.incarnation not in shown and row.seconds.total > 0:
                shown.add(row.incarnation)
                print(view.recovery_line(row), flush=True)

    return show
