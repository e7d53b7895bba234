"""The first stage: read a piece, clean its documents, drop those that rules drop, and give the others their keys.

One task for each piece; `stages` makes them. Documents that stay are written with their keys, what was dropped is
counted by reason, with the first few of each kind to look at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from windlass_workloads.corpus import flat
from windlass_workloads.corpus.clean import clean
from windlass_workloads.corpus.minhash import Bands
from windlass_workloads.corpus.read import EXCERPT, Document, Dropped, Piece, Source, documents, spelled
from windlass_workloads.corpus.rules import SETS, dropped_by
from windlass_workloads.corpus.words import shingles
from windlass_workloads.data.read import Limits

Json = dict[str, Any]

BATCH_BYTES: Final = 1 << 19
"""Text at a time whose shingles are made together."""
SHOWN: Final = 5
"""Dropped documents of each reason that are shown for a piece."""


@dataclass(slots=True)
class Tally:
    """What was read and dropped, with examples."""

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    shown: dict[str, list[Json]] = field(default_factory=dict)

    def drop(self, item: Dropped) -> None:
        """Count one, and show it if it is among the first of its kind."""
        self.dropped[item.reason] = self.dropped.get(item.reason, 0) + 1
        examples = self.shown.setdefault(item.reason, [])
        if len(examples) < SHOWN:
            examples.append({"place": item.place, "text": spelled(item.excerpt[:EXCERPT])})


@dataclass(frozen=True)
class Sign:
    """The task of one piece."""

    directory: Path
    piece: Piece
    source: Source
    rules: str
    bands: Bands
    limits: Limits = field(default_factory=Limits)

    def run(self, directory: Path) -> Json:
        """Write documents and keys; the counts."""
        tally, writer = Tally(), flat.Writer(directory)
        try:
            for batch in batches(self.kept(tally)):
                texts = [item.text.encode() for item in batch]
                bands = self.bands.keys(shingles([item.text for item in batch]))
                writer.add(texts, [item.place for item in batch], exact_keys(texts), bands)
        finally:
            writer.close()
        return {
            "source": self.piece.source,
            "file": spelled(self.piece.path.name),
            "read": tally.read,
            "documents": writer.count,
            "bytes": writer.text_bytes,
            "dropped": tally.dropped,
            "shown": tally.shown,
        }

    def kept(self, tally: Tally) -> Iterator[Document]:
        """Cleaned documents that no rule drops."""
        rules = SETS[self.rules]
        for item in documents(self.piece, self.source, self.limits):
            tally.read += 1
            if isinstance(item, Dropped):
                tally.drop(item)
                continue
            text = clean(item.text)
            reason = dropped_by(text, rules) if text else "Empty"
            if reason is not None:
                tally.drop(Dropped(item.place, reason, text))
            else:
                yield Document(item.place, text)


def batches(items: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about so much text."""
    batch: list[Document] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def exact_keys(texts: list[bytes]) -> Any:
    """128 bits of each text, as two numbers [documents, 2]; no way is known to make two texts with the same."""
    digests = (hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
