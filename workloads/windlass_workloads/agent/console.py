"""The pod's log: what ranks and the agent say, written to standard output by a thread of its own.

A container's log may stall, and whoever says something must never wait for it: heartbeats would stop.
Must never keep more than a bounded backlog; what does not fit is left out, and the log says how much.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from typing import Final

KEPT_BYTES: Final = 4 << 20


class Console:
    """Writes lines in order, without ever blocking who gives them. Also the stream of a logging handler."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._left_out = 0
        threading.Thread(target=self._run, name="console", daemon=True).start()

    def show(self, line: bytes) -> None:
        """One line with its newline."""
        with self._changed:
            if self._size + len(line) > KEPT_BYTES:
                self._left_out += 1
                return
            if self._left_out:
                self._add(b"[agent] warning %d lines left out: the log's reader was slow\n" % self._left_out)
                self._left_out = 0
            self._add(line)
            self._changed.notify_all()

    def write(self, text: str) -> int:
        """As a text stream."""
        self.show(text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the thread writes what there is."""

    def drain(self, limit_seconds: float) -> bool:
        """Waits until all is written, at most so long; whether it is."""
        deadline = time.monotonic() + limit_seconds
        with self._changed:
            while self._size:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                line = self._lines.popleft()
            self._write(line)
            with self._changed:
                self._size -= len(line)
                self._changed.notify_all()

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:  # nobody reads the log any more; the run goes on
                return


def show_now(line: bytes) -> None:
    """Writes a line at once; for processes that have no console."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
