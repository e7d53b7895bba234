"""Supervised fine-tuning: cross-entropy on the learned tokens of each sample.

A batch's loss is a sum, never a mean: the loop divides by the token count of the whole global batch, so that
accumulation, ranks and padding cannot change what is optimised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from windlass_workloads.data.arrays import Split

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. `kept` are the positions (of any row) whose logits are needed, `targets` [rows, kept]."""

    inputs: dict[str, torch.Tensor]
    kept: torch.Tensor
    targets: torch.Tensor
    weight: float


def collate(split: Split, units: Sequence[int], *, packed: bool, weight: float = 1.0) -> Batch:
    """Tensors of some units, padded to the longest. Weight 0 makes a batch that only keeps ranks in step.

    Padding stands at the end, where causal attention hides it, so that no mask is needed without packing.
    """
    rows = [split.samples_of(unit) for unit in units]
    width = max(sum(len(tokens) for tokens, _ in row) for row in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    segments = np.full((len(rows), width), -1, dtype=np.int64)
    for row, samples in enumerate(rows):
        first = 0
        for segment, (ids, learned) in enumerate(samples):
            last = first + len(ids)
            tokens[row, first:last] = ids
            # The token at t is predicted at t - 1; the first token of a sample is never predicted.
            labels[row, first : last - 1] = np.where(learned[1:], ids[1:], IGNORED)
            positions[row, first:last] = np.arange(len(ids))
            segments[row, first:last] = segment
            first = last
    kept = np.flatnonzero((labels != IGNORED).any(axis=0))
    inputs = {"input_ids": torch.from_numpy(tokens), "position_ids": torch.from_numpy(positions)}
    if packed:
        inputs["attention_mask"] = isolating_mask(torch.from_numpy(segments))
    else:
        inputs["position_ids"] = torch.arange(width).expand(len(rows), width)
    return Batch(inputs, torch.from_numpy(kept), torch.from_numpy(labels[:, kept]), weight)


def isolating_mask(segments: torch.Tensor) -> torch.Tensor:
    """Mask [rows, 1, width, width], true where a token may look: back, and within its own sample.

    segments [rows, width] numbers the samples of a row; -1 is padding, which looks at padding only.
    """
    width = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    return (same & causal).unsqueeze(1)


def takes_kept(model: Any) -> bool:
    """Whether the model can compute logits for chosen positions only."""
    forward = getattr(model, "get_base_model", lambda: model)().forward
    return "logits_to_keep" in inspect.signature(forward).parameters


def loss_sum(forward: Callable[..., Any], batch: Batch, *, choose_logits: bool) -> torch.Tensor:
    """Summed cross-entropy in nats over the learned tokens of the batch, times its weight."""
    inputs: dict[str, Any] = dict(batch.inputs)
    if choose_logits:
        inputs["logits_to_keep"] = batch.kept
    logits = forward(**inputs, use_cache=False).logits
    if not choose_logits:
        logits = logits[:, batch.kept]
    flat = logits.reshape(-1, logits.shape[-1]).float()
    loss = functional.cross_entropy(flat, batch.targets.reshape(-1), ignore_index=IGNORED, reduction="sum")
    return loss * batch.weight


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    if device.type == "cpu":
        return batch
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    return Batch(inputs, batch.kept.to(device), batch.targets.to(device), batch.weight)
