"""Reaps every child of the agent, its own and those that became its own, and tells who waits for them.

The only place in the agent that calls waitpid: two reapers would steal from each other. Lives in the
event loop; must never block.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from windlass_workloads.agent.lifeline import PR_SET_CHILD_SUBREAPER, process_control

REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: an exit code, or the signal that killed it."""

    code: int
    signal: int | None

    @classmethod
    def of(cls, status: int) -> Ending:
        """From a wait status."""
        code = os.waitstatus_to_exitcode(status)
        return cls(code=128 - code, signal=-code) if code < 0 else cls(code=code, signal=None)


class Reaper:
    """Endings by process id. A process that ended before it was claimed is remembered."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Ending]] = {}
        self._unclaimed: dict[int, Ending] = {}

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Become the parent of orphans and reap on SIGCHLD."""
        process_control(PR_SET_CHILD_SUBREAPER, 1)
        loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def claim(self, process: int) -> asyncio.Future[Ending]:
        """The future ending of a child. Until it is done, the process id cannot be used again."""
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.reap()
        ending = self._unclaimed.pop(process, None)
        if ending is not None:
            future.set_result(ending)
        else:
            self._waiting[process] = future
        return future

    def reap(self) -> None:
        """Collects all children that have ended."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            self.settle(process, Ending.of(status))

    def settle(self, process: int, ending: Ending) -> None:
        """Tells who waits for this process, or remembers its ending."""
        future = self._waiting.pop(process, None)
        if future is None:
            self._unclaimed[process] = ending
            while len(self._unclaimed) > REMEMBERED:
                del self._unclaimed[next(iter(self._unclaimed))]
        elif not future.done():
            future.set_result(ending)

    def strays(self) -> list[int]:
        """Children that nobody claimed and that are not gone entirely: orphans of ranks that have died."""
        self.reap()
        # One whose first thread has ended still has its children, until its other threads have too.
        children = children_of(os.getpid(), ended=True)
        return [process for process in children if process not in self._waiting]


def children_of(parent: int, *, ended: bool = False) -> list[int]:
    """Living children of a process, by scanning /proc; with `ended` also those that nobody has waited for."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(parent) and (ended or fields[0] != "Z"):
            found.append(int(entry.name))
    return found
