"""How long a rank needs for its own part of a step: until it first waits for the others.

The leader compares these seconds over ranks to find one that slows the others down. On an accelerator
they are measured by events in its stream and read when the step has been waited for anyway.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any

import torch


class Meeting(StrEnum):
    """Where a strategy first makes a rank wait for the others in a step."""

    FORWARD = "Forward"
    BACKWARD = "Backward"
    LAST_BACKWARD = "LastBackward"
    """With accumulation, the backward of the last micro-batch."""


class OwnTime:
    """Measures one step. Made when it begins; `seconds` may be asked once the ranks have met."""

    def __init__(self, device: torch.device, meeting: Meeting) -> None:
        self._meeting = meeting
        self._cuda = device.type == "cuda"
        self._began = self._now()
        self._met: Any = None

    def forward(self) -> None:
        """A forward pass is next."""
        if self._meeting is Meeting.FORWARD:
            self._meet()

    def backward(self, *, last: bool) -> None:
        """A backward pass is next; `last` is that of the step's last micro-batch."""
        if self._meeting is Meeting.BACKWARD or (last and self._meeting is Meeting.LAST_BACKWARD):
            self._meet()

    def seconds(self) -> float | None:
        """Seconds of the rank's own part; None for a step without a meeting."""
        if self._met is None:
            return None
        if self._cuda:
            return float(self._began.elapsed_time(self._met)) / 1000.0
        return float(self._met - self._began)

    def _meet(self) -> None:
        if self._met is None:
            self._met = self._now()

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
