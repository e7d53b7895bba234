"""Words of many texts at once, and their shingles (runs of words) as 64-bit numbers.

Called by `minhash` and `match`. Case and punctuation do not count. A word is a run of letters, digits and marks; in
scripts that are written without spaces each letter counts as a word, so that their texts have shingles as well.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

SHINGLE_WORDS: Final = 5
SEPARATES, IN_WORD, WHOLE_WORD = 0, 1, 2
WITHOUT_SPACES: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),  # ideographs
)
PLACES: Final = 64
"""Factors of letters by their place in a word; in longer words they are used again, multiplied."""
MIX_ONE: Final = np.uint64(0xBF58476D1CE4E5B9)
MIX_TWO: Final = np.uint64(0x94D049BB133111EB)


def numbers(count: int, purpose: str) -> Hashes:
    """So many odd 64-bit numbers, the same ones for a purpose for ever."""
    state = np.uint64(int.from_bytes(purpose.encode()[:8].ljust(8, b"."), "big"))
    steps = (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed(steps + state) | np.uint64(1)


def mixed(values: Hashes) -> Hashes:
    """A 64-bit finaliser with full avalanche (the one of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * MIX_ONE
    values = (values ^ (values >> np.uint64(27))) * MIX_TWO
    result: Hashes = values ^ (values >> np.uint64(31))
    return result


@cache
def kinds() -> npt.NDArray[np.uint8]:
    """For each code point whether it separates words, belongs to one, or is one."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for point in range(0x110000):
        if unicodedata.category(chr(point))[0] in "LMN":
            table[point] = IN_WORD
    for first, last in WITHOUT_SPACES:
        span = table[first : last + 1]
        span[span == IN_WORD] = WHOLE_WORD
    return table


@cache
def place_numbers() -> Hashes:
    """What letters are multiplied by, by their place in a word."""
    return numbers(PLACES, "letters")


@cache
def word_numbers(size: int) -> Hashes:
    """What words are multiplied by, by their place in a shingle."""
    return numbers(size, "shingles")


def words(texts: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of all words of all texts, in order, and where each text's begin: [words], [texts + 1]."""
    lowered = [text.lower() for text in texts]
    # What stands between two texts separates words.
    points = np.frombuffer("\n".join(lowered).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.fromiter((len(text) + 1 for text in lowered), dtype=np.int64, count=len(lowered))
    ends = np.cumsum(lengths)
    kind = kinds()[points]
    part = kind == IN_WORD
    begins = kind == WHOLE_WORD
    if len(points):
        begins[0] |= part[0]
        begins[1:] |= part[1:] & ~part[:-1]
    inside = np.flatnonzero(kind)
    if not len(inside):
        return np.empty(0, dtype=np.uint64), np.zeros(len(texts) + 1, dtype=np.int64)
    firsts = np.flatnonzero(begins[inside])
    sizes = np.diff(np.append(firsts, len(inside)))
    places = np.arange(len(inside)) - np.repeat(firsts, sizes)
    factors = place_numbers()[places % PLACES]
    if sizes.max() > PLACES:
        # An odd number for each part of a long word; that of the first part is 1.
        factors *= mixed((places // PLACES).astype(np.uint64)) | np.uint64(1)
    terms = (points[inside].astype(np.uint64) + np.uint64(1)) * factors
    hashes = mixed(np.add.reduceat(terms, firsts) + sizes.astype(np.uint64))
    bounds = np.zeros(len(texts) + 1, dtype=np.int64)
    bounds[1:] = np.searchsorted(inside[firsts], ends)
    return hashes, bounds


def shingles(texts: Sequence[str], size: int = SHINGLE_WORDS) -> list[Hashes]:
    """Hashes of each text's shingles, in order and with repetitions.

    A text of fewer words than a shingle has is one shingle; a text without words has none.
    """
    hashes, bounds = words(texts)
    factors = word_numbers(size)
    count = max(0, len(hashes) - size + 1)
    summed = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        summed += hashes[place : place + count] * factors[place]
    whole = mixed(summed)
    found = []
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if last - first >= size or last == first:
            found.append(whole[first : max(first, last - size + 1)])
        else:
            short = (hashes[first:last] * factors[: last - first]).sum(dtype=np.uint64)
            found.append(mixed(np.asarray([short + np.uint64(last - first)])))
    return found
