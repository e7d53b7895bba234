"""Rows of equal length out of one long text of tokens for each source: the prepared data of pre-training.

Called by train/pretraining with what the tokenise stage made. The rows of a source stand one after another, so that a
row's place says its source; what is left at a source's end and fills no row is not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from windlass_workloads.data.arrays import flush

BLOCK_TOKENS: Final = 1 << 20
COPY_BYTES: Final = 1 << 20
CHECK_BLOCKS: Final = 64
ITEM: Final = np.dtype(np.int32).itemsize
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Written:
    """Rows of each source, and the tokens that filled none."""

    parts: list[int]
    left: list[int]


def write_rows(
    directory: Path,
    sources: Sequence[Sequence[Path]],
    length: int,
    targets: Callable[[Rows], npt.NDArray[np.int64]],
    check: Callable[[], None] = lambda: None,
) -> Written:
    """Write a split into a new directory: files of tokens (int32) of each source, in order, as rows of this length.

    `targets` says how many tokens of each of some rows [rows, length] are learned. What is around the directory must
    be there: where somebody else has removed it, a half of a split would count as one.
    """
    directory.mkdir()
    parts, left = [], []
    with (directory / "tokens.bin").open("wb") as file:
        for paths in sources:
            tokens = sum(path.stat().st_size for path in paths) // ITEM
            wanted = tokens // length * length * ITEM
            for number, block in enumerate(blocks(paths, wanted)):
                if number % CHECK_BLOCKS == CHECK_BLOCKS - 1:
                    check()
                file.write(block)
            parts.append(tokens // length)
            left.append(tokens % length)
        flush(file)
    rows = sum(parts)
    counts = [targets(block) for block in blocks_of_rows(directory / "tokens.bin", rows, length)]
    tables: dict[str, Any] = {
        "offsets": np.arange(rows + 1) * length,
        "members": np.arange(rows),
        "unit_offsets": np.arange(rows + 1),
        "unit_lengths": np.full(rows, length),
        "unit_targets": np.concatenate(counts) if counts else np.empty(0),
    }
    for name, table in tables.items():
        with (directory / f"{name}.bin").open("wb") as file:
            file.write(table.astype(np.int64).tobytes())
            flush(file)
    (directory / "learned.bin").touch()
    return Written(parts, left)


def blocks(paths: Sequence[Path], wanted: int) -> Iterator[bytes]:
    """The first bytes of some files, as if they were one."""
    for path in paths:
        with path.open("rb") as file:
            while wanted and (block := file.read(min(COPY_BYTES, wanted))):
                wanted -= len(block)
                yield block


def blocks_of_rows(path: Path, rows: int, length: int) -> Iterator[Rows]:
    """The rows of a file, so many tokens at a time; each part is given back before the next."""
    most = max(1, BLOCK_TOKENS // length)
    for first in range(0, rows, most):
        shape = (min(most, rows - first), length)
        yield np.memmap(path, dtype=np.int32, mode="r", offset=first * length * ITEM, shape=shape)


def all_but_first(rows: Rows) -> npt.NDArray[np.int64]:
    """Targets of CausalLM: each token is predicted from those before it, which the first of a row has none of."""
    return np.full(len(rows), rows.shape[1] - 1, dtype=np.int64)
