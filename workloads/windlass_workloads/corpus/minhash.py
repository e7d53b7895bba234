"""Keys by which documents that resemble each other find each other: MinHash in bands.

Resemblance is Jaccard's of two documents' sets of shingles. Two documents share a band's key with a probability that
grows steeply around a threshold; `match` compares those that share one for real, so that keys only have to miss few.
The method is Broder's (1997), with bands as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from windlass_workloads.corpus.words import Hashes, mixed, numbers

MISSED: Final = 0.01
"""Documents that resemble each other exactly as much as the threshold are missed with this probability at most."""
LONGEST_BAND: Final = 8
CHUNK: Final = 512
"""Shingles at a time: with all permutations they fit into a core's own cache."""
NOTHING: Final = np.uint64(0)
"""The key of documents without words; it matches nothing."""


def candidate_probability(resemblance: float, bands: int, rows: int) -> float:
    """How likely two documents of this resemblance share at least one band's key."""
    return float(1.0 - (1.0 - resemblance**rows) ** bands)


@dataclass(frozen=True)
class Bands:
    """How many keys a document has, and of how many minima each is made."""

    bands: int
    rows: int

    @classmethod
    def for_threshold(cls, threshold: float) -> Bands:
        """The longest bands (which bring the fewest false candidates) that miss few, with 128 minima at most."""
        for rows in range(LONGEST_BAND, 0, -1):
            for bands in range(1, 128 // rows + 1):
                if candidate_probability(threshold, bands, rows) >= 1.0 - MISSED:
                    return cls(bands, rows)
        raise ValueError(f"threshold: is too low for 128 minima (got {threshold}); allowed 0.05 to 1")

    @property
    def minima(self) -> int:
        """Minima of each document."""
        return self.bands * self.rows

    @cached_property
    def _permutations(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        factors = numbers(self.minima, "factors") >> np.uint64(32) | np.uint64(1)
        shifts = numbers(self.minima, "shifts") >> np.uint64(32)
        return factors.astype(np.uint32), shifts.astype(np.uint32)

    def signatures(self, documents: Sequence[Hashes]) -> npt.NDArray[np.uint32]:
        """Minima [documents, minima] of each document's shingles under each permutation of 32-bit numbers."""
        factors, shifts = self._permutations
        made = np.full((len(documents), self.minima), 0xFFFFFFFF, dtype=np.uint32)
        room = np.empty((CHUNK, self.minima), dtype=np.uint32)
        for number, hashes in enumerate(documents):
            short = (hashes >> np.uint64(32)).astype(np.uint32)
            for begin in range(0, len(short), CHUNK):
                part = short[begin : begin + CHUNK, None]
                values = room[: len(part)]
                np.multiply(part, factors, out=values)
                np.add(values, shifts, out=values)
                np.minimum(made[number], values.min(axis=0), out=made[number])
        return made

    def keys(self, documents: Sequence[Hashes]) -> Hashes:
        """Keys [documents, bands]. Those of different bands never agree."""
        minima = self.signatures(documents).astype(np.uint64).reshape(len(documents), self.bands, self.rows)
        factors = numbers(self.minima, "bands").reshape(self.bands, self.rows)
        found = mixed((minima * factors).sum(axis=2, dtype=np.uint64) + numbers(self.bands, "band"))
        found[found == NOTHING] = np.uint64(1)
        found[[not len(hashes) for hashes in documents]] = NOTHING
        return found


def resemblance(one: Hashes, other: Hashes) -> float:
    """Jaccard's of two sorted sets of shingles; 0 where one of them is empty."""
    if not len(one) or not len(other):
        return 0.0
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
