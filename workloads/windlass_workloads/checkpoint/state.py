"""State of a DDP or FSDP run for checkpoints: model, optimizer, scheduler, counters.

Made by the training loop, used by writer and reader. With an adapter only trainable parameters are
kept; the base model comes from its own files. Must never be asked before the first optimizer step.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from windlass_workloads.checkpoint import flat


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
        return self.by_name()

    def by_name(self) -> dict[str, Any]:
        """The same, whatever form is saved: what a checkpoint saved by name is loaded into."""
        weights = get_model_state_dict(self.model, options=self.options)
        # torch leaves out a frozen weight by one of its names only: a tied one would come in by the other.
        dropped = self._frozen()
        return {
            "model": {name: each for name, each in weights.items() if name not in dropped},
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer, options=self.options),
            "plain": self._plain(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a filled `by_name`."""
        set_model_state_dict(self.model, state["model"], options=self.options)
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"], options=self.options)
        self._take_plain(state["plain"])

    def load_flat(self, state: dict[str, Any]) -> None:
        """Takes over what a ReplicatedState saved: each rank reads all of it and keeps its shards."""
        saved, mine = flat.views(state), self.by_name()
        with torch.no_grad():
            for name, tensor in mine["model"].items():
                flat.put(saved["model", name], tensor)
            for name, entries in mine["optimizer"]["state"].items():
                for key, tensor in entries.items():
                    flat.put(saved["optimizer", name, key], tensor)
        settle(mine["optimizer"]["param_groups"], json.loads(state["plain"])["groups"])
        self.load_state_dict({**mine, "plain": state["plain"]})

    def _frozen(self) -> set[str]:
        """All names of weights that are not kept, without what wrappers put before them."""
        if not self.options.ignore_frozen_params:
            return set()
        named = self.model.named_parameters(remove_duplicate=False)
        return {name.removeprefix("module.") for name, each in named if not each.requires_grad}

    def _plain(self) -> str:
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return json.dumps({"counters": self.counters, "scheduler": scheduler})

    def _take_plain(self, text: str) -> None:
        plain = json.loads(text)
        self.counters.update(plain["counters"])
        if self.scheduler is not None and plain["scheduler"] is not None:
            self.scheduler.load_state_dict(plain["scheduler"])


class StageState(TorchState):
    """The state of a run whose ranks hold different weights, under the names that the whole model gives them.

    Settings of the optimizer go by weight: what one rank says of its groups is not what another needs.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.options = replace(self.options, flatten_optimizer_state_dict=True)


def is_plain(value: Any) -> bool:
    """Whether a setting of an optimizer's group can be kept as JSON without loss."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def settle(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Gives an optimizer's groups the settings (rate, betas, ...) they were saved with."""
    for group, settings in zip(groups, saved, strict=True):
        for key, value in settings.items():
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value


class ReplicatedState(TorchState):
    """The state of a run whose ranks all hold everything: a few long tensors instead of thousands.

    `model` must not be wrapped. Reads what FSDP saved by name as well.
    """

    def state_dict(self) -> dict[str, Any]:
        """Laid end to end, see `flat`; nothing is copied yet."""
        groups = [
            {key: value for key, value in group.items() if key != "params" and is_plain(value)}
            for group in self.optimizer.param_groups
        ]
        plain = json.dumps({**json.loads(self._plain()), "groups": groups})
        return {**flat.lay_out({**self._weights(), **self._moments()}), "plain": plain}

    def load_flat(self, state: dict[str, Any]) -> None:
        """Takes over a filled state of this form."""
        saved = flat.views(state)
        weights = self._weights()
        flat.require_same({path: each for path, each in saved.items() if path[0] == "model"}, weights)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for path, value in saved.items():
                if path[0] == "model":
                    weights[path].copy_(value)
                else:
                    _, name, key = path
                    parameter = parameters[name]
                    entries = self.optimizer.state[parameter]
                    # An optimizer that has not stepped yet has no entries; a copy gives it the saved ones.
                    entries[key] = value.clone().to(parameter.device)
        settle(self.optimizer.param_groups, json.loads(state["plain"])["groups"])
        self._take_plain(state["plain"])

    def _weights(self) -> dict[flat.Path, torch.Tensor]:
        """What is kept of the model: everything, or all but frozen weights."""
        frozen = self._frozen()
        return {("model", name): each for name, each in self.model.state_dict().items() if name not in frozen}

    def _moments(self) -> dict[flat.Path, torch.Tensor]:
        """The optimizer's tensors."""
        names = {each: name for name, each in self.model.named_parameters()}
        return {
            ("optimizer", names[parameter], key): value
            for parameter, entries in self.optimizer.state.items()
            for key, value in entries.items()
        }
