"""How long the rest of a run will take, as a band: by the steps that were measured since it last started.

`view` feeds it with the steps of rank 0. It must never tell a band that it has not measured: the first step after
a start is slower than all others and does not count, and a handful of steps says nothing about their spread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

LEAST_STEPS: Final = 6
"""Measured steps before a band is told. With fewer, fastest and slowest tenth are the same one or two steps."""
KEPT_STEPS: Final = 200
"""Steps whose spread counts: a run that became slower for good is told so within as many."""
TENTH: Final = 0.1


@dataclass(slots=True)
class Pace:
    """Seconds of the latest steps, and the time that all steps since the start took with what lay between them."""

    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    _first: tuple[int, float] | None = None
    _last: tuple[int, float] | None = None

    def hear(self, step: int, *, seconds: float | None, at: float) -> None:
        """A step that ended. `seconds`: what it took itself; `at`: Unix time of its end."""
        self._last = (step, at)
        if self._first is None:
            self._first = self._last
        elif seconds is not None:
            self._seconds.append(seconds)

    def band(self, left: int) -> tuple[float, float] | None:
        """Seconds that `left` steps will take, from and to; None before enough steps were measured.

        From: all as fast as the fastest tenth. To: all as slow as the slowest tenth, or as the run got on
        altogether, with its saves and validations, whichever is slower.
        """
        if len(self._seconds) < LEAST_STEPS:
            return None
        inner = sorted(self._seconds)
        skipped = int(len(inner) * TENTH)
        return left * inner[skipped], left * max(inner[-1 - skipped], self._altogether())

    def _altogether(self) -> float:
        """Seconds per step by the clock, since the first step after the start."""
        if self._first is None or self._last is None or self._last[0] <= self._first[0]:
            return 0.0
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
