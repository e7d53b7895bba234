"""Reading: every document once whatever the pieces, a bad row named and passed over, a bad file refused."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import Reason
from windlass_workloads.corpus.read import (
    Document,
    Dropped,
    Piece,
    Source,
    documents,
    files_of,
    kind_of,
    pieces_of,
)
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.read import Limits

FIELD = "spec.corpus.sources[0].uri"
SMALL = Limits(row_bytes=200, expanded_bytes=1 << 20, ratio=20, ratio_floor_bytes=2000)


def source(path: Path, column: str = "text") -> Source:
    return Source(path, FIELD, column)


def cut(sources: list[Source], piece_bytes: int) -> list[Piece]:
    return pieces_of(sources, [files_of(one) for one in sources], piece_bytes)


def read(path: Path, piece_bytes: int = 1 << 20, column: str = "text", limits: Limits = SMALL) -> list[Any]:
    one = source(path, column)
    return [item for piece in cut([one], piece_bytes) for item in documents(piece, one, limits)]


def texts(items: list[Any]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def reasons(items: list[Any]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped)]


def jsonl(path: Path, *lines: bytes | str) -> Path:
    raw = [line if isinstance(line, bytes) else json.dumps({"text": line}).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    return path


def packed(path: Path, raw: bytes) -> Path:
    """Compressed by the suffix of the path."""
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(raw, mtime=0))
        case ".bz2":
            path.write_bytes(bz2.compress(raw))
        case ".zst":
            with pa.CompressedOutputStream(str(path), "zstd") as out:
                out.write(raw)
        case _:
            path.write_bytes(raw)
    return path


# --- pieces ----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=12),
    st.integers(1, 120),
    st.booleans(),
)
def test_every_document_comes_once_and_in_order_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], piece_bytes: int, ended: bool
) -> None:
    path = jsonl(tmp_path_factory.mktemp("pieces") / "a.jsonl", *lines)
    if not ended:
        path.write_bytes(path.read_bytes()[:-1])
    # A letter may take twelve bytes of JSON.
    items = read(path, piece_bytes, limits=Limits(row_bytes=1000))
    assert texts(items) == lines
    places = [int(item.place.partition("@")[2]) for item in items]
    assert places == sorted(set(places)) and places[0] == 0


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_row_groups_are_pieces_too(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "a.parquet"
    wanted = [f"text number {number}" for number in range(11)]
    pq.write_table(pa.table({"text": wanted, "other": list(range(11))}), path, row_group_size=rows)
    assert len(cut([source(path)], 1)) == -(-11 // rows)
    assert len(cut([source(path)], 1 << 20)) == 1
    for size in (1, 60, 1 << 20):
        items = read(path, size)
        assert texts(items) == wanted
        assert [item.place for item in items] == [f"a.parquet#{row}" for row in range(1, 12)]


def test_pieces_follow_the_sources_and_the_names_of_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", ".hidden.jsonl", ".git/d.jsonl", "e.txt"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_text('{"text": "x"}\n')
    one = jsonl(tmp_path / "one.jsonl", "y")
    made = cut([source(one), source(tmp_path / "all")], 1 << 20)
    assert [(piece.source, piece.path.name) for piece in made] == [
        (0, "one.jsonl"),
        (1, "a.jsonl"),
        (1, "b.jsonl"),
        (1, "c.jsonl"),
        (1, "e.txt"),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", (".jsonl", "")),
        ("a.JSONL.GZ", (".jsonl", ".gz")),
        ("a.txt.zst", (".txt", ".zst")),
        ("v1.2.parquet", (".parquet", "")),
        ("a.parquet.gz", ("", ".gz")),
        ("a.csv", ("", "")),
        ("a.gz", ("", ".gz")),
        ("a", ("", "")),
    ],
)
def test_kinds_of_files(name: str, kind: tuple[str, str]) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
def test_compressed_files_hold_the_same(tmp_path: Path, suffix: str) -> None:
    raw = b'{"text": "one"}\n\n  \n{"text": "two"}'
    assert texts(read(packed(tmp_path / f"a.jsonl{suffix}", raw))) == ["one", "two"]
    assert texts(read(packed(tmp_path / f"b.txt{suffix}", "\ufeffa whole\nbook".encode()))) == [
        "a whole\nbook"
    ]


# --- rows ------------------------------------------------------------------------------------------

HALF = b'{"text": "\\ud83d"}'


@pytest.mark.parametrize(
    ("line", "reason", "excerpt"),
    [
        (b'{"text": "\xff\xfe"}', "NotUTF8", '{"text": "'),
        (b'{"text": "cut', "NotJSON", '{"text": "cut'),
        (b"[" * 100_000, "LineTooLong", ""),
        (b"[" * 150, "NotJSON", "[[["),
        (b'{"body": "x", "id": 1}', "NoText", "got body, id"),
        (b'{"text": null}', "NoText", "got text of type "),
        (b'{"text": 7}', "NoText", "got text of type "),
        (b'["text"]', "NoText", "got list"),
        (b"{}", "NoText", "got nothing"),
        (b'{"text": "' + b"x" * 500 + b'"}', "LineTooLong", ""),
        (HALF, "NotUTF8", "half of a letter"),
        (b'{"text": ' + b"9" * 180 + b"}", "NoText", "got text of type "),
    ],
)
@pytest.mark.parametrize("piece_bytes", [7, 64, 1 << 20])
def test_a_bad_row_is_passed_over_and_named(
    tmp_path: Path, line: bytes, reason: str, excerpt: str, piece_bytes: int
) -> None:
    path = jsonl(tmp_path / "a.jsonl", "before", line, "after")
    items = read(path, piece_bytes)
    assert texts(items) == ["before", "after"]
    [dropped] = [item for item in items if isinstance(item, Dropped)]
    assert dropped.reason == reason and dropped.excerpt.startswith(excerpt)
    assert dropped.place == f"a.jsonl@{len(json.dumps({'text': 'before'})) + 1}"


@pytest.mark.parametrize("beyond", [-1, 0, 1, 2, 300])
def test_a_line_that_is_just_too_long_takes_no_other_with_it(tmp_path: Path, beyond: int) -> None:
    """Its end may be the last byte that was read to find that out."""
    bare = len(b'{"text": ""}\n')
    line = b'{"text": "' + b"x" * (SMALL.row_bytes - bare + beyond) + b'"}'
    items = read(jsonl(tmp_path / "a.jsonl", "before", line, "after"))
    assert reasons(items) == (["LineTooLong"] if beyond > 0 else [])
    assert [texts(items)[0], texts(items)[-1]] == ["before", "after"] and len(items) == 3


def test_a_line_of_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    """Passed over in blocks: the file has a hole, so that the test needs no disk either."""
    import resource

    path = jsonl(tmp_path / "a.jsonl", "before")
    with path.open("r+b") as file:
        file.seek((1 << 30) + path.stat().st_size)
        file.write(b"\n" + json.dumps({"text": "after"}).encode())
    limits = Limits(row_bytes=1 << 20, expanded_bytes=1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = read(path, 1 << 40, limits=limits)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (texts(items), reasons(items)) == (["before", "after"], ["LineTooLong"])
    assert grown < 64 * 1024, f"{grown} KB"


def test_another_column_can_hold_the_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", b'{"body": "x", "text": "y"}')
    assert texts(read(path, column="body")) == ["x"]
    table = tmp_path / "b.parquet"
    pq.write_table(pa.table({"body": ["x", None], "text": ["y", "z"]}), table)
    items = read(table, column="body")
    assert (texts(items), reasons(items)) == (["x"], ["NoText"])


def test_a_parquet_file_without_the_column_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), path)
    assert read(path) == [Dropped("b.parquet#1", "NoText", "got body, id")]


def test_bytes_in_parquet_that_are_no_letters_spoil_their_row_only(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    raw = pa.array([b"good", b"\xff\xfe", b"better"], pa.binary())
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 3, raw.buffers())}), path)
    items = read(path)
    assert (texts(items), reasons(items)) == (["good", "better"], ["NotUTF8"])


@pytest.mark.parametrize(("raw", "reason"), [(b"x" * 300, "LineTooLong"), (b"\xff\xfe\x00", "NotUTF8")])
def test_a_plain_text_that_is_none_is_dropped(tmp_path: Path, raw: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    assert reasons(read(tmp_path / "a.txt")) == [reason]


# --- files -----------------------------------------------------------------------------------------


def refusal(path: Path, **options: Any) -> WorkloadError:
    with pytest.raises(WorkloadError) as raised:
        read(path, **options)
    assert raised.value.message.startswith(f"{FIELD}: ") and "nothing was written" in raised.value.hint
    return raised.value


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((suffix, damage) for suffix in (".gz", ".bz2", ".zst") for damage in ("cut", "no such thing")),
        # What Zstandard's frames hold here has no sum: bytes turned over in them can show in rows only.
        (".gz", "flipped"),
        (".bz2", "flipped"),
    ],
)
def test_a_damaged_archive_is_refused_by_name(tmp_path: Path, suffix: str, damage: str) -> None:
    path = packed(
        tmp_path / f"a.jsonl{suffix}", b"".join(b'{"text": "%d"}\n' % number for number in range(5000))
    )
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(
        {
            "cut": raw[:middle],
            "flipped": raw[:middle]
            + bytes(255 - one for one in raw[middle : middle + 40])
            + raw[middle + 40 :],
            "no such thing": b"plain text" * 50,
        }[damage]
    )
    error = refusal(path, limits=Limits())
    assert (
        error.reason == Reason.DATA_UNREADABLE and f"{path.name} cannot be read to its end" in error.message
    )


@pytest.mark.bad_input("B39")
def test_an_archive_that_expands_beyond_measure_is_refused(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.jsonl.gz", (b'{"text": "' + b"x" * 50 + b'"}\n') * 2000)
    error = refusal(bomb)
    assert "bomb.jsonl.gz expands too far" in error.message and "allowed 20 times" in error.message
    large = packed(tmp_path / "large.jsonl.bz2", (os.urandom(60).hex().encode() + b"\n") * 20_000)
    assert (
        "large.jsonl.bz2 expands too far"
        in refusal(large, limits=Limits(200, 1 << 20, 10**6, 1 << 30)).message
    )


def test_a_small_file_may_expand_a_lot(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.jsonl.gz", b'{"text": "x"}\n' * 100)
    assert len(texts(read(path))) == 100


@pytest.mark.bad_input("B38")
def test_a_link_out_of_the_volume_is_refused(tmp_path: Path) -> None:
    outside = jsonl(tmp_path / "secret.jsonl", "not yours")
    root = tmp_path / "volume"
    root.mkdir()
    jsonl(root / "a.jsonl", "x")
    (root / "inside.jsonl").symlink_to(root / "a.jsonl")
    assert texts(read(root)) == ["x", "x"]
    (root / "b.jsonl").symlink_to(outside)
    error = refusal(root)
    assert (
        error.reason == Reason.DATA_UNREADABLE
        and "b.jsonl is a link that leads out of volume" in error.message
    )
    assert "not yours" not in str(error)


@pytest.mark.parametrize(
    ("make", "reason", "said"),
    [
        (lambda root: root / "none.jsonl", Reason.DATA_NOT_FOUND, "none.jsonl does not exist"),
        (lambda root: root, Reason.DATA_EMPTY, "holds no file"),
        (lambda root: packed(root / "a.csv", b"x"), Reason.DATA_UNREADABLE, "got suffix .csv"),
        (lambda root: packed(root / "a", b"x"), Reason.DATA_UNREADABLE, "got suffix none"),
        (
            lambda root: packed(root / "a.parquet", b"PAR1"),
            Reason.DATA_UNREADABLE,
            "is not a readable Parquet file",
        ),
        (lambda root: packed(root / "a.parquet.gz", b"x"), Reason.DATA_UNREADABLE, "got suffix .parquet.gz"),
    ],
    ids=["missing", "empty directory", "suffix", "no suffix", "cut Parquet", "packed Parquet"],
)
def test_a_source_that_cannot_be_used_is_refused(
    tmp_path: Path, make: Any, reason: Reason, said: str
) -> None:
    root = tmp_path / "here"
    root.mkdir()
    error = refusal(make(root))
    assert error.reason == reason and said in error.message


def test_a_parquet_file_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [os.urandom(50).hex() for _ in range(400)]}), path, compression="none")
    raw = bytearray(path.read_bytes())
    raw[4:2000] = bytes(1996)
    path.write_bytes(bytes(raw))
    error = refusal(path)
    assert "a.parquet cannot be read to its end" in error.message


def test_an_empty_file_has_no_pieces_and_no_documents(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl")
    assert cut([source(path)], 100) == [] and files_of(source(path)) == [path]
    assert texts(read(packed(tmp_path / "b.jsonl.gz", b""))) == []


def test_a_piece_is_plain_data(tmp_path: Path) -> None:
    import pickle

    piece = Piece(0, tmp_path / "a.jsonl", 0, 5)
    assert pickle.loads(pickle.dumps(piece)) == piece
