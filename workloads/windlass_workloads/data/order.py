"""Which sample stands at which position of training: a pure function of the seed, for ever.

A keyed Feistel network permutes the samples of each pass over the data without a list in memory. The training step
is all the state there is: any rank, any world size and any restart computes the same batches from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import gcd

from windlass.api.corpus import PARTS
from windlass.core.skipped_windows import position

ROUNDS = 6
MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """64-bit finaliser with full avalanche (the one of splitmix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def round_keys(seed: int, name: int | str) -> tuple[int, ...]:
    """Keys of the network for one permutation: of a pass over the data by its number, of others by a name."""
    digest = hashlib.sha512(f"windlass order {seed} {name}".encode()).digest()
    return tuple(int.from_bytes(digest[8 * index : 8 * index + 8], "big") for index in range(ROUNDS))


def permute(index: int, size: int, keys: Sequence[int]) -> int:
    """Image of `index` under the permutation of range(size) that the keys choose."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    half_mask = (1 << half_bits) - 1
    value = index
    while True:
        left, right = value >> half_bits, value & half_mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & half_mask)
        value = left << half_bits | right
        # The network permutes a power of four; walking on until the value is in range keeps it a permutation.
        if value < size:
            return value


@dataclass(frozen=True, slots=True)
class Part:
    """Samples [first, first + size) that are one source of a mix; `weight` positions of each block are theirs."""

    first: int
    size: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """Samples in training order. `skipped` are windows [first, last) of positions that are left out, sorted.

    Without parts all samples are one. A mix goes by blocks of as many positions as its weights sum to: in each block
    every part has as many places as its weight, in an order that the seed and the block's number choose, and takes
    its own samples for them, pass after pass. So the shares are exact over each block, whatever the parts' sizes, and
    a part is passed over before it repeats, but for the order within a block in which one pass ends.
    """

    seed: int
    size: int
    skipped: tuple[tuple[int, int], ...] = ()
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: an order needs samples (got {self.size}); allowed at least 1.")
        empty = next((part for part in self.parts if part.size < 1 or part.weight < 1), None)
        if empty is not None:
            raise ValueError(f"parts: each needs samples and a weight (got {empty}); allowed at least 1.")

    def position(self, count: int) -> int:
        """Position of the count-th sample that is trained on: count, moved behind all skipped windows."""
        return position(count, self.skipped)

    def sample(self, count: int) -> int:
        """Index of the count-th sample that is trained on, from zero, over all passes."""
        return self._at(self.position(count), {})

    def batch(self, step: int, global_batch_size: int) -> list[int]:
        """Samples of the global batch of a step; steps count from 1. A batch may reach into the next pass."""
        first = (step - 1) * global_batch_size
        keys: dict[str, tuple[int, ...]] = {}
        return [self._at(self.position(count), keys) for count in range(first, first + global_batch_size)]

    def _at(self, place: int, keys: dict[str, tuple[int, ...]]) -> int:
        """The sample at a position."""
        if not self.parts:
            data_pass, index = divmod(place, self.size)
            return permute(index, self.size, self._keys(f"{data_pass}", keys))
        block_size = sum(part.weight for part in self.parts)
        block, index = divmod(place, block_size)
        spot = permute(index, block_size, self._keys(f"block {block}", keys))
        for number, part in enumerate(self.parts):
            if spot < part.weight:
                data_pass, index = divmod(block * part.weight + spot, part.size)
                return part.first + permute(index, part.size, self._keys(f"part {number} {data_pass}", keys))
            spot -= part.weight
        raise AssertionError("a place of a block is of no part")

    def _keys(self, name: str, known: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Keys of one permutation, made once for a batch."""
        if name not in known:
            known[name] = round_keys(self.seed, name)
        return known[name]


def shares(weights: Sequence[str]) -> list[int]:
    """Shares, decimals of at most four places, as the smallest whole numbers of the same proportion."""
    parts = [round(Decimal(weight) * PARTS) for weight in weights]
    common = gcd(*parts)
    return [part // common for part in parts]


def total_steps(size: int, *, global_batch_size: int, epochs: int | None, max_steps: int | None) -> int:
    """Optimiser steps of a run: `max_steps`, or as many as `epochs` passes need (the last may reach into another)."""
    if max_steps is not None:
        return max_steps
    return -(-size * (epochs or 1) // global_batch_size)


def deal(samples: Sequence[int], lengths: Sequence[int], *, micro: int, world: int) -> list[list[list[int]]]:
    """Micro-batches of a global batch as [rank][accumulation step][sample]; lists may be empty at the tail.

    Samples of like length share a micro-batch, and ranks work on like lengths at the same time. The loss is divided
    by the global token count, so that who computes which sample changes nothing but rounding.
    """
    order = sorted(range(len(samples)), key=lambda place: (-lengths[place], place))
    groups = [
        [samples[place] for place in order[first : first + micro]] for first in range(0, len(order), micro)
    ]
    rounds = -(-len(groups) // world)
    groups += [[] for _ in range(rounds * world - len(groups))]
    return [[groups[turn * world + rank] for turn in range(rounds)] for rank in range(world)]
