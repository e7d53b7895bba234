"""Reads rows of JSONL, Parquet and CSV files one by one, and says exactly which row is bad and why.

Called by prepare. Files stream: memory is bounded by one row (or one Parquet batch). Sizes after decompression are
limited, so that a small file cannot fill the pod.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.api.meta import Reason
from windlass_workloads.data.errors import EVIDENCE_LINES, WorkloadError, first_line

SUFFIXES = (".jsonl", ".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one source may hold; generous for data, far below what fills a node."""

    row_bytes: int = 16 * 2**20
    expanded_bytes: int = 256 * 2**30
    ratio: int = 1000
    """Largest expansion of a compressed file above `ratio_floor_bytes`."""
    ratio_floor_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands; `line` counts from 1 (Parquet: row number)."""

    line: int
    values: dict[str, Any]


class BadRow(ValueError):
    """Why one row cannot be used, without place; collected by `Complaints`."""


class Complaints:
    """Collects bad rows of one file, and refuses the file with the first few of them as evidence."""

    def __init__(self, field: str, name: str) -> None:
        self.field = field
        self.name = name
        self.lines: list[str] = []
        self.count = 0

    def add(self, line: int, why: str) -> None:
        """Notes a bad row; raises once there are enough to show."""
        self.count += 1
        self.lines.append(f"{self.name}:{line}: {why}")
        if self.count >= EVIDENCE_LINES:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """DataUnreadable with file, line and reason of each bad row found so far."""
        if not self.lines:
            return
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        raise WorkloadError(
            Reason.DATA_UNREADABLE,
            f"{self.field}: unreadable row {self.lines[0]}{more}.",
            hint="correct or delete these rows; nothing was trained.",
            evidence=tuple(self.lines),
        )


def read_rows(
    path: Path, *, field: str, complaints: Complaints, limits: Limits | None = None
) -> Iterator[Row]:
    """Rows of a file by its suffix. A whole-file problem raises, a bad row goes to `complaints`."""
    limits = limits or Limits()
    if path.is_dir() or path.suffix.lower() not in SUFFIXES:
        what = "a directory" if path.is_dir() else f"suffix {path.suffix or 'none'}"
        raise WorkloadError(
            Reason.DATA_UNREADABLE,
            f"{field}: not a file of rows (got {path.name}, {what}); allowed {', '.join(SUFFIXES)}.",
            hint="name one file; unpack archives first.",
        )
    _check_size(field, path, expanded=path.stat().st_size, limits=limits)
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    yield from readers[path.suffix.lower()](path, field, complaints, limits)


def _check_size(field: str, path: Path, *, expanded: int, limits: Limits) -> None:
    stored = max(path.stat().st_size, 1)
    bomb = expanded > limits.ratio_floor_bytes and expanded // stored > limits.ratio
    if expanded <= limits.expanded_bytes and not bomb:
        return
    allowed = f"{limits.ratio} times its stored size" if bomb else f"{limits.expanded_bytes} bytes"
    raise WorkloadError(
        Reason.DATA_UNREADABLE,
        f"{field}: {path.name} expands too far (got {expanded} bytes from {stored}); allowed {allowed}.",
        hint="split the data into several sources.",
    )


def _read_jsonl(path: Path, field: str, complaints: Complaints, limits: Limits) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(limits.row_bytes + 1):
            number += 1
            if len(line) > limits.row_bytes:
                raise WorkloadError(
                    Reason.DATA_UNREADABLE,
                    f"{field}: row {path.name}:{number} is too long (got more than {limits.row_bytes} bytes).",
                    hint="one JSON object per line; split or drop this row.",
                )
            try:
                values = _parse_json_line(line)
            except BadRow as error:
                complaints.add(number, str(error))
                continue
            if values is not None:
                yield Row(number, values)


def _parse_json_line(line: bytes) -> dict[str, Any] | None:
    """The object on a line; None for an empty line."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8 at byte {error.start + 1}") from None
    if not text:
        return None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadRow("not JSON: nested too deep") from None
    except ValueError:
        raise BadRow("not JSON: a number has too many digits") from None
    if not isinstance(values, dict):
        raise BadRow(f"not a JSON object (got {type(values).__name__})")
    return values


def _read_csv(path: Path, field: str, complaints: Complaints, limits: Limits) -> Iterator[Row]:
    csv.field_size_limit(limits.row_bytes)
    # Bytes that are no letters come through, so that their row can be named.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            columns = _check_header(rows.fieldnames or [], complaints)
            for values in rows:
                why = _why_bad(values, columns)
                if why is None:
                    yield Row(rows.line_num, dict(values))
                else:
                    complaints.add(rows.line_num, why)
        except csv.Error as error:
            # The position behind a broken quote is unknown, so that nothing after it can be trusted.
            complaints.add(rows.reader.line_num, f"not CSV: {error}")
            complaints.raise_if_any()


def _check_header(names: Sequence[str], complaints: Complaints) -> int:
    """Number of columns; raises when one is named twice: the later would replace the earlier unseen."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        complaints.add(1, f"names a column twice ({', '.join(twice[:4])})")
    elif not all(is_text(name) for name in names):
        complaints.add(1, "not UTF-8")
    complaints.raise_if_any()
    return len(names)


def _why_bad(values: dict[str, Any], columns: int) -> str | None:
    if None in values or any(value is None for value in values.values()):
        return f"has another number of columns than the header ({columns})"
    return None if all(is_text(value) for value in values.values()) else "not UTF-8"


def is_text(value: str) -> bool:
    """Whether all bytes behind it were letters."""
    return value.isascii() or not any(map(is_half, value))


def is_half(letter: str) -> bool:
    """Whether it stands for a byte that is no letter, or for half of one."""
    return "\ud800" <= letter <= "\udfff"


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch. A value that Python cannot hold spoils nothing but the rows and columns that are used."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError):
        names = batch.schema.names
        columns = [[_value_of(value) for value in batch.column(name)] for name in names]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return rows


def _value_of(value: Any) -> Any:
    """One value; bytes that are no letters become what CSV makes of them, a time beyond Python's its number."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        # Values in lists, structs and dictionaries have no buffer of their own.
        buffer = getattr(value, "as_buffer", None)
        return bytes(buffer()).decode("utf-8", "surrogateescape") if buffer is not None else None
    except (ValueError, OverflowError):
        return getattr(value, "value", None)


def _read_parquet(path: Path, field: str, complaints: Complaints, limits: Limits) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
        _check_size(field, path, expanded=sum(group.total_byte_size for group in groups), limits=limits)
        number = 0
        for batch in file.iter_batches(batch_size=256, use_threads=False):
            for values in rows_of(batch):
                number += 1
                yield Row(number, values)
    except (pa.ArrowException, OSError) as error:
        raise WorkloadError(
            Reason.DATA_UNREADABLE,
            f"{field}: {path.name} is not a readable Parquet file: {first_line(error)}.",
            hint="write it again; the file may be cut off.",
        ) from error
