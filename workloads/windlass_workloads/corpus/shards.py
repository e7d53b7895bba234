"""The last stage: the documents that stay, as Parquet files with a column of texts, one for each piece that has any.

FineTuneJob reads such files as they are (format Text). A file's bytes follow from its documents alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from windlass_workloads.corpus import flat

Json = dict[str, Any]

SHARD: Final = "documents.parquet"
GROUP_BYTES: Final = 4 << 20
"""Text of one row group."""


@dataclass(frozen=True)
class Shard:
    """The task of one piece. `dropped` are rows that repeat others."""

    directory: Path
    signed: Path
    source: int
    bands: int
    dropped: tuple[int, ...]

    def run(self, directory: Path) -> Json:
        """Write the file, or nothing where no document stays; how many there are, and the file's digest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("text", pa.string()), ("source", pa.int32())])
        path, count, size = directory / SHARD, 0, 0
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
            for texts in self.groups():
                sources = pa.array(np.full(len(texts), self.source, dtype=np.int32))
                writer.write_table(pa.table([pa.array(texts, pa.string()), sources], schema=schema))
                count, size = count + len(texts), size + sum(len(text.encode()) for text in texts)
        if not count:
            path.unlink()
            return {"documents": 0, "bytes": 0, "sha256": None}
        with path.open("rb") as file:
            return {
                "documents": count,
                "bytes": size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }

    def groups(self) -> Iterator[list[str]]:
        """The texts that stay, in lists of about so much each."""
        dropped = set(self.dropped)
        texts: list[str] = []
        size = 0
        with flat.Reader(self.signed, self.bands) as reader:
            for row in range(len(reader)):
                if row in dropped:
                    continue
                texts.append(reader.text(row))
                size += len(texts[-1])
                if size >= GROUP_BYTES:
                    yield texts
                    texts, size = [], 0
        if texts:
            yield texts
