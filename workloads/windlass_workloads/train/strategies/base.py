"""What the loop asks of a strategy, and what all strategies share: optimiser, clipping, group of ranks.

The loop never looks behind this protocol. Losses handed to `backward` are already divided by the token count of the
global batch, so that a strategy only has to add up gradients over ranks, whatever its library does by default.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from windlass.api.finetune import FineTuneJobSpec
from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a strategy is built from. `accumulation` is the number of micro-batches per rank and step.

    `bit_sums` are the sums by which ranks compare their weights, where they are known already (see replicas).
    """

    spec: FineTuneJobSpec
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

    def step(self, rate: float) -> float:
        """Clips, checks and applies the gradients; returns their norm before clipping. Not applied if not finite."""
        ...

    def saved_state(self, counters: dict[str, int]) -> StateAdapter | DirectoryAdapter:
        """What checkpoints hold."""
        ...

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Trained weights by name, whole and on the CPU, on rank 0; empty elsewhere. Collective."""
        ...


def make_optimizer(model: nn.Module, spec: FineTuneJobSpec) -> torch.optim.Optimizer:
    """AdamW over the trained weights; vectors (biases, norms) do not decay, as in transformers."""
    settings = spec.training.optimizer
    decay = float(settings.weight_decay)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": 0.0}]
    if decay:
        groups = [
            {"params": [each for each in trained if each.ndim >= 2], "weight_decay": decay},
            {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
        ]
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


def clip(parameters: list[nn.Parameter], limit: float) -> float:
    """Scales gradients down to the limit (0: never) and returns their norm before; whole over all ranks."""
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(
        [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    )
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if limit > 0 and torch.isfinite(whole):
        nn.utils.clip_grads_with_norm_(with_gradient, limit, whole)
    return float(whole)


def freeze_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the frozen weights, which need no fp32 copy, in place."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformers model: what FSDP gathers one at a time."""
    names: set[str] = set()
    for module in model.modules():
        names.update(getattr(module, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if found:
        return found
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])
