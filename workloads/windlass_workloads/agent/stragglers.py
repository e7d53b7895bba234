"""Which ranks slow their gang down: those that need longer than the others for their own part of a step.

Pure; owned by `guarding`. Every rank tells its own seconds of a step, spent before it first waits for the
others, with the step itself. Medians over windows of steps are compared, so that a few slow steps, or
samples of different lengths, make no straggler. Must never end anything: it is told, not acted upon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from windlass.api.contract import RankEvent

RATIO: Final = 1.5
COST: Final = 0.1
"""Share of a step that the difference must be at least: less is not worth a word."""
STEPS: Final = 10
WARM_STEPS: Final = 3
WINDOWS: Final = 3
"""Windows in a row after which a rank counts as slow, or no longer."""
KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Slow:
    """A rank that takes `ratio` times as long as the others' median for its own part of a step."""

    rank: int
    ratio: float


@dataclass(slots=True)
class Lane:
    """One rank: its own seconds in this window, and for how many windows it has been slow or not."""

    own: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    seen: int = 0
    slow: int = 0
    well: int = 0


class Pace:
    """The ranks of one incarnation. A window takes at least so many seconds, and STEPS steps of each rank."""

    def __init__(self, ranks: Iterable[int], window_seconds: float) -> None:
        self._lanes = {rank: Lane() for rank in ranks}
        self._steps: deque[float] = deque(maxlen=KEPT)
        self._window_seconds = window_seconds
        self._since: float | None = None
        self.slow: dict[int, Slow] = {}
        """Ranks that slow the others down, as they were found."""

    def hear(self, event: RankEvent, time: float) -> None:
        """A rank's words at `time`, in seconds of a clock that does not jump."""
        lane = self._lanes.get(event.rank)
        if lane is None or event.type != "Step" or event.own_seconds is None or event.seconds is None:
            return
        lane.seen += 1
        if lane.seen <= WARM_STEPS:
            return
        if self._since is None:
            self._since = time
        lane.own.append(event.own_seconds)
        self._steps.append(event.seconds)
        if time - self._since >= self._window_seconds and self._enough():
            self._close()
            self._since = time

    def _enough(self) -> bool:
        return len(self._lanes) > 1 and all(len(lane.own) >= STEPS for lane in self._lanes.values())

    def _close(self) -> None:
        """Judges a window and begins the next."""
        own = {rank: median(lane.own) for rank, lane in self._lanes.items()}
        cost = COST * median(self._steps)
        for rank, lane in self._lanes.items():
            others = median(value for other, value in own.items() if other != rank)
            late = own[rank] >= RATIO * others and own[rank] - others >= cost
            lane.slow, lane.well = (lane.slow + 1, 0) if late else (0, lane.well + 1)
            if lane.slow >= WINDOWS and rank not in self.slow:
                self.slow[rank] = Slow(rank, own[rank] / others if others > 0 else float("inf"))
            elif lane.well >= WINDOWS:
                self.slow.pop(rank, None)
            lane.own.clear()
        self._steps.clear()
