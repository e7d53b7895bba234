"""Asks running ranks where they are: faulthandler writes their stacks into their own logs.

Used by `ranks`. A rank that does not catch the signal is not sent it, since that would end it. Must never
wait for longer than a moment: a rank that is stopped cannot answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Final

from windlass_workloads.agent.pumps import LogPump
from windlass_workloads.agent.stacks import THREAD

SIGNAL: Final = signal.SIGUSR1
ANSWER_SECONDS: Final = 3.0
QUIET_SECONDS: Final = 0.25
"""A stack is complete when its rank has written nothing more for so long."""
POLL_SECONDS: Final = 0.05
LINES: Final = 400


async def stacks_of(process: int, descriptor: int, output: LogPump) -> tuple[str, list[str]]:
    """The state of a process (R, S, D, T, …; empty when it is gone) and what it writes when asked for its stacks."""
    state = state_of(process)
    if descriptor < 0 or not catches(process, SIGNAL):
        return state, []
    with output.listen() as lines:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, SIGNAL)
        await _until_quiet(lines)
    return state, lines[:LINES]


async def _until_quiet(lines: list[str]) -> None:
    began = time.monotonic()
    count, since = 0, began
    while time.monotonic() - began < ANSWER_SECONDS:
        await asyncio.sleep(POLL_SECONDS)
        if len(lines) != count:
            count, since = len(lines), time.monotonic()
        elif time.monotonic() - since >= QUIET_SECONDS and any(THREAD.match(line) for line in lines):
            return


def state_of(process: int) -> str:
    """The state letter of /proc/PID/stat; empty when there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{process}/status").read_text(errors="replace")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)
