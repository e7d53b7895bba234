"""A digest of a base model's weights that costs milliseconds, so that every start can afford it.

Whole gigabytes are not read: one page from the middle of each tensor is, beside names, sizes and config. Whatever
training or merging does to a model changes whole tensors, so that two models with one digest are one model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import xxhash

PAGE_BYTES: Final = 4096
HEADER_BYTES: Final = 100_000_000
"""What the format allows for a header."""


def fingerprint(directory: Path) -> str:
    """Digest over config.json and all *.safetensors of a model's directory."""
    digest = xxhash.xxh3_128()
    digest.update((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
        _add_tensors(digest, path)
    return "xxh3:" + digest.hexdigest()


def _add_tensors(digest: xxhash.xxh3_128, path: Path) -> None:
    """The header, which names all tensors with their shapes, and a page of each."""
    with path.open("rb", buffering=0) as file:
        prefix = file.read(8)
        header = file.read(min(int.from_bytes(prefix, "little"), HEADER_BYTES))
        digest.update(prefix + header)
        start = len(prefix) + len(header)
        for first, last in _places(header):
            middle = max(first, (first + last - PAGE_BYTES) // 2)
            digest.update(os.pread(file.fileno(), min(PAGE_BYTES, last - middle), start + middle))


def _places(header: bytes) -> list[tuple[int, int]]:
    """Where the tensors are after the header; nothing when it is damaged, which loading tells better."""
    try:
        entries = json.loads(header)
        found = [entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"]
        return sorted((int(first), int(last)) for first, last in found if 0 <= first < last)
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
