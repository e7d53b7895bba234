"""Bad rows and files: each is refused with file, line and reason, in exactly these words."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windlass.api.meta import Reason
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.read import Complaints, Limits, read_rows

FIELD = "spec.data.sources[0].uri"


def read(path, limits=None):
    complaints = Complaints(FIELD, path.name)
    rows = list(read_rows(path, field=FIELD, complaints=complaints, limits=limits))
    complaints.raise_if_any()
    return rows


BAD_LINES = [
    (b'{"a": 1}\n{"a": \n', "rows.jsonl:2: not JSON at column 6: Expecting value"),
    (b"[1, 2]\n", "rows.jsonl:1: not a JSON object (got list)"),
    (b'{"a": "\xff"}\n', "rows.jsonl:1: not UTF-8 at byte 8"),
    (b"\n\n7\n", "rows.jsonl:3: not a JSON object (got int)"),
    (b'{"a": 1} {"a": 2}\n', "rows.jsonl:1: not JSON at column 10: Extra data"),
]


@pytest.mark.parametrize(("content", "said"), BAD_LINES, ids=[said for _, said in BAD_LINES])
def test_a_bad_line_is_named_with_file_line_and_reason(tmp_path, content, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(WorkloadError) as caught:
        read(path)
    assert caught.value.reason == Reason.DATA_UNREADABLE
    assert caught.value.evidence == (said,)
    assert str(caught.value) == (
        f"{FIELD}: unreadable row {said}. hint: correct or delete these rows; nothing was trained."
    )


def test_many_bad_lines_show_the_first_eight(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("x\n" * 50)
    with pytest.raises(WorkloadError, match=r"rows\.jsonl:1: not JSON .* and 7 more\.") as caught:
        read(path)
    assert [line.split(":")[1] for line in caught.value.evidence] == list("12345678")


def test_the_three_formats_give_the_same_rows(tmp_path):
    rows = [{"text": "one, two"}, {"text": 'three "four"'}, {"text": "fünf\nsechs"}]
    (tmp_path / "rows.jsonl").write_text("\ufeff" + "\n".join(json.dumps(row) for row in rows), "utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text('text\n"one, two"\n"three ""four"""\n"fünf\nsechs"\n', "utf-8")
    for suffix in ("jsonl", "parquet", "csv"):
        assert [row.values for row in read(tmp_path / f"rows.{suffix}")] == rows


BAD_CSV = [
    ("a,b\n1,2\n3\n", "rows.csv:3: has another number of columns than the header (2)"),
    ("a,b\n1,2,3\n", "rows.csv:2: has another number of columns than the header (2)"),
    ('a,b\n"1,2\n', "rows.csv:2: not CSV: unexpected end of data"),
]


@pytest.mark.parametrize(("content", "said"), BAD_CSV, ids=[said for _, said in BAD_CSV])
def test_a_bad_csv_row_is_named(tmp_path, content, said):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(WorkloadError) as caught:
        read(path)
    assert caught.value.evidence == (said,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rows.zip", "not a file of rows (got rows.zip, suffix .zip); allowed .jsonl, .parquet, .csv."),
        ("rows", "not a file of rows (got rows, suffix none); allowed .jsonl, .parquet, .csv."),
        (
            "folder.jsonl",
            "not a file of rows (got folder.jsonl, a directory); allowed .jsonl, .parquet, .csv.",
        ),
    ],
)
@pytest.mark.bad_input("B39")
def test_what_is_no_file_of_rows_is_refused(tmp_path, name, said):
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    else:
        path.write_bytes(b"PK")
    with pytest.raises(WorkloadError) as caught:
        read(path)
    assert caught.value.message == f"{FIELD}: {said}"


@pytest.mark.bad_input("B39")
def test_a_parquet_bomb_is_refused_before_it_is_expanded(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a" * 1_000_000] * 20}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(
        WorkloadError, match=r"rows\.parquet expands too far .* allowed 10 times its stored size\."
    ):
        read(path, Limits(ratio=10, ratio_floor_bytes=1000))
    with pytest.raises(WorkloadError, match=r"rows\.parquet expands too far .* allowed 5000 bytes\."):
        read(path, Limits(expanded_bytes=5000))


def test_a_row_longer_than_the_limit_is_refused_without_reading_it_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n" + '{"a": "' + "x" * 5000 + '"}\n')
    with pytest.raises(WorkloadError) as caught:
        read(path, Limits(row_bytes=1000))
    assert caught.value.message == f"{FIELD}: row rows.jsonl:2 is too long (got more than 1000 bytes)."


def test_a_cut_off_parquet_file_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        WorkloadError, match=r"rows\.parquet is not a readable Parquet file: .*hint: write it again"
    ):
        read(path)
