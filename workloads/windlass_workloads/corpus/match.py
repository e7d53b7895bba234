"""The second stage: which documents repeat an earlier one, exactly or nearly.

Documents are numbered through all pieces, in order. `groups` finds those that share a key, one part of all keys at a
time, so that of the corpus only numbers of documents are in memory. Those that share a band's key are only candidates:
each task of `Verify` compares the documents of some groups for real, and a document is dropped when an earlier one that
stays resembles it by the threshold or more. A group is never split: its documents are compared one after another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from windlass_workloads.corpus import flat
from windlass_workloads.corpus.minhash import NOTHING, Bands, resemblance
from windlass_workloads.corpus.words import Hashes, shingles

Json = dict[str, Any]
Numbers = npt.NDArray[np.int64]

PART_ROWS: Final = 1 << 19
"""Keys that are sorted at a time."""
TASK_BYTES: Final = 16 << 20
"""Text of candidates that one task compares."""
REMEMBERED_BYTES: Final = 32 << 20
"""Shingles that a task remembers; what is forgotten is made again."""
MOST_OPEN: Final = 64
"""Pieces whose files are open at a time."""
MOST_COMPARED: Final = 64
"""Earlier documents that one is compared with: the so many that share most keys with it. As many are kept for a key."""
TWINS: Final = "twins.bin"


@dataclass(frozen=True)
class Signed:
    """The pieces of the first stage. `starts` [pieces + 1] are the numbers of their first documents."""

    directories: tuple[Path, ...]
    starts: tuple[int, ...]
    bands: Bands

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, number: int) -> tuple[int, int]:
        """Piece and row of a document."""
        piece = bisect_right(self.starts, number) - 1
        return piece, number - self.starts[piece]


class Library:
    """Documents by their number; of the pieces that were used last the files are open."""

    def __init__(self, signed: Signed) -> None:
        self.signed = signed
        self._open: OrderedDict[int, flat.Reader] = OrderedDict()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._open.values():
            reader.close()

    def at(self, number: int) -> tuple[flat.Reader, int]:
        """The reader of a document's piece, and its row there."""
        piece, row = self.signed.place(number)
        if piece in self._open:
            self._open.move_to_end(piece)
        else:
            self._open[piece] = flat.Reader(self.signed.directories[piece], self.signed.bands.bands)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)[1].close()
        return self._open[piece], row

    def size(self, number: int) -> int:
        """Bytes of a document."""
        reader, row = self.at(number)
        return reader.size(row)


class Union:
    """Which documents belong together: each group is known by its first."""

    def __init__(self, count: int) -> None:
        self.firsts = np.arange(count, dtype=np.int32)

    def join(self, ones: npt.NDArray[Any], others: npt.NDArray[Any]) -> None:
        """Each of these pairs belongs together, and so do the groups that they are in."""
        firsts = self.firsts
        while True:
            left, right = firsts[ones], firsts[others]
            apart = left != right
            if not apart.any():
                return
            low, high = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
            np.minimum.at(firsts, high, low)
            while not np.array_equal(shorter := firsts[firsts], firsts):
                firsts[:] = shorter


def groups(
    signed: Signed, name: str, width: int, column: slice, alive: npt.NDArray[np.bool_]
) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of the first document with a key and each other one with it, as two arrays; a part of all keys at a time.

    `column` are the numbers of a row that make the key. Documents that are not alive, or have no key, do not count.
    """
    parts = max(1, -(-len(signed) // PART_ROWS))
    for part in range(parts):
        keys, numbers = [], []
        for directory, start in zip(signed.directories, signed.starts, strict=False):
            first = start
            for table in flat.columns(directory / name, width):
                key = table[:, column]
                mine = (key[:, 0] % np.uint64(parts) == part) & alive[first : first + len(table)]
                mine &= key[:, 0] != NOTHING
                keys.append(key[mine])
                numbers.append(np.flatnonzero(mine) + first)
                first += len(table)
        yield (
            pairs(np.concatenate(keys), np.concatenate(numbers))
            if keys
            else (np.empty(0, int), np.empty(0, int))
        )


def pairs(keys: Hashes, numbers: Numbers) -> tuple[Numbers, Numbers]:
    """Of documents [n] in order with keys [n, parts]: the first with the same key, and the other, for each other."""
    order = np.lexsort(tuple(keys.T[::-1]))
    keys, numbers = keys[order], numbers[order]
    same = np.zeros(len(keys), dtype=bool)
    same[1:] = (keys[1:] == keys[:-1]).all(axis=1)
    begins = np.flatnonzero(~same)
    sizes = np.diff(np.append(begins, len(keys)))
    return np.repeat(numbers[begins], sizes)[same], numbers[same]


def exact_repeats(signed: Signed) -> dict[int, int]:
    """Documents whose text was there before, and the first with that text."""
    found: dict[int, int] = {}
    for firsts, others in groups(signed, flat.EXACT, 2, slice(0, 2), np.ones(len(signed), dtype=bool)):
        found.update(zip(others.tolist(), firsts.tolist(), strict=True))
    return found


def candidate_groups(signed: Signed, dropped: Sequence[int]) -> list[list[int]]:
    """Documents that share keys, in groups, each in order and by their first: of two groups none share a key."""
    alive = np.ones(len(signed), dtype=bool)
    alive[list(dropped)] = False
    union = Union(len(signed))
    for band in range(signed.bands.bands):
        for firsts, others in groups(signed, flat.BANDS, signed.bands.bands, slice(band, band + 1), alive):
            union.join(firsts, others)
    others = np.flatnonzero(union.firsts != np.arange(len(signed)))
    members = np.unique(np.concatenate([union.firsts[others], others]))
    order = members[np.argsort(union.firsts[members], kind="stable")]
    bounds = np.flatnonzero(np.diff(union.firsts[order])) + 1
    return [part.tolist() for part in np.split(order, bounds) if len(part)]


def shared_out(found: Sequence[Sequence[int]], library: Library) -> list[list[list[int]]]:
    """The groups in order, in lists of about so much text each."""
    tasks: list[list[list[int]]] = []
    size = TASK_BYTES
    for group in found:
        if size >= TASK_BYTES:
            tasks.append([])
            size = 0
        tasks[-1].append(list(group))
        size += sum(map(library.size, group))
    return tasks


@dataclass(frozen=True)
class Verify:
    """The task of some groups."""

    directory: Path
    signed: Signed
    groups: tuple[tuple[int, ...], ...]
    threshold: float

    def run(self, directory: Path) -> Json:
        """Write numbers of dropped documents and of those that they repeat: int64 [dropped, 2]."""
        found: list[tuple[int, int]] = []
        with Library(self.signed) as library:
            known = Shingled(library)
            for group in self.groups:
                found += self.repeats(group, known)
        np.asarray(found, dtype=np.int64).reshape(-1, 2).tofile(directory / TWINS)
        return {"groups": len(self.groups), "documents": sum(map(len, self.groups)), "repeats": len(found)}

    def repeats(self, group: Sequence[int], known: Shingled) -> Iterator[tuple[int, int]]:
        """Documents of a group that repeat an earlier one which stays, each with that one."""
        staying: dict[int, list[int]] = {}
        for number in group:
            # Those of different bands never agree.
            keys = known.keys(number).tolist()
            shared = Counter(one for key in keys for one in staying.get(key, ()))
            earlier = sorted(shared, key=lambda one: (-shared[one], one))[:MOST_COMPARED]
            twin = next((one for one in earlier if known.resemble(one, number) >= self.threshold), None)
            if twin is not None:
                yield number, twin
                continue
            for key in keys:
                # What so many share is a phrase that goes round: a twin shares other keys as well.
                if len(same := staying.setdefault(key, [])) < MOST_COMPARED:
                    same.append(number)


class Shingled:
    """Sets of shingles of documents, of which the last used are remembered."""

    def __init__(self, library: Library, most_bytes: int = REMEMBERED_BYTES) -> None:
        self._library, self._most = library, most_bytes
        self._known: OrderedDict[int, Hashes] = OrderedDict()
        self._bytes = 0

    def keys(self, number: int) -> Hashes:
        """The bands' keys of a document."""
        reader, row = self._library.at(number)
        return reader.keys(row)

    def of(self, number: int) -> Hashes:
        """The sorted set of a document's shingles."""
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        reader, row = self._library.at(number)
        made = np.unique(shingles([reader.text(row)])[0])
        self._known[number] = made
        self._bytes += made.nbytes
        while self._bytes > self._most and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        return made

    def resemble(self, one: int, other: int) -> float:
        """How much two documents resemble each other, 0 to 1."""
        return resemblance(self.of(one), self.of(other))


def twins_of(task: Verify) -> dict[int, int]:
    """What a task that has run found."""
    found = np.fromfile(task.directory / TWINS, dtype=np.int64).reshape(-1, 2)
    return {int(number): int(twin) for number, twin in found}
