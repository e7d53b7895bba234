"""Text with repetitions of which everything is known: who repeats whom, and by how much.

New documents are random words by Zipf's law. Exact repetitions are equal; near ones have
words changed that are spread evenly, so that their resemblance can be counted. Decoys are changed so much that they
must stay. Some new documents are pages of a site: they share a frame of words with many others, and must stay too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LETTERS: Final = "etaoinshrdlucmfwypvbgkqjxz"
SHINGLE: Final = 5
NEAR: Final = (0.84, 0.98)
DECOY: Final = (0.30, 0.72)
SHARES: Final = {"new": 0.76, "exact": 0.08, "near": 0.10, "decoy": 0.06}
FRAMES: Final = 5
FRAMED: Final = 0.15
"""Of new documents, those in one of the frames."""
FILES: Final = 8


@dataclass(frozen=True)
class Planted:
    """One document. `kind` says what must become of it."""

    name: str
    kind: str
    text: str


def vocabulary(chance: random.Random, count: int = 40_000) -> list[str]:
    """Made-up words of two to eleven letters."""
    weights = [1 / (place + 2) for place in range(len(LETTERS))]
    made = {"".join(chance.choices(LETTERS, weights, k=chance.randint(2, 11))) for _ in range(count)}
    return sorted(made)


def changed(words: list[str], resemblance: float, mark: str) -> list[str]:
    """The same words with so many changed, each `SHINGLE` or more from the next, that shingles agree by this much."""
    whole = len(words) - SHINGLE + 1
    # Each change makes SHINGLE shingles anew on both sides: J = (whole - 5k) / (whole + 5k).
    count = max(1, round(whole * (1 - resemblance) / (SHINGLE * (1 + resemblance))))
    made = list(words)
    step = len(words) // (count + 1)
    for number in range(count):
        made[step * (number + 1)] = f"{mark}{number}"
    return made


def documents(size: int, seed: int) -> Iterator[Planted]:
    """Documents of about so many bytes in all."""
    chance = random.Random(seed)
    words = vocabulary(chance)
    cumulative: list[float] = []
    for rank in range(len(words)):
        cumulative.append((cumulative[-1] if cumulative else 0.0) + 1 / (rank + 30))
    frames = [chance.choices(words, cum_weights=cumulative, k=120) for _ in range(FRAMES)]
    pool: list[list[str]] = []
    written = number = 0
    while written < size:
        [kind] = chance.choices(list(SHARES), list(SHARES.values())) if len(pool) > 50 else ["new"]
        if kind == "new":
            made = chance.choices(words, cum_weights=cumulative, k=int(chance.lognormvariate(5.6, 0.6)) + 60)
            if chance.random() < FRAMED:
                made = chance.choice(frames) + made[:80]
            # A few originals are repeated, so that memory does not hold the whole text.
            if len(pool) < 3000:
                pool.append(made)
            else:
                pool[chance.randrange(3000)] = made
        else:
            made = pool[chance.randrange(len(pool))]
            if kind != "exact":
                made = changed(made, chance.uniform(*(NEAR if kind == "near" else DECOY)), f"q{number}q")
        text = " ".join(made)
        yield Planted(f"{kind}-{number}", kind, text)
        written, number = written + len(text), number + 1


def write(directory: Path, size: int, seed: int) -> dict[str, int]:
    """The documents as JSONL in several files, in order; how many of each kind, and their bytes."""
    directory.mkdir(parents=True)
    counts = dict.fromkeys(SHARES, 0) | {"bytes": 0}
    per_file = size // FILES + 1
    files = [directory / f"part-{number}.jsonl" for number in range(FILES)]
    made = documents(size, seed)
    for path in files:
        begun = counts["bytes"]
        with path.open("w", encoding="utf-8") as file:
            for one in made:
                file.write(json.dumps({"id": one.name, "text": one.text}) + "\n")
                counts[one.kind] += 1
                counts["bytes"] += len(one.text)
                if counts["bytes"] - begun >= per_file:
                    break
    return counts
