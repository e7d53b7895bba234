"""Masked language modelling: some tokens of each row are hidden, and the model says what they were.

Which tokens, and what stands in their place, is a pure function of seed, step and row: every rank, world size and
restart sees the same. How many of a row is settled when rows are prepared, so that the tokens that are learned in a
step are known on every rank without looking at the rows of others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from windlass_workloads.data.arrays import Split
from windlass_workloads.train.objectives.batch import IGNORED, Batch

SHARE: Final = "0.15"
"""Of a row's tokens that are hidden where the spec says nothing."""
MASKED, REPLACED = 0.8, 0.1
"""Of the hidden ones: those that become the mask token, and those that become another token. The rest stays."""
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What hiding needs to know of a tokenizer. `special` are never hidden."""

    size: int
    mask: int
    special: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary | None:
        """That of a tokenizer; None where it has no token to hide others behind."""
        if tokenizer.mask_token_id is None:
            return None
        return cls(len(tokenizer), int(tokenizer.mask_token_id), tuple(sorted(tokenizer.all_special_ids)))

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Vocabulary:
        """As it stands in the index of prepared data."""
        return cls(wire["size"], wire["mask"], tuple(wire["special"]))

    def to_wire(self) -> dict[str, Any]:
        """What stands there, as it is read again."""
        return {"size": self.size, "mask": self.mask, "special": list(self.special)}

    def maskable(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which tokens of rows may be hidden; same shape."""
        free: npt.NDArray[np.bool_] = ~np.isin(rows, self.special)
        return free


def targets(vocabulary: Vocabulary, share: str) -> Callable[[Rows], npt.NDArray[np.int64]]:
    """How many tokens of each row are hidden: the share of those that may be, rounded, at least one if any may be."""

    def count(rows: Rows) -> npt.NDArray[np.int64]:
        free = vocabulary.maskable(rows).sum(axis=1)
        wanted = np.rint(free * float(Decimal(share))).astype(np.int64)
        found: npt.NDArray[np.int64] = np.maximum(wanted, np.minimum(free, 1))
        return found

    return count


def hide(
    tokens: Rows, count: int, vocabulary: Vocabulary, *, seed: int, step: int, unit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What the model sees of a row, and what it is to say: the token where it was hidden, else IGNORED."""
    key = hashlib.sha256(f"windlass masks {seed} {step} {unit}".encode()).digest()
    chance = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))
    places = np.flatnonzero(vocabulary.maskable(tokens))
    hidden = chance.permutation(places)[:count]
    seen, said = tokens.astype(np.int64), np.full(len(tokens), IGNORED, dtype=np.int64)
    said[hidden] = tokens[hidden]
    kind, other = chance.random(len(hidden)), chance.integers(0, vocabulary.size, len(hidden))
    seen[hidden] = np.where(
        kind < MASKED, vocabulary.mask, np.where(kind < MASKED + REPLACED, other, tokens[hidden])
    )
    return seen, said


@dataclass(frozen=True, slots=True)
class Masked:
    """The objective MaskedLM."""

    vocabulary: Vocabulary
    seed: int

    def collate(self, split: Split, units: Sequence[int], *, step: int, weight: float = 1.0) -> Batch:
        """Tensors of some rows, all of one length; a step of 0 is the validation's."""
        seen, said = [], []
        for unit in units:
            ((tokens, _),) = split.samples_of(unit)
            count = int(split.unit_targets[unit])
            row = hide(tokens, count, self.vocabulary, seed=self.seed, step=step, unit=unit)
            seen.append(row[0])
            said.append(row[1])
        inputs = torch.from_numpy(np.stack(seen))
        kept = torch.arange(inputs.shape[1])
        # No positions: models count them from different numbers, RoBERTa from the one behind its padding's.
        fed = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
        return Batch(fed, kept, torch.from_numpy(np.stack(said)), weight)

    def loss_sum(self, forward: Callable[..., Any], batch: Batch, *, learning: bool = True) -> torch.Tensor:
        """Summed cross-entropy in nats over the hidden tokens of the batch, times its weight."""
        return self.loss_of(forward(**batch.inputs).logits, batch.targets) * batch.weight

    def loss_of(self, logits: torch.Tensor, targets: torch.Tensor, *, learning: bool = True) -> torch.Tensor:
        """The same from logits [rows, width, vocabulary] and what they should say [rows, width], without a weight."""
        rows, places = torch.nonzero(targets != IGNORED, as_tuple=True)
        return functional.cross_entropy(logits[rows, places].float(), targets[rows, places], reduction="sum")
