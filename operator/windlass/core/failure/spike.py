"""When a training loss is a spike: far above the median of its recent values, several times in a row.

Every rank judges the loss that all ranks agree on, so all come to the same answer, and a run that went on from a
checkpoint to the same as one that was never interrupted. Pure: the state goes in and comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from windlass.api.guards import LossSpike

NORMAL: Final = 1.4826
"""Standard deviation of a normal distribution in units of its MAD."""
LEAST_SPREAD: Final = 0.01
"""The spread counts as at least this share of the median: a loss that hardly moves is no reason for alarms."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Normal losses so far, oldest first and at most a window of them, and the suspect ones since."""

    losses: tuple[float, ...] = ()
    suspects: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Spike:
    """A loss that was too high for too long."""

    loss: float
    median: float
    limit: float
    steps: int

    @property
    def text(self) -> str:
        """What is said of it."""
        times = f"{self.steps} steps in a row" if self.steps > 1 else "1 step"
        return f"loss {self.loss:.5g}, above {self.limit:.5g} for {times} (median before {self.median:.5g})"


def limit_of(losses: Sequence[float], deviations: float) -> tuple[float, float]:
    """Median of losses, and the highest loss that is normal after them."""
    middle = median(losses)
    spread = NORMAL * median(abs(loss - middle) for loss in losses)
    return middle, middle + deviations * max(spread, LEAST_SPREAD * abs(middle))


def look(seen: Seen, loss: float, guard: LossSpike) -> tuple[Seen, Spike | None]:
    """Takes in the loss of the next step (finite), and says whether it makes a spike.

    After a spike its losses count as normal, so that a run that goes on through it is told once.
    """
    window = guard.window_steps
    if guard.action == "Off":
        return seen, None
    losses = seen.losses[-window:]
    if len(losses) >= window:
        middle, limit = limit_of(losses, float(guard.deviations))
        if loss > limit:
            suspects = (*seen.suspects, loss)
            if len(suspects) < guard.patience:
                return Seen(losses, suspects), None
            return Seen((*losses, *suspects)[-window:]), Spike(loss, middle, limit, len(suspects))
    # One normal loss clears the suspects, which were outliers: they are forgotten.
    return Seen((*losses, loss)[-window:]), None
