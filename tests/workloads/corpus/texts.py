"""Texts for tests of corpora: random ones, and ones that resemble others by a known amount."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vocabulary(count: int = 2000, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    return sorted({"".join(chance.choices(LETTERS, k=chance.randint(3, 9))) for _ in range(count)})


WORDS = vocabulary()


def text(words: int, seed: int) -> str:
    """Random words; texts of different seeds share no run of five but by chance."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def near(original: str, changed: int, seed: int = 0) -> str:
    """The same with so many words changed, far from each other, each of which changes five shingles."""
    words = original.split(" ")
    step = len(words) // (changed + 1)
    for number in range(changed):
        words[step * (number + 1)] = f"changed{seed}x{number}"
    return " ".join(words)


def jaccard(one: str, other: str, size: int = 5) -> float:
    """What the definition says, for texts of plain words."""
    sets = [
        {tuple(words[place : place + size]) for place in range(max(1, len(words) - size + 1))}
        for words in (one.split(), other.split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def write_rows(path: Path, texts: Iterable[str], column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), encoding="utf-8")
    return path
