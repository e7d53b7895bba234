"""State of a DDP or FSDP run for checkpoints: model, optimizer, scheduler, counters.

Made by the training loop, used by writer and reader. With an adapter only trainable parameters are
kept; the base model comes from its own files. Must never be asked before the first optimizer step.
"""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)


class Scheduler(Protocol):
    """A learning-rate schedule whose state is JSON-ready."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state over."""


class TorchState:
    """Implements StateAdapter. `counters` is updated in place by a load (step, samples, tokens, …)."""

    format: Literal["DCP", "DeepSpeed"] = "DCP"

    def __init__(
        self,
        *,
        strategy: str,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler | None,
        counters: dict[str, int],
        trainable_only: bool = False,
    ) -> None:
        self.strategy = strategy
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.counters = counters
        self.options = StateDictOptions(ignore_frozen_params=trainable_only, strict=not trainable_only)

    def state_dict(self) -> dict[str, Any]:
        """Live tensors by name; small values as one JSON text, which keeps the number of items low."""
        plain = {
            "counters": self.counters,
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }
        return {
            "model": get_model_state_dict(self.model, options=self.options),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=self.options),
            "plain": json.dumps(plain),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over model, optimizer, scheduler and counters."""
        set_model_state_dict(self.model, state["model"], options=self.options)
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"], options=self.options)
        plain = json.loads(state["plain"])
        self.counters.update(plain["counters"])
        if self.scheduler is not None and plain["scheduler"] is not None:
            self.scheduler.load_state_dict(plain["scheduler"])
