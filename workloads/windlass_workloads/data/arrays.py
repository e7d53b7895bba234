"""Prepared samples on disk: flat arrays that every rank maps into memory, and an index that names them.

Written by prepare, read by the training loop. `index.json` comes last: a directory without it does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windlass.api.meta import FailureClass, Reason
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.pack import pack

INDEX = "index.json"
FORMAT = 1
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Samples of one split. A unit is what the order draws: one sample, or a pack of samples.

    tokens int32 [all tokens], learned bool [all tokens], offsets int64 [samples + 1],
    members int64 [samples in units], unit_offsets int64 [units + 1].
    """

    tokens: npt.NDArray[np.int32]
    learned: npt.NDArray[np.bool_]
    offsets: Ints
    members: Ints
    unit_offsets: Ints
    unit_lengths: Ints
    unit_targets: Ints

    def __len__(self) -> int:
        return len(self.unit_offsets) - 1

    def samples_of(self, unit: int) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]]:
        """Tokens and learned mask of each sample of a unit."""
        chosen = self.members[self.unit_offsets[unit] : self.unit_offsets[unit + 1]]
        bounds = [(int(self.offsets[sample]), int(self.offsets[sample + 1])) for sample in chosen]
        return [(self.tokens[first:last], self.learned[first:last]) for first, last in bounds]


@dataclass(frozen=True, slots=True)
class Index:
    """What prepare found; its numbers go into the plan."""

    name: str
    digest: str
    train_units: int
    validation_units: int
    train_samples: int
    validation_samples: int
    train_tokens: int
    dropped_samples: int
    sequence_length: int
    packed: bool
    sizes: dict[str, int]
    warnings: list[str]
    format: int = FORMAT
    train_parts: list[int] = field(default_factory=list)
    """Units of each source, which stand one after another; of data that are mixed row by row, none."""
    validation_parts: list[int] = field(default_factory=list)
    corpus: str | None = None
    """Name of the corpus that the rows are of, beside the runs of the store."""
    vocabulary: dict[str, Any] | None = None
    """What the objective needs to know of the tokenizer, where it hides tokens."""


class SplitWriter:
    """Appends samples to the files of one split; memory holds lengths only."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.lengths: list[int] = []
        self.targets: list[int] = []
        self._tokens = (directory / "tokens.bin").open("wb")
        self._learned = (directory / "learned.bin").open("wb")

    def add(self, tokens: list[int], learned: list[bool]) -> None:
        """Appends one sample; what is learned at place t is the token at t, so place 0 never counts."""
        mask = np.asarray(learned, dtype=np.bool_)
        self._tokens.write(np.asarray(tokens, dtype=np.int32).tobytes())
        self._learned.write(mask.tobytes())
        self.lengths.append(len(tokens))
        self.targets.append(int(mask[1:].sum()))

    def finish(self, pack_to: int | None) -> None:
        """Writes the tables and flushes everything to the disk."""
        groups = pack(self.lengths, pack_to) if pack_to else [[sample] for sample in range(len(self.lengths))]
        lengths = np.asarray(self.lengths, dtype=np.int64)
        targets = np.asarray(self.targets, dtype=np.int64)
        tables = {
            "offsets": np.concatenate([[0], np.cumsum(lengths)]),
            "members": np.asarray([sample for group in groups for sample in group]),
            "unit_offsets": np.concatenate([[0], np.cumsum([len(group) for group in groups])]),
            "unit_lengths": np.asarray([lengths[group].sum() for group in groups]),
            "unit_targets": np.asarray([targets[group].sum() for group in groups]),
        }
        for name, table in tables.items():
            with (self.directory / f"{name}.bin").open("wb") as file:
                file.write(table.astype(np.int64).tobytes())
                flush(file)
        for file in (self._tokens, self._learned):
            flush(file)
            file.close()

    def close(self) -> None:
        """Gives up without finishing."""
        self._tokens.close()
        self._learned.close()


def flush(file: Any) -> None:
    """Have what was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


FILES: dict[str, Any] = {
    "tokens": np.int32,
    "learned": np.bool_,
    "offsets": np.int64,
    "members": np.int64,
    "unit_offsets": np.int64,
    "unit_lengths": np.int64,
    "unit_targets": np.int64,
}


def digest_of(directory: Path) -> tuple[str, dict[str, int]]:
    """sha256 over names and bytes of all array files, and their sizes."""
    hasher = hashlib.sha256()
    sizes = {}
    for path in sorted(directory.rglob("*.bin")):
        name = path.relative_to(directory).as_posix()
        sizes[name] = path.stat().st_size
        hasher.update(f"{name} {sizes[name]}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return f"sha256:{hasher.hexdigest()}", sizes


def write_index(directory: Path, index: Index) -> None:
    """Writes the marker, last."""
    temporary = directory / f"{INDEX}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(index), file, indent=1, sort_keys=True)
        flush(file)
    temporary.rename(directory / INDEX)


def read_index(directory: Path) -> Index | None:
    """The index, or None if the directory is not a whole one (no marker, other format, a file of another size)."""
    try:
        index = Index(**json.loads((directory / INDEX).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = all(_size(directory / name) == size for name, size in index.sizes.items())
    return index if whole and index.format == FORMAT else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def open_split(directory: Path) -> Split:
    """Maps the arrays of one split; an empty file maps to an empty array, of `learned` to one that is true."""
    arrays = {}
    for name, kind in FILES.items():
        path = directory / f"{name}.bin"
        arrays[name] = (
            np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, dtype=kind)
        )
    if not len(arrays["learned"]):
        # Of rows of text every token is learned, and nothing is written of it.
        arrays["learned"] = np.broadcast_to(np.bool_(True), arrays["tokens"].shape)
    return Split(**arrays)


def open_prepared(directory: Path) -> Index:
    """The index of a directory that ranks were told to use; DataNotFound if it is not whole."""
    index = read_index(directory)
    if index is None:
        raise WorkloadError(
            Reason.DATA_NOT_FOUND,
            f"prepared data {directory.name} is missing or incomplete in the checkpoint store.",
            hint="check that all pods see the same volume; the next attempt prepares it again.",
            failure_class=FailureClass.STORAGE,
        )
    return index


def publish(temporary: Path, final: Path) -> None:
    """Moves a finished directory into place; a broken one that stood there goes away."""
    if final.exists() and read_index(final) is None:
        shutil.rmtree(final)
    try:
        temporary.rename(final)
    except OSError:
        if read_index(final) is None:
            raise
        shutil.rmtree(temporary, ignore_errors=True)
