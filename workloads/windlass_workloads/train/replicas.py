"""Whether all ranks hold the same weights, by sums of the weights' bits.

Sums of bits, unlike sums of numbers, do not depend on the processor. They cost a pass over the weights, which a rank
forked from a parent that has made it already (`ahead`) is spared.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from windlass.api.meta import Reason
from windlass_workloads.data.errors import WorkloadError

INTEGERS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))
"""Integer types by their size in bytes, widest first."""


def bit_sums(model: nn.Module) -> torch.Tensor:
    """One sum for each parameter, of a split one for this rank's part, in their order; int64 on the model's device."""
    with torch.no_grad():
        return torch.stack([bits_of(local(each)).sum(dtype=torch.int64) for each in model.parameters()])


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's memory as integers, the widest that fit."""
    flat = tensor.detach().contiguous().view(-1)
    size = flat.numel() * flat.element_size()
    kind = next(kind for width, kind in INTEGERS if size % width == 0)
    return flat.view(kind)


def require_equal(model: nn.Module, known: torch.Tensor | None = None, group: Any = None) -> None:
    """Refuses to train ranks whose weights differ, which a broadcast would only hide. Collective over all ranks.

    `known` are the sums of these very weights, where they were made before. Compared are the ranks of `group`, all if
    left out; a difference in one group is an error on every rank of all.
    """
    parameters = list(model.named_parameters())
    sums = bit_sums(model) if known is None else known.to(parameters[0][1].device)
    lowest, highest = sums.clone(), sums.clone()
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=group)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
    differs = (lowest != highest).to(torch.int64)
    if group is not None:
        dist.all_reduce(differs, op=dist.ReduceOp.MAX)
    differing = differs.nonzero().flatten().tolist()
    if differing:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"spec.model.uri: ranks read different weights (got {len(differing)} of {len(parameters)} that differ, "
            f"first {parameters[differing[0]][0]}); allowed the same files on every node.",
            hint="give all pods the same claim or revision; compare the files' digests.",
        )
