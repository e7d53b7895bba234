"""What the loop needs of an objective: batches out of prepared rows, and their loss as a sum.

A batch's loss is a sum, never a mean: the loop divides by the token count of the whole global batch, so that
accumulation, ranks and padding cannot change what is optimised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from windlass_workloads.data.arrays import Split

IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. `kept` are the positions (of any row) whose logits are needed, `targets` [rows, kept]."""

    inputs: dict[str, torch.Tensor]
    kept: torch.Tensor
    targets: torch.Tensor
    weight: float


class Objective(Protocol):
    """What is optimised."""

    def collate(self, split: Split, units: Sequence[int], *, step: int, weight: float = 1.0) -> Batch:
        """Tensors of some units. Weight 0 makes a batch that only keeps ranks in step; step 0 is a validation."""
        ...

    def loss_sum(self, forward: Callable[..., Any], batch: Batch, *, learning: bool = True) -> torch.Tensor:
        """Summed loss over the learned tokens of a batch, times its weight; without what only guides the learning."""
        ...

    def loss_of(self, logits: torch.Tensor, targets: torch.Tensor, *, learning: bool = True) -> torch.Tensor:
        """The same from logits [rows, width, vocabulary] and what they should say [rows, width], without a weight."""
        ...


def dense(batch: Batch) -> torch.Tensor:
    """What each position of a batch should say [rows, width], IGNORED for those that are not kept."""
    whole = torch.full_like(batch.inputs["input_ids"], IGNORED)
    whole[:, batch.kept] = batch.targets
    return whole


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    if device.type == "cpu":
        return batch
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    return Batch(inputs, batch.kept.to(device), batch.targets.to(device), batch.weight)
