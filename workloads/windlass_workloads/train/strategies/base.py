"""What the loop asks of a strategy, and what all strategies share: optimiser, clipping, group of ranks.

The loop never looks behind this protocol. Losses handed to `backward` are already divided by the token count of the
global batch, so that a strategy only has to add up gradients over ranks, whatever its library does by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from windlass.api.jobs import TrainingJobSpec
from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter
from windlass_workloads.train.objectives.batch import Batch, Objective
from windlass_workloads.train.own_time import Meeting

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a strategy is built from. `accumulation` is the number of micro-batches per rank and step.

    `bit_sums` are the sums by which ranks compare their weights, where they are known already (see replicas).
    """

    spec: TrainingJobSpec
    device: torch.device
    world_size: int
    precision: str
    accumulation: int
    bit_sums: torch.Tensor | None = None

    @property
    def trainable_only(self) -> bool:
        """Whether checkpoints hold the adapter only."""
        return self.spec.adapter is not None


class Strategy(Protocol):
    """Ranks sharing one model's training."""

    name: str
    meeting: Meeting
    """Where ranks first wait for each other in a step."""
    tellers: int
    """Ranks that know the loss of the same rows: a sum over all ranks counts it so often."""
    module: Any
    """The wrapped model, for switching between training and evaluation."""

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Surrounds forward and backward of one micro-batch; gradients meet in the last one of a step."""
        ...

    def forward(self, **inputs: Any) -> Any:
        """The model's output in the precision of the run."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds the gradients of this rank's share of the loss."""
        ...

    def measure(self) -> float:
        """Norm of the step's gradients, over all ranks or over this rank's part of them. Applies nothing.

        It is a number only if every gradient that it is taken over is one, so that all ranks together miss none.
        """
        ...

    def step(self, rate: float) -> float:
        """Clips and applies the gradients, which were measured; returns their norm over all ranks before clipping."""
        ...

    def saved_state(self, counters: dict[str, int]) -> StateAdapter | DirectoryAdapter:
        """What checkpoints hold."""
        ...

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Trained weights by name, whole and on the CPU, on rank 0; empty elsewhere. Collective."""
        ...


@runtime_checkable
class Pipelined(Protocol):
    """A strategy that runs the micro-batches of a step by itself, since they are at several ranks at a time."""

    def run(self, batches: Sequence[Batch], objective: Objective, targets: int) -> torch.Tensor:
        """Gradients of the micro-batches; this rank's part of the loss, divided by all targets."""
        ...

    def evaluate(self, batches: Sequence[Batch], objective: Objective) -> float:
        """This rank's part of the summed loss."""
        ...


def make_optimizer(model: nn.Module, spec: TrainingJobSpec) -> torch.optim.Optimizer:
    """AdamW over the trained weights; vectors (biases, norms) do not decay, as in transformers."""
    settings = spec.training.optimizer
    decay = float(settings.weight_decay)
    groups: list[dict[str, Any]] = []
    # Weights that are cut over different ranks cannot be stepped by one call.
    for trained in by_mesh(parameter for parameter in model.parameters() if parameter.requires_grad):
        if decay:
            groups += [
                {"params": [each for each in trained if each.ndim >= 2], "weight_decay": decay},
                {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
            ]
        else:
            groups.append({"params": trained, "weight_decay": 0.0})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=float(spec.training.learning_rate),
        betas=(float(settings.beta1), float(settings.beta2)),
        eps=float(settings.epsilon),
        fused=True,
    )


def set_rate(optimizer: Any, rate: float) -> None:
    """The learning rate of the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def norm_of(parameters: list[nn.Parameter]) -> torch.Tensor:
    """Norm of all gradients; whole over all ranks where they are shards. Collective then."""
    found = []
    for group in by_mesh(each for each in parameters if each.grad is not None):
        norm = nn.utils.get_total_norm([each.grad for each in group if each.grad is not None])
        found.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    return found[0] if len(found) == 1 else torch.stack(found).norm()


def clip(parameters: list[nn.Parameter], limit: float, norm: torch.Tensor) -> None:
    """Scales gradients of this norm down to the limit; 0 is no limit."""
    if limit > 0:
        for group in by_mesh(each for each in parameters if each.grad is not None):
            nn.utils.clip_grads_with_norm_(group, limit, norm)


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters by the ranks over which they are cut, in order; those that are whole are one group."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for each in parameters:
        groups.setdefault(getattr(each, "device_mesh", None), []).append(each)
    return list(groups.values())


def freeze_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the frozen weights, which need no fp32 copy, in place."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformers model: what FSDP gathers one at a time. None that is tied to the rest."""
    names: set[str] = set()
    for module in model.modules():
        names.update(getattr(module, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if found:
        # Bert's embeddings are such a block by name, and the weights of its head are theirs.
        every = occurrences(model)
        return [
            block for block in found if all(every[key] == times for key, times in occurrences(block).items())
        ]
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def occurrences(module: nn.Module) -> Counter[int]:
    """How often each weight stands in a module, by its identity."""
    return Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
