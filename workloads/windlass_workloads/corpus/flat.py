"""Cleaned documents of one piece in flat files: their bytes one after another, and tables with a row for each.

Written by `sign`, read by `match` and `shards`. Nothing is mapped into memory, whose use would grow with the corpus.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

TEXT, OFFSETS, EXACT, BANDS, PLACES = "text.bin", "offsets.bin", "exact.bin", "bands.bin", "places.txt"
ROWS: Final = 8192
"""Rows of a table that are read at a time."""


class Writer:
    """Appends documents and their keys."""

    def __init__(self, directory: Path) -> None:
        self._files = {name: (directory / name).open("wb") for name in (TEXT, OFFSETS, EXACT, BANDS, PLACES)}
        self._end = 0
        self.count = 0
        self._files[OFFSETS].write(np.zeros(1, dtype=np.int64).tobytes())

    def add(
        self, texts: Sequence[bytes], places: Sequence[str], exact: npt.NDArray[Any], bands: npt.NDArray[Any]
    ) -> None:
        """Some documents: exact uint64 [documents, 2], bands uint64 [documents, bands]."""
        ends = self._end + np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._files[TEXT].write(b"".join(texts))
        self._files[OFFSETS].write(ends.tobytes())
        self._files[EXACT].write(np.ascontiguousarray(exact, dtype=np.uint64).tobytes())
        self._files[BANDS].write(np.ascontiguousarray(bands, dtype=np.uint64).tobytes())
        self._files[PLACES].write("".join(f"{place}\n" for place in places).encode())
        self._end, self.count = int(ends[-1]), self.count + len(texts)

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts."""
        return self._end

    def close(self) -> None:
        """Everything is written."""
        for file in self._files.values():
            file.close()


class Reader:
    """Reads documents of one piece, of which it keeps nothing. Close it, or use `with`."""

    def __init__(self, directory: Path, bands: int) -> None:
        self.directory = directory
        self._row_bytes = 8 * bands
        self._files = {name: os.open(directory / name, os.O_RDONLY) for name in (TEXT, OFFSETS, BANDS)}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the files back."""
        for file in self._files.values():
            os.close(file)
        self._files = {}

    def __len__(self) -> int:
        return os.fstat(self._files[OFFSETS]).st_size // 8 - 1

    def _bounds(self, row: int) -> tuple[int, int]:
        first, last = struct.unpack("<2q", os.pread(self._files[OFFSETS], 16, 8 * row))
        return first, last

    def text(self, row: int) -> str:
        """One document."""
        first, last = self._bounds(row)
        return os.pread(self._files[TEXT], last - first, first).decode()

    def size(self, row: int) -> int:
        """Bytes of one document."""
        first, last = self._bounds(row)
        return last - first

    def keys(self, row: int) -> npt.NDArray[np.uint64]:
        """The bands' keys of one document."""
        return np.frombuffer(
            os.pread(self._files[BANDS], self._row_bytes, row * self._row_bytes), dtype=np.uint64
        )

    def places(self) -> list[str]:
        """Where the documents stood, as people look for them."""
        return (self.directory / PLACES).read_text(encoding="utf-8").splitlines()


def columns(path: Path, width: int) -> Iterator[npt.NDArray[np.uint64]]:
    """A table of so many numbers a row, in parts [rows, width]."""
    with path.open("rb") as file:
        while len(part := np.fromfile(file, dtype=np.uint64, count=ROWS * width)):
            yield part.reshape(-1, width)
