"""Files of rows in every state of damage: each is refused with file, place and reason, and good rows are all read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import Reason
from windlass_workloads.data.errors import EVIDENCE_LINES, WorkloadError
from windlass_workloads.data.read import Complaints, Limits, Row, read_rows

FIELD = "spec.data.sources[0].uri"


def rows_of(path: Path, limits: Limits | None = None) -> list[Row]:
    complaints = Complaints(FIELD, path.name)
    found = list(read_rows(path, field=FIELD, complaints=complaints, limits=limits))
    complaints.raise_if_any()
    return found


def refusal(path: Path, limits: Limits | None = None) -> WorkloadError:
    with pytest.raises(WorkloadError) as caught:
        rows_of(path, limits)
    assert caught.value.reason is Reason.DATA_UNREADABLE
    assert caught.value.hint
    return caught.value


def written(tmp_path: Path, suffix: str, content: bytes) -> Path:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    return path


# --- JSON lines ---------------------------------------------------------------------------------------------------

GOOD_LINES: list[tuple[str, bytes, list[tuple[int, Any]]]] = [
    ("nothing", b"", []),
    ("blank lines", b"\n \n\t\n\r\n", []),
    ("no last newline", b'{"a": 1}', [(1, {"a": 1})]),
    ("windows ends", b'{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
    ("blank lines count", b'\n\n{"a": 1}\n\n{"a": 2}\n', [(3, {"a": 1}), (5, {"a": 2})]),
    ("byte order mark", b'\xef\xbb\xbf{"a": 1}\n', [(1, {"a": 1})]),
    ("mark on each line", b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
    ("spaces around", b'   {"a": 1}   \n', [(1, {"a": 1})]),
    ("an empty object", b"{}\n", [(1, {})]),
    ("letters of all kinds", '{"a": "ß€𝄞"}\n'.encode(), [(1, {"a": "ß€𝄞"})]),
    ("escaped letters", b'{"a": "\\u00df\\ud834\\udd1e"}\n', [(1, {"a": "ß𝄞"})]),
    ("a line separator inside", '{"a": "x\u2028y"}\n'.encode(), [(1, {"a": "x\u2028y"})]),
    ("an escaped newline inside", b'{"a": "x\\ny"}\n', [(1, {"a": "x\ny"})]),
    ("a key twice", b'{"a": 1, "a": 2}\n', [(1, {"a": 2})]),
    (
        "a large number",
        b'{"a": 123456789012345678901234567890}\n',
        [(1, {"a": 123456789012345678901234567890})],
    ),
]


@pytest.mark.parametrize(
    ("content", "wanted"), [row[1:] for row in GOOD_LINES], ids=[row[0] for row in GOOD_LINES]
)
def test_good_lines_are_read_with_their_numbers(
    tmp_path: Path, content: bytes, wanted: list[tuple[int, Any]]
) -> None:
    found = rows_of(written(tmp_path, ".jsonl", content))
    assert [(row.line, row.values) for row in found] == wanted


BAD_LINES: list[tuple[str, bytes, str]] = [
    ("cut off", b'{"a": 1}\n{"a": "x', "2: not JSON at column 7: Unterminated string starting at"),
    ("no value", b'{"a": }\n', "1: not JSON at column 7: Expecting value"),
    ("no colon", b'{"a" 1}\n', "1: not JSON at column 6: Expecting ':' delimiter"),
    ("a comma too many", b'{"a": 1,}\n', "1: not JSON at column "),
    (
        "single quotes",
        b"{'a': 1}\n",
        "1: not JSON at column 2: Expecting property name enclosed in double quotes",
    ),
    ("two objects", b'{"a": 1}{"a": 2}\n', "1: not JSON at column 9: Extra data"),
    ("words", b"hello\n", "1: not JSON at column 1: Expecting value"),
    ("a raw tab inside", b'{"a": "x\ty"}\n', "1: not JSON at column 9: Invalid control character at"),
    ("a list", b"[]\n", "1: not a JSON object (got list)"),
    ("a text", b'"x"\n', "1: not a JSON object (got str)"),
    ("a number", b"7\n", "1: not a JSON object (got int)"),
    ("a fraction", b"7.5\n", "1: not a JSON object (got float)"),
    ("null", b"null\n", "1: not a JSON object (got NoneType)"),
    ("true", b"true\n", "1: not a JSON object (got bool)"),
    ("not UTF-8", b'{"a": "\xe9"}\n', "1: not UTF-8 at byte 8"),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), "1: not UTF-8 at byte 1"),
    ("half a letter", b'{"a": "\xe2\x82"}\n', "1: not UTF-8 at byte 8"),
    ("zero bytes", b"\0\0\0\n", "1: not JSON at column 1: Expecting value"),
    ("a zipped file", b"\x1f\x8b\x08\x00\n", "1: not UTF-8 at byte 2"),
    ("too deep", b"[" * 50_000 + b"\n", "1: not JSON: nested too deep"),
    ("deep objects", b'{"a":' * 50_000 + b"\n", "1: not JSON: nested too deep"),
    ("a number of too many digits", b'{"a": ' + b"9" * 5000 + b"}\n", "1: not JSON"),
    ("in the third line", b'{}\n\n{"a"\n{}\n', "3: not JSON at column 5: Expecting ':' delimiter"),
]


@pytest.mark.parametrize(
    ("content", "said"), [row[1:] for row in BAD_LINES], ids=[row[0] for row in BAD_LINES]
)
def test_a_bad_line_is_told_with_its_number_and_why(tmp_path: Path, content: bytes, said: str) -> None:
    error = refusal(written(tmp_path, ".jsonl", content))
    (line,) = error.evidence
    assert line.startswith(f"rows.jsonl:{said}")
    assert error.message == f"{FIELD}: unreadable row {line}."
    assert len(line) < 300


@pytest.mark.parametrize("bad", [1, 2, EVIDENCE_LINES - 1, EVIDENCE_LINES, 50])
def test_reading_stops_when_there_is_enough_to_show(tmp_path: Path, bad: int) -> None:
    content = b'{"a": 1}\n' * 3 + b"bad\n" * bad + b'{"a": 2}\n' * 1000
    path = written(tmp_path, ".jsonl", content)
    error = refusal(path)
    shown = min(bad, EVIDENCE_LINES)
    assert len(error.evidence) == shown
    assert [line.split(":")[1] for line in error.evidence] == [str(4 + number) for number in range(shown)]
    assert (" and " in error.message) is (bad > 1)


@given(
    rows=st.lists(
        st.dictionaries(
            st.text(max_size=6),
            st.one_of(st.text(max_size=12), st.integers(), st.none(), st.booleans()),
            max_size=4,
        ),
        max_size=8,
    ),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    ascii_only=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], end: str, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    path.write_bytes(end.join([*lines, ""]).encode("utf-8", "surrogatepass"))
    try:
        found = [row.values for row in rows_of(path)]
    except WorkloadError as error:
        assert not ascii_only and "not UTF-8" in error.message
        return
    assert found == rows


@given(content=st.binary(max_size=400))
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_no_bytes_at_all_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    path = written(tmp_path_factory.mktemp("bytes"), suffix, content)
    try:
        assert all(isinstance(row, Row) for row in rows_of(path))
    except WorkloadError as error:
        assert error.reason is Reason.DATA_UNREADABLE


# --- CSV ----------------------------------------------------------------------------------------------------------

GOOD_CSV: list[tuple[str, str, list[tuple[int, dict[str, str]]]]] = [
    ("nothing", "", []),
    ("a header only", "a,b\n", []),
    ("plain", "a,b\n1,2\n", [(2, {"a": "1", "b": "2"})]),
    ("no last newline", "a,b\n1,2", [(2, {"a": "1", "b": "2"})]),
    ("windows ends", "a,b\r\n1,2\r\n", [(2, {"a": "1", "b": "2"})]),
    ("empty fields", "a,b\n,\n", [(2, {"a": "", "b": ""})]),
    ("quotes", 'a,b\n"x ""y""","1,2"\n', [(2, {"a": 'x "y"', "b": "1,2"})]),
    ("lines inside", 'a,b\n"x\ny",1\nz,2\n', [(3, {"a": "x\ny", "b": "1"}), (4, {"a": "z", "b": "2"})]),
    ("byte order mark", "\ufeffa,b\n1,2\n", [(2, {"a": "1", "b": "2"})]),
    ("blank lines", "a,b\n\n1,2\n\n", [(3, {"a": "1", "b": "2"})]),
    ("spaces stay", "a,b\n 1 , 2 \n", [(2, {"a": " 1 ", "b": " 2 "})]),
    ("letters of all kinds", "a\nß€𝄞\n", [(2, {"a": "ß€𝄞"})]),
]


@pytest.mark.parametrize(
    ("content", "wanted"), [row[1:] for row in GOOD_CSV], ids=[row[0] for row in GOOD_CSV]
)
def test_good_csv_is_read_with_its_lines(
    tmp_path: Path, content: str, wanted: list[tuple[int, dict[str, str]]]
) -> None:
    found = rows_of(written(tmp_path, ".csv", content.encode()))
    assert [(row.line, row.values) for row in found] == wanted


BAD_CSV: list[tuple[str, bytes, str]] = [
    ("too few", b"a,b\n1\n", "2: has another number of columns than the header (2)"),
    ("too many", b"a,b\n1,2,3\n", "2: has another number of columns than the header (2)"),
    ("later", b"a,b\n1,2\n3,4\n5\n", "4: has another number of columns than the header (2)"),
    ("an open quote", b'a,b\n1,"2\n', "2: not CSV: unexpected end of data"),
    ("text behind a quote", b'a,b\n"1"x,2\n', "2: not CSV: ',' expected after '\"'"),
    ("not UTF-8", b"a,b\n\xff,2\n", "2: not UTF-8"),
    ("not UTF-8, later", b"a,b\n" + b"1,2\n" * 5000 + b"1,\xe9\n", "5002: not UTF-8"),
    ("a header that is not UTF-8", b"\xe9,b\n1,2\n", "1: not UTF-8"),
    ("UTF-16", "a,b\n1,2\n".encode("utf-16"), "1: "),
    ("zero bytes", b"a,b\n1,\x00\n", "2: "),
]


@pytest.mark.parametrize(("content", "said"), [row[1:] for row in BAD_CSV], ids=[row[0] for row in BAD_CSV])
def test_bad_csv_is_told_with_its_line_and_why(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, ".csv", content)
    if said == "2: ":
        # Newer readers take a zero byte as a letter; older ones refuse it. Either way, nothing is lost silently.
        try:
            assert [row.values for row in rows_of(path)] == [{"a": "1", "b": "\x00"}]
        except WorkloadError as error:
            assert error.evidence[0].startswith("rows.csv:2: ")
        return
    error = refusal(path)
    assert error.evidence[0].startswith(f"rows.csv:{said}")


def test_a_header_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    # The second column would silently replace the first.
    error = refusal(written(tmp_path, ".csv", b"text,text\none,two\n"))
    assert error.evidence[0] == "rows.csv:1: names a column twice (text)"


def test_a_field_longer_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ".csv", b"a\n" + b"x" * 5000 + b"\n")
    error = refusal(path, Limits(row_bytes=1000))
    assert error.evidence[0].startswith("rows.csv:2: not CSV: field larger than field limit (1000)")
    assert len(rows_of(path)) == 1, "the limit of one reading is not that of the next"


@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=12),
            min_size=2,
            max_size=2,
        ),
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_a_csv_writer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    path = written(tmp_path_factory.mktemp("rows"), ".csv", buffer.getvalue().encode())
    assert [list(row.values.values()) for row in rows_of(path)] == rows


# --- Parquet -----------------------------------------------------------------------------------------------------


def parquet(tmp_path: Path, rows: int = 600, **options: Any) -> Path:
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": [f"row {number}" for number in range(rows)], "n": list(range(rows))})
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("compression", ["NONE", "SNAPPY", "GZIP", "ZSTD", "BROTLI", "LZ4"])
def test_parquet_of_any_compression_is_read_in_order(tmp_path: Path, compression: str) -> None:
    found = rows_of(parquet(tmp_path, compression=compression, row_group_size=250))
    assert [row.line for row in found] == list(range(1, 601))
    assert found[599].values == {"text": "row 599", "n": 599}


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 512])
def test_no_row_is_lost_at_the_edges_of_batches(tmp_path: Path, rows: int) -> None:
    assert [row.values["n"] for row in rows_of(parquet(tmp_path, rows))] == list(range(rows))


PARQUET_DAMAGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda data: b""),
    ("no end", lambda data: data[:-4]),
    ("half", lambda data: data[: len(data) // 2]),
    ("only magic", lambda data: b"PAR1PAR1"),
    ("a footer length too long", lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:]),
    ("JSON lines", lambda data: b'{"a": 1}\n'),
    ("a zip", lambda data: b"PK\x03\x04" + data),
]


@pytest.mark.parametrize(
    "damage", [row[1] for row in PARQUET_DAMAGES], ids=[row[0] for row in PARQUET_DAMAGES]
)
def test_a_damaged_parquet_file_is_refused_whole(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = parquet(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    error = refusal(path)
    assert error.message.startswith(f"{FIELD}: rows.parquet is not a readable Parquet file: ")
    assert error.hint == "write it again; the file may be cut off."
    assert "\n" not in error.message and len(error.message) < 400


@pytest.mark.parametrize("place", [0, 30, 200, 700, -40, -300])
def test_a_parquet_file_with_damaged_pages_is_refused_or_read_but_never_breaks(
    tmp_path: Path, place: int
) -> None:
    path = parquet(tmp_path, compression="ZSTD")
    data = bytearray(path.read_bytes())
    for offset in range(16):
        data[place + offset] ^= 0x5A
    path.write_bytes(data)
    try:
        rows_of(path)
    except WorkloadError as error:
        assert error.reason is Reason.DATA_UNREADABLE


def test_nested_values_of_parquet_are_plain_objects(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    pq.write_table(pa.Table.from_pylist([{"messages": messages}, {"messages": None}]), path)
    first, second = rows_of(path)
    assert first.values == {"messages": messages}
    assert second.values == {"messages": None}


# --- whole files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".JSONL", ".Csv", ".PARQUET"])
def test_suffixes_count_in_any_case(tmp_path: Path, suffix: str) -> None:
    if suffix.lower() == ".parquet":
        path = parquet(tmp_path, 1).rename(tmp_path / f"rows{suffix}")
    else:
        path = written(tmp_path, suffix, b'{"a": "1"}\n' if suffix == ".JSONL" else b"a\n1\n")
    assert len(rows_of(path)) == 1


@pytest.mark.bad_input("B39")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_larger_than_allowed_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = parquet(tmp_path) if suffix == ".parquet" else written(tmp_path, suffix, b"a" * 5000)
    error = refusal(path, Limits(expanded_bytes=1000))
    assert "expands too far" in error.message and error.message.endswith("allowed 1000 bytes.")
    assert error.hint == "split the data into several sources."


@pytest.mark.bad_input("B39")
def test_a_small_file_may_expand_as_much_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a" * 100_000] * 20}), path, compression="zstd", use_dictionary=False)
    assert len(rows_of(path, Limits(ratio=10, ratio_floor_bytes=100 * 2**20))) == 20


@pytest.mark.parametrize("length", [999, 1000])
def test_a_line_within_the_limit_is_read(tmp_path: Path, length: int) -> None:
    line = b'{"a": "' + b"x" * (length - 10) + b'"}\n'
    assert len(line) == length
    assert len(rows_of(written(tmp_path, ".jsonl", line), Limits(row_bytes=1000))) == 1


@pytest.mark.parametrize("length", [1001, 1002, 100_000])
def test_a_line_beyond_the_limit_ends_the_reading(tmp_path: Path, length: int) -> None:
    line = b'{"a": "' + b"x" * (length - 10) + b'"}\n'
    error = refusal(written(tmp_path, ".jsonl", b"{}\n" + line), Limits(row_bytes=1000))
    assert error.message == f"{FIELD}: row rows.jsonl:2 is too long (got more than 1000 bytes)."


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl", b'{"a": 1}\n' * 10 + b"bad\n")
    found: Iterator[Row] = read_rows(path, field=FIELD, complaints=Complaints(FIELD, path.name))
    assert [next(found).line for _ in range(10)] == list(range(1, 11))
