"""What training needs from its surroundings, and how it speaks to the agent.

The agent's RankChannel fits `Channel`; tests bring their own. Reporter makes events, so that no other module of
training builds one by hand.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from windlass.api.contract import RankEvent
from windlass.api.meta import Phase
from windlass.api.status import Failure, Output, Plan, TrackingStatus
from windlass_workloads.checkpoint import interface


class Channel(interface.Channel, Protocol):
    """The way to the agent and back. Never raises, also when the agent is away."""

    @property
    def save_requested(self) -> bool:
        """Whether SIGTERM came: save at the next step boundary, then exit 0."""
        ...


class Reporter:
    """Sends the events of one rank."""

    def __init__(self, channel: Channel, rank: int) -> None:
        self.channel = channel
        self.rank = rank

    def _send(self, kind: str, **fields: Any) -> None:
        self.channel.send(
            RankEvent.model_validate({"type": kind, "at": time.time(), "rank": self.rank, **fields})
        )

    def phase(self, phase: Phase) -> None:
        """The rank begins a phase."""
        self._send("Phase", phase=phase)

    def forward(self, step: int) -> None:
        """The rank enters its first forward since it started."""
        self._send("Forward", step=step)

    def step(self, step: int, **figures: Any) -> None:
        """A step is done; figures as in RankEvent."""
        self._send("Step", step=step, **figures)

    def validation(self, step: int, loss: float) -> None:
        """Mean loss per token on the validation split."""
        self._send("Validation", step=step, loss=loss)

    def plan(self, plan: Plan) -> None:
        """What the run will do."""
        self._send("Plan", plan=plan)

    def prepared(self, name: str) -> None:
        """Prepared data are complete under this name."""
        self._send("Prepared", name=name)

    def tracking(self, status: TrackingStatus, message: str | None) -> None:
        """State of the MLflow run; a message means degraded."""
        self._send("Tracking", tracking=status, message=message)

    def output(self, output: Output) -> None:
        """The result is in place."""
        self._send("Output", output=output)

    def loss_spike(self, step: int, loss: float | None, message: str | None) -> None:
        """The loss has spiked and training goes on; without a message that is over."""
        self._send("LossSpike", step=step, loss=loss, message=message)

    def failure(self, failure: Failure, step: int | None = None) -> None:
        """The rank gives up; `step` is the one that a guard has not let through."""
        self._send("Failure", failure=failure, step=step)

    def saved(self, step: int) -> None:
        """What SIGTERM asked for is done: everything up to `step` is in a committed checkpoint."""
        self._send("Saved", step=step)

    def done(self, step: int) -> None:
        """The task is complete."""
        self._send("Done", step=step)
