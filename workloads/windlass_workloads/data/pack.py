"""Packing: several samples in one sequence, each blind to the others.

Called once by prepare, before any order is drawn, so that a packed run has the same pure order as any other. The
isolation itself is the block-diagonal mask that objectives/supervised.py builds from the lengths.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of sample indexes whose lengths sum to at most `capacity`.

    Longest first, each into the fullest pack that still takes it: O(n log capacity), and deterministic.
    Every length must be within the capacity.
    """
    packs: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    spaces: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[sample]
        if not 0 < length <= capacity:
            raise ValueError(f"lengths[{sample}]: does not fit a pack (got {length}); allowed 1..{capacity}.")
        place = bisect_left(spaces, length)
        if place == len(spaces):
            packs.append([sample])
            chosen, space = len(packs) - 1, capacity
        else:
            space = spaces[place]
            chosen = by_space[space].pop()
            packs[chosen].append(sample)
            if not by_space[space]:
                del by_space[space]
                spaces.pop(place)
        left = space - length
        if left:
            if left not in by_space:
                by_space[left] = []
                insort(spaces, left)
            by_space[left].append(chosen)
    return packs
