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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

from windlass.api.meta import Reason
from windlass_workloads.data.errors import WorkloadError, first_line
from windlass_workloads.data.read import Limits, is_text, rows_of

KINDS: Final = (".jsonl", ".parquet", ".txt")
COMPRESSIONS: Final = (".gz", ".bz2", ".zst")
BLOCK: Final = 1 << 20
BATCH_BYTES: Final = 8 << 20
"""Of a Parquet file that is decoded at a time."""
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
        if not source.path.exists():
            problem = f"{spelled(source.path.name)} does not exist"
            raise refused(source.field, Reason.DATA_NOT_FOUND, problem, "check the path")
        found = [source.path]
    else:
        found = sorted(path for path in source.path.rglob("*") if not hidden(path, source.path))
        refuse_links(source, found)
        found = [path for path in found if not path.is_dir()]
    for path in found:
        name = spelled(path.name)
        if not path.is_file():
            problem = f"{name} is neither a file nor a link to one"
            raise refused(source.field, Reason.DATA_UNREADABLE, problem, "remove it")
        if not kind_of(path)[0]:
            problem = f"{name} is no file of documents (got suffix {''.join(path.suffixes) or 'none'})"
            allowed = f"allowed {', '.join(KINDS)}, and .jsonl and .txt with {', '.join(COMPRESSIONS)}"
            hint = "name one file, or remove it"
            raise refused(source.field, Reason.DATA_UNREADABLE, f"{problem}; {allowed}", hint)
    if not found:
        problem = f"directory {spelled(source.path.name)} holds no file"
        raise refused(source.field, Reason.DATA_EMPTY, problem, "check the path")
    return found


def refuse_links(source: Source, found: list[Path]) -> None:
    """A link in a directory may lead to a file within; one to a directory would be passed over without a word."""
    root = source.path.resolve()
    for path in found:
        name = spelled(str(path.relative_to(source.path)))
        if not path.is_symlink():
            continue
        if not path.resolve().is_relative_to(root):
            problem = f"{name} is a link that leads out of {spelled(source.path.name)}"
            raise refused(source.field, Reason.DATA_UNREADABLE, problem, "copy what it leads to in its place")
        if path.is_dir():
            problem = f"{name} is a link to a directory"
            raise refused(source.field, Reason.DATA_UNREADABLE, problem, "remove it")


def spelled(text: str) -> str:
    """A text that can be written as UTF-8: names of files, and what is left of damaged rows, may hold other bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def hidden(path: Path, root: Path) -> bool:
    """Whether a file or a directory on its way begins with a dot, as what tools leave behind does."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def refused(field: str, reason: Reason, problem: str, hint: str) -> WorkloadError:
    """The error of a source that cannot be used."""
    return WorkloadError(reason, f"{field}: {problem}.", hint=f"{hint}; nothing was written.")


def pieces_of(sources: Sequence[Source], files: Sequence[Sequence[Path]], piece_bytes: int) -> list[Piece]:
    """The files of each source in pieces of about so many bytes, which follow from the files alone."""
    pieces = []
    for number, (source, paths) in enumerate(zip(sources, files, strict=True)):
        for path in paths:
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
        yield from from_parquet(piece, source, limits)
        return
    stored = piece.path.stat().st_size
    with opened(piece.path, packed) as file:
        stream = Counted(file, piece, source, stored if packed else 0, limits)
        try:
            yield from from_lines(stream, piece, source) if kind == ".jsonl" else from_text(stream, piece)
        except DAMAGED as error:
            problem = f"{spelled(piece.path.name)} cannot be read to its end: {first_line(error)}"
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
        self._meter = Meter(piece, source, stored, limits)
        if piece.first:
            # A line belongs to the piece that its first byte lies in.
            file.seek(piece.first - 1)
            self.position = piece.first - 1
            self.skip_line(until=piece.last)

    def line(self) -> bytes | None:
        """The next line with its end; None for one that is too long, which is passed over; empty at the end."""
        line = self.file.readline(self.limits.row_bytes + 1)
        self._advance(len(line))
        if len(line) <= self.limits.row_bytes:
            return line
        if not line.endswith(b"\n"):
            self.skip_line()
        return None

    def skip_line(self, until: int = 0) -> None:
        """Pass over what is left of a line, in blocks; where the piece ends before it, no further than that."""
        while block := self.file.readline(BLOCK):
            self._advance(len(block))
            if block.endswith(b"\n") or (until and self.position >= until):
                return

    def all(self) -> bytes | None:
        """Everything, None if that is too long for one document."""
        whole = self.file.read(self.limits.row_bytes + 1)
        self._advance(len(whole))
        return whole if len(whole) <= self.limits.row_bytes else None

    def _advance(self, size: int) -> None:
        self.position += size
        self._meter.add(size)


class Meter:
    """Counts what comes out of a file, and refuses one that expands beyond all measure. `stored` 0: it is plain."""

    def __init__(self, piece: Piece, source: Source, stored: int, limits: Limits) -> None:
        self.read, self._limits, self._stored = 0, limits, stored
        self._name, self._field = spelled(piece.path.name), source.field

    def add(self, size: int) -> None:
        """So many bytes more."""
        self.read += size
        limits = self._limits
        bomb = self._stored and self.read > max(limits.ratio_floor_bytes, limits.ratio * self._stored)
        if bomb or self.read > limits.expanded_bytes:
            problem = f"{self._name} expands too far (got more than {self.read} bytes from {self._stored})"
            allowed = f"allowed {limits.ratio} times its stored size and {limits.expanded_bytes} bytes"
            raise refused(
                self._field, Reason.DATA_UNREADABLE, f"{problem}; {allowed}", "split it, or remove it"
            )


def from_lines(stream: Counted, piece: Piece, source: Source) -> Iterator[Document | Dropped]:
    """Documents of JSONL. A place is the byte at which a line begins."""
    while not piece.last or stream.position < piece.last:
        place = f"{spelled(piece.path.name)}@{stream.position}"
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
        if not isinstance(values, dict):
            return Dropped(place, "NoText", f"got {type(values).__name__}")
        if column in values:
            return Dropped(place, "NoText", f"got {column} of type {type(text).__name__}")
        return Dropped(place, "NoText", f"got {', '.join(sorted(map(str, values))[:8]) or 'nothing'}")
    return (
        Document(place, text)
        if is_text(text)
        else Dropped(place, "NotUTF8", "half of a letter (a surrogate)")
    )


def from_text(stream: Counted, piece: Piece) -> Iterator[Document | Dropped]:
    """The one document of a plain text."""
    whole, name = stream.all(), spelled(piece.path.name)
    if whole is None:
        yield Dropped(name, "LineTooLong")
        return
    try:
        yield Document(name, whole.decode("utf-8-sig"))
    except UnicodeDecodeError:
        yield Dropped(name, "NotUTF8", whole[:EXCERPT].decode(errors="replace"))


def open_parquet(path: Path, field: str) -> Any:
    """The file; WorkloadError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        problem = f"{spelled(path.name)} is not a readable Parquet file: {first_line(error)}"
        raise refused(field, Reason.DATA_UNREADABLE, problem, "write it again; it may be cut off") from error


def from_parquet(piece: Piece, source: Source, limits: Limits) -> Iterator[Document | Dropped]:
    """Documents of some row groups. A place is the number of the row, from 1."""
    import pyarrow as pa

    file, name = open_parquet(piece.path, source.field), spelled(piece.path.name)
    names = file.schema_arrow.names
    groups = [file.metadata.row_group(group) for group in range(piece.first, piece.last)]
    number = sum(file.metadata.row_group(group).num_rows for group in range(piece.first))
    columns = [source.column] if source.column in names else names[:8]
    meter = Meter(piece, source, piece.path.stat().st_size, limits)
    try:
        for batch in file.iter_batches(
            rows_at_once(groups), list(range(piece.first, piece.last)), columns, use_threads=False
        ):
            meter.add(batch.nbytes)
            for place, values in enumerate(rows_of(batch), start=number + 1):
                yield checked(values, f"{name}#{place}", source.column, limits)
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        problem = f"{name} cannot be read to its end: {first_line(error)}"
        raise refused(
            source.field, Reason.DATA_UNREADABLE, problem, "write it again; it may be cut off"
        ) from error


def rows_at_once(groups: list[Any]) -> int:
    """Rows of about `BATCH_BYTES`, by what the file says of their size."""
    rows = int(sum(group.num_rows for group in groups))
    size = int(sum(group.total_byte_size for group in groups))
    return max(1, min(256, BATCH_BYTES * rows // max(1, size)))


def checked(values: dict[str, Any], place: str, column: str, limits: Limits) -> Document | Dropped:
    """The document of a row that is not too long."""
    text: Any = values.get(column)
    # Letters take four bytes at most: few texts have to be counted.
    may_be = isinstance(text, str) and len(text) > limits.row_bytes // 4
    if may_be and len(text.encode(errors="replace")) > limits.row_bytes:
        return Dropped(place, "LineTooLong")
    return from_values(values, place, column)
