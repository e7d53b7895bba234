"""Learning rate as a pure function of the step, with the meanings of the Hugging Face schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from windlass.api.training import Training

DECAY: Final = "10%"
"""The share of all steps over which WSD falls where none is given."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Peak rate, shape, and lengths in steps."""

    peak: float
    shape: Literal["Cosine", "Linear", "Constant", "WSD"]
    warmup_steps: int
    total_steps: int
    decay_steps: int = 0
    """Of WSD: the last steps, over which the rate falls."""

    def rate(self, step: int) -> float:
        """Rate of a step, which counts from 1. Warm-up begins at zero, as it does in transformers."""
        done = step - 1
        if done < self.warmup_steps:
            return self.peak * done / self.warmup_steps
        if self.shape == "Constant":
            return self.peak
        if self.shape == "WSD":
            left = self.total_steps - done
            return self.peak * max(0.0, min(1.0, left / max(1, self.decay_steps)))
        progress = (done - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.shape == "Linear":
            return self.peak * max(0.0, 1.0 - progress)
        return self.peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def schedule_of(training: Training, total_steps: int) -> Schedule:
    """The schedule of a spec; percentages are rounded up. Where both overlap, warm-up goes before decay."""
    chosen = training.scheduler
    warmup = min(in_steps(chosen.warmup, total_steps), total_steps)
    decay = in_steps(chosen.decay or DECAY, total_steps) if chosen.type == "WSD" else 0
    return Schedule(
        peak=float(training.learning_rate),
        shape=chosen.type,
        warmup_steps=warmup,
        total_steps=total_steps,
        decay_steps=min(decay, total_steps - warmup),
    )


def in_steps(text: str, total_steps: int) -> int:
    """A number of steps, or a percentage of all."""
    return math.ceil(total_steps * int(text[:-1]) / 100) if text.endswith("%") else int(text)
