"""The guards of one rank: they look at loss and gradients before a step is applied, and stop it on all ranks alike.

Called by the loop between backward and optimiser step. What they look at has been summed over ranks with the loss, so
that there is no message of their own. A tripped guard raises on every rank; the leader decides what follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from windlass.api.guards import Guards
from windlass.core.failure.spike import Seen, Spike, look
from windlass_workloads.train.failures import LossSpiked, NotFinite
from windlass_workloads.train.ports import Reporter

SHOWN_SAMPLES = 32
"""How many samples of a step evidence lists."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A step that has not been applied: loss and count of ranks with a bad gradient, both over all ranks.

    `samples` gives the units of the global batch.
    """

    step: int
    loss: float
    bad_gradients: float
    rate: float
    samples: Callable[[], Sequence[int]]


@dataclass(slots=True)
class Watch:
    """State of the guards over the steps of one start; `seen` begins with what the checkpoint kept."""

    guards: Guards
    seen: Seen = field(default_factory=Seen)
    told_until: int | None = None
    """While a spike was told that the run goes on through, the last step for which it counts as recent."""

    def judge(self, sight: Sight) -> Spike | None:
        """A spike to tell of; raises NotFinite or LossSpiked when the step may not be applied. Same on all ranks."""
        if sight.bad_gradients or not math.isfinite(sight.loss):
            gradient = f"no number on {sight.bad_gradients:.0f} rank(s)" if sight.bad_gradients else "finite"
            raise NotFinite(
                f"step {sight.step}: loss {sight.loss:.5g}, gradient {gradient}, learning rate {sight.rate:.3g}; the "
                "step was not applied",
                step=sight.step,
                samples=shown(sight.samples()),
            )
        self.seen, spike = look(self.seen, sight.loss, self.guards.loss_spike)
        if spike is None or self.guards.loss_spike.action == "Notify":
            return spike
        raise LossSpiked(
            f"step {sight.step}: {spike.text}; the step was not applied",
            step=sight.step,
            samples=shown(sight.samples()),
        )

    def tell(self, report: Reporter, step: int, spike: Spike | None) -> None:
        """Says that there was a spike, and a window of steps later that it is over."""
        if spike is not None:
            self.told_until = step + self.guards.loss_spike.window_steps
            report.loss_spike(step, spike.loss, f"step {step}: {spike.text}")
        elif self.told_until is not None and step >= self.told_until:
            self.told_until = None
            report.loss_spike(step, None, None)


def shown(samples: Sequence[int]) -> str:
    """The samples of a step, for evidence."""
    more = f" and {len(samples) - SHOWN_SAMPLES} more" if len(samples) > SHOWN_SAMPLES else ""
    return ", ".join(str(sample) for sample in samples[:SHOWN_SAMPLES]) + more
