"""Learning rate as a pure function of the step, with the meanings of the Hugging Face schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from windlass.api.training import Training


@dataclass(frozen=True, slots=True)
class Schedule:
    """Peak rate, shape, and both lengths in steps."""

    peak: float
    shape: Literal["Cosine", "Linear", "Constant"]
    warmup_steps: int
    total_steps: int

    def rate(self, step: int) -> float:
        """Rate of a step, which counts from 1. Warm-up begins at zero, as it does in transformers."""
        done = step - 1
        if done < self.warmup_steps:
            return self.peak * done / self.warmup_steps
        if self.shape == "Constant":
            return self.peak
        progress = (done - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.shape == "Linear":
            return self.peak * max(0.0, 1.0 - progress)
        return self.peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def schedule_of(training: Training, total_steps: int) -> Schedule:
    """The schedule of a spec; a percentage of warm-up is of all steps, rounded up."""
    warmup = training.scheduler.warmup
    steps = math.ceil(total_steps * int(warmup[:-1]) / 100) if warmup.endswith("%") else int(warmup)
    return Schedule(
        peak=float(training.learning_rate),
        shape=training.scheduler.type,
        warmup_steps=min(steps, total_steps),
        total_steps=total_steps,
    )
