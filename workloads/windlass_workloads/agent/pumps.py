"""Moves lines from the pipes of child processes: logs to the agent's own output, events to the gang.

Runs in the event loop; one object per pipe. Must never lose the end of a log: it is the evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from windlass_workloads.agent.console import show_now

READ_BYTES: Final = 1 << 16
LAST_READS: Final = 17
"""As many reads as empty a pipe of 1 MiB, the most that a rank's may hold."""
LINE_BYTES: Final = 1 << 20
KEPT_LINES: Final = 200
KEPT_CHARACTERS: Final = 2000


class LinePump:
    """Calls `on_line` for each line of a pipe, in the event loop, until its end."""

    def __init__(self, descriptor: int, on_line: Callable[[bytes], None]) -> None:
        self._descriptor = descriptor
        self._on_line = on_line
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    async def drain(self, limit_seconds: float) -> None:
        """Waits for the pipe's end, at most so long, and closes it: orphans may hold it open."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), limit_seconds)
        # A busy loop may not have come to read what is in the pipe; an orphan may go on to fill it.
        for _ in range(LAST_READS):
            if self.ended.done() or not self._take():
                break
        self._close()

    def _read(self) -> None:
        if not self._take():
            self._close()

    def _take(self) -> bool:
        """Hands on what can be read now; False at the pipe's end."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[-LINE_BYTES:]
        for line in lines:
            self._on_line(line)
        return bool(data)

    def _close(self) -> None:
        if self.ended.done():
            return
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._rest:
            self._on_line(self._rest)
        self.ended.set_result(None)


class LogPump:
    """Prefixes the lines of one process, shows them and keeps the last ones. `show` must not block."""

    def __init__(self, descriptor: int, prefix: str, show: Callable[[bytes], None] = show_now) -> None:
        self._show = show
        self._prefix = f"[{prefix}] ".encode()
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._listeners: list[list[str]] = []
        self._pump = LinePump(descriptor, self._on_line)

    def tail(self, lines: int = KEPT_LINES) -> list[str]:
        """The last lines, oldest first."""
        return list(self._kept)[-lines:]

    @contextlib.contextmanager
    def listen(self) -> Iterator[list[str]]:
        """A list of the lines that come meanwhile, oldest first."""
        lines: list[str] = []
        self._listeners.append(lines)
        try:
            yield lines
        finally:
            self._listeners = [each for each in self._listeners if each is not lines]

    async def drain(self, limit_seconds: float) -> None:
        """Waits a little for the end of the log."""
        await self._pump.drain(limit_seconds)

    def _on_line(self, line: bytes) -> None:
        # Of a line that was written over, as progress bars do, a terminal shows the end; so does evidence.
        shown = line.rstrip(b"\r").rpartition(b"\r")[2]
        text = shown.decode(errors="replace")[:KEPT_CHARACTERS]
        self._kept.append(text)
        for lines in self._listeners:
            lines.append(text)
        self._show(self._prefix + line + b"\n")
