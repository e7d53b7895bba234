"""Reads documents out of files, piece by piece, and says of each row that it cannot use why.

Called by `sign`, one piece at a time. Files stream: memory is bounded by one row or one Parquet batch. A bad row is
dropped, counted and shown; a bad file is refused, since what it would have held is not known.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

from windlass.api.meta import Reason
from windlass_workloads.corpus.clean import is_text
from windlass_workloads.data.errors import WorkloadError, first_line
from windlass_workloads.data.read import Limits

KINDS: Final = (".jsonl", ".parquet", ".txt")
COMPRESSIONS: Final = (".gz", ".bz2", ".zst")
BLOCK: Final = 1 << 20
EXCERPT: Final = 200
DAMAGED: Final = (OSError, EOFError, zlib.error)


@dataclass(frozen=True, slots=True)
class Source:
    """A file or a directory of files. `field` is what the spec calls it; `column` holds the text of a row."""

    path: Path
    field: str
    column: str = "text"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file: bytes of plain JSONL, row groups of Parquet, else all of it (first and last are 0)."""

    source: int
    path: Path
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it stands."""

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row or a document that is left out, and the reason."""

    place: str
    reason: str
    excerpt: str = ""


def kind_of(path: Path) -> tuple[str, str]:
    """Suffixes of what a file holds and of how it is compressed; the first is empty for a file of no kind we read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    kind = suffixes[-1] if suffixes and suffixes[-1] in KINDS else ""
    return ("", packed) if kind == ".parquet" and packed else (kind, packed)


def files_of(source: Source) -> list[Path]:
    """The files of a source, in the order of their names. WorkloadError on one that is no file of ours."""
    if not source.path.is_dir():
        if not source.path.is_file():
            raise refused(
                source.field, Reason.DATA_NOT_FOUND, f"{source.path.name} does not exist", "check the path"
            )
        found = [source.path]
    else:
        found = sorted(
            path for path in source.path.rglob("*") if not path.is_dir() and not hidden(path, source.path)
        )
    root = source.path.resolve()
    for path in found:
        real = path.resolve()
        if path.is_symlink() and source.path.is_dir() and not real.is_relative_to(root):
            problem = f"{path.relative_to(source.path)} is a link that leads out of {source.path.name}"
            raise refused(source.field, Reason.DATA_UNREADABLE, problem, "copy the file in place of the link")
        if not kind_of(path)[0]:
            problem = f"{path.name} is no file of documents (got suffix {''.join(path.suffixes) or 'none'})"
            allowed = f"allowed {', '.join(KINDS)}, and .jsonl and .txt with {', '.join(COMPRESSIONS)}"
            raise refused(
                source.field, Reason.DATA_UNREADABLE, f"{problem}; {allowed}", "name one file, or remove it"
            )
    if not found:
        problem = f"directory {source.path.name} holds no file"
        raise refused(source.field, Reason.DATA_EMPTY, problem, "check the path")
    return found


def hidden(path: Path, root: Path) -> bool:
    """Whether a file or a directory on its way begins with a dot, as what tools leave behind does."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def refused(field: str, reason: Reason, problem: str, hint: str) -> WorkloadError:
    """The error of a source that cannot be used."""
    return WorkloadError(reason, f"{field}: {problem}.", hint=f"{hint}; nothing was written.")


def pieces_of(sources: list[Source], piece_bytes: int) -> list[Piece]:
    """All files in pieces of about so many bytes. They follow from the files alone, however many work on them."""
    pieces = []
    for number, source in enumerate(sources):
        for path in files_of(source):
            kind, packed = kind_of(path)
            if kind == ".jsonl" and not packed:
                size = path.stat().st_size
                bounds = [*range(0, size, piece_bytes), size]
                spans = list(pairwise(bounds))
            elif kind == ".parquet":
                spans = spans_of_groups(path, source.field, piece_bytes)
            else:
                spans = [(0, 0)]
            pieces += [Piece(number, path, *span) for span in spans]
    return pieces


def spans_of_groups(path: Path, field: str, piece_bytes: int) -> list[tuple[int, int]]:
    """Runs of row groups that together have about so many bytes."""
    file = open_parquet(path, field)
    spans, first, size = [], 0, 0
    for group in range(file.metadata.num_row_groups):
        size += file.metadata.row_group(group).total_byte_size
        if size >= piece_bytes or group == file.metadata.num_row_groups - 1:
            spans.append((first, group + 1))
            first, size = group + 1, 0
    return spans


def documents(piece: Piece, source: Source, limits: Limits) -> Iterator[Document | Dropped]:
    """What a piece holds, in order. WorkloadError on a file that cannot be read to its end."""
    kind, packed = kind_of(piece.path)
    if kind == ".parquet":
        yield from from_parquet(piece, source)
        return
    stored = piece.path.stat().st_size
    with opened(piece.path, packed) as file:
        stream = Counted(file, piece, source, stored if packed else 0, limits)
        try:
            yield from from_lines(stream, piece, source) if kind == ".jsonl" else from_text(stream, piece)
        except DAMAGED as error:
            problem = f"{piece.path.name} cannot be read to its end: {first_line(error)}"
            raise refused(
                source.field, Reason.DATA_UNREADABLE, problem, "write it again; it may be cut off"
            ) from error


def opened(path: Path, packed: str) -> BinaryIO:
    """The bytes that a file holds."""
    if packed == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if packed == ".bz2":
        return bz2.open(path)  # type: ignore[return-value]
    if packed == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), BLOCK)
    return path.open("rb")


class Counted:
    """Lines of a stream, none longer than allowed; refuses a small file that expands beyond all measure."""

    def __init__(self, file: BinaryIO, piece: Piece, source: Source, stored: int, limits: Limits) -> None:
        self.file, self.limits, self.position = file, limits, piece.first
        self._name, self._field, self._stored = piece.path.name, source.field, stored
        if piece.first:
            # A line belongs to the piece that its first byte lies in.
            file.seek(piece.first - 1)
            self.position = piece.first - 1
            self.skip_line()

    def line(self) -> bytes | None:
        """The next line with its end; None for one that is too long, which is passed over; empty at the end."""
        line = self.file.readline(self.limits.row_bytes + 1)
        self._advance(len(line))
        if len(line) <= self.limits.row_bytes:
            return line
        if not line.endswith(b"\n"):
            self.skip_line()
        return None

    def skip_line(self) -> None:
        """Pass over what is left of a line, in blocks."""
        while block := self.file.readline(BLOCK):
            self._advance(len(block))
            if block.endswith(b"\n"):
                return

    def all(self) -> bytes | None:
        """Everything, None if that is too long for one document."""
        whole = self.file.read(self.limits.row_bytes + 1)
        self._advance(len(whole))
        return whole if len(whole) <= self.limits.row_bytes else None

    def _advance(self, size: int) -> None:
        self.position += size
        limits = self.limits
        bomb = self._stored and self.position > max(limits.ratio_floor_bytes, limits.ratio * self._stored)
        if bomb or self.position > limits.expanded_bytes:
            problem = (
                f"{self._name} expands too far (got more than {self.position} bytes from {self._stored})"
            )
            allowed = f"allowed {limits.ratio} times its stored size and {limits.expanded_bytes} bytes"
            raise refused(
                self._field, Reason.DATA_UNREADABLE, f"{problem}; {allowed}", "split it, or remove it"
            )


def from_lines(stream: Counted, piece: Piece, source: Source) -> Iterator[Document | Dropped]:
    """Documents of JSONL. A place is the byte at which a line begins."""
    while not piece.last or stream.position < piece.last:
        place = f"{piece.path.name}@{stream.position}"
        line = stream.line()
        if line is None:
            yield Dropped(place, "LineTooLong")
        elif not line:
            return
        elif line.strip():
            yield from_line(line, place, source.column)


def from_line(line: bytes, place: str, column: str) -> Document | Dropped:
    """The document on one line."""
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Dropped(place, "NotUTF8", line[:EXCERPT].decode(errors="replace"))
    except (ValueError, RecursionError):
        return Dropped(place, "NotJSON", line[:EXCERPT].decode(errors="replace"))
    return from_values(values, place, column)


def from_values(values: Any, place: str, column: str) -> Document | Dropped:
    """The document of one row."""
    text = values.get(column) if isinstance(values, dict) else None
    if not isinstance(text, str):
        there = ", ".join(sorted(map(str, values))[:8]) if isinstance(values, dict) else type(values).__name__
        return Dropped(place, "NoText", f"got {there or 'nothing'}")
    return (
        Document(place, text)
        if is_text(text)
        else Dropped(place, "NotUTF8", "half of a letter (a surrogate)")
    )


def from_text(stream: Counted, piece: Piece) -> Iterator[Document | Dropped]:
    """The one document of a plain text."""
    whole = stream.all()
    if whole is None:
        yield Dropped(piece.path.name, "LineTooLong")
        return
    try:
        yield Document(piece.path.name, whole.decode("utf-8-sig"))
    except UnicodeDecodeError:
        yield Dropped(piece.path.name, "NotUTF8", whole[:EXCERPT].decode(errors="replace"))


def open_parquet(path: Path, field: str) -> Any:
    """The file; WorkloadError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        problem = f"{path.name} is not a readable Parquet file: {first_line(error)}"
        raise refused(field, Reason.DATA_UNREADABLE, problem, "write it again; it may be cut off") from error


def from_parquet(piece: Piece, source: Source) -> Iterator[Document | Dropped]:
    """Documents of some row groups. A place is the number of the row, from 1."""
    import pyarrow as pa

    file = open_parquet(piece.path, source.field)
    names = file.schema_arrow.names
    number = sum(file.metadata.row_group(group).num_rows for group in range(piece.first))
    columns = [source.column] if source.column in names else names[:8]
    try:
        for batch in file.iter_batches(256, list(range(piece.first, piece.last)), columns, use_threads=False):
            for place, values in enumerate(values_of(batch), start=number + 1):
                yield from_values(values, f"{piece.path.name}#{place}", source.column)
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        problem = f"{piece.path.name} cannot be read to its end: {first_line(error)}"
        raise refused(
            source.field, Reason.DATA_UNREADABLE, problem, "write it again; it may be cut off"
        ) from error


def values_of(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch; a text of bytes that are no letters is half of one."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = [
            {name: text_of(batch.column(name)[row]) for name in batch.schema.names}
            for row in range(len(batch))
        ]
    return rows


def text_of(value: Any) -> Any:
    """One value that may not be UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return bytes(value.as_buffer()).decode("utf-8", "surrogateescape")
    except (ValueError, OverflowError):
        return None
