"""Cross-entropy of each next token: supervised fine-tuning, and CausalLM on rows of text.

Which tokens are learned is settled when rows are prepared.
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
from windlass_workloads.train.objectives.batch import IGNORED, Batch


@dataclass(frozen=True, slots=True)
class NextToken:
    """The objective. `packed`: units hold several samples, each blind to the others. `chooses_logits`: see takes_kept.

    `z_loss` is the weight of the squared logarithm of the softmax's normaliser.
    """

    packed: bool
    chooses_logits: bool
    z_loss: float = 0.0

    def collate(self, split: Split, units: Sequence[int], *, step: int = 0, weight: float = 1.0) -> Batch:
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
        if self.packed:
            inputs["attention_mask"] = isolating_mask(torch.from_numpy(segments))
        else:
            inputs["position_ids"] = torch.arange(width).expand(len(rows), width)
        return Batch(inputs, torch.from_numpy(kept), torch.from_numpy(labels[:, kept]), weight)

    def loss_sum(self, forward: Callable[..., Any], batch: Batch, *, learning: bool = True) -> torch.Tensor:
        """Summed cross-entropy in nats over the learned tokens of the batch, times its weight."""
        inputs: dict[str, Any] = dict(batch.inputs)
        if self.chooses_logits:
            inputs["logits_to_keep"] = batch.kept
        logits = forward(**inputs, use_cache=False).logits
        if not self.chooses_logits:
            logits = logits[:, batch.kept]
        return self.loss_of(logits, batch.targets, learning=learning) * batch.weight

    def loss_of(self, logits: torch.Tensor, targets: torch.Tensor, *, learning: bool = True) -> torch.Tensor:
        """The same from logits [rows, width, vocabulary] and what they should say [rows, width], without a weight."""
        flat, said = logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)
        loss = functional.cross_entropy(flat, said, ignore_index=IGNORED, reduction="sum")
        if self.z_loss and learning:
            normaliser = torch.logsumexp(flat, dim=-1).square()
            loss = loss + self.z_loss * torch.where(said == IGNORED, 0.0, normaliser).sum()
        return loss


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
