"""What can happen to a checkpoint on a volume: the seven kinds that tests and the recovery benchmark do."""

from __future__ import annotations

import os
import random
from pathlib import Path

from windlass_workloads.checkpoint.store import MANIFEST

KINDS = (
    "missing manifest",
    "torn manifest",
    "flipped manifest",
    "flipped file",
    "truncated file",
    "zero-length file",
    "missing file",
)


def flip_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    position = rng.randrange(len(data))
    data[position] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def damage(directory: Path, kind: str, rng: random.Random) -> None:
    """Does one kind of damage to a checkpoint; which file and where is `rng`'s choice."""
    files = sorted(each for each in directory.rglob("*") if each.is_file() and each.name != MANIFEST)
    manifest = directory / MANIFEST
    match kind:
        case "missing manifest":
            manifest.unlink()
        case "torn manifest":
            truncate(manifest, rng)
        case "flipped manifest":
            flip_bit(manifest, rng)
        case "flipped file":
            flip_bit(rng.choice(files), rng)
        case "truncated file":
            truncate(rng.choice(files), rng)
        case "zero-length file":
            os.truncate(rng.choice(files), 0)
        case "missing file":
            rng.choice(files).unlink()
        case _:
            raise ValueError(f"kind: no such damage (got {kind!r}); allowed {', '.join(KINDS)}")
