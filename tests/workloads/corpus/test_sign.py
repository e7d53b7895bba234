"""The first stage alone: what it writes for a piece, and what it says of what it leaves out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus import flat, sign
from windlass_workloads.corpus.minhash import Bands
from windlass_workloads.corpus.read import Document, Dropped, Source, files_of, pieces_of
from windlass_workloads.corpus.sign import SHOWN, Sign, Tally, batches, exact_keys
from windlass_workloads.corpus.tasks import perform, report_of
from windlass_workloads.corpus.words import shingles
from workloads.corpus.texts import text, write_rows

BANDS = Bands.for_threshold(0.8)


def signed(root: Path, path: Path, *, rules: str = "None") -> list[Sign]:
    one = Source(path, "spec.corpus.sources[0].uri")
    tasks = [
        Sign(root / f"sign-{number}", piece, one, rules, BANDS)
        for number, piece in enumerate(pieces_of([one], [files_of(one)], 1 << 20))
    ]
    for task in tasks:
        perform(task)
    return tasks


def texts_of(task: Sign) -> list[str]:
    with flat.Reader(task.directory, BANDS.bands) as reader:
        return [reader.text(row) for row in range(len(reader))]


def test_documents_are_written_clean_with_keys_of_their_own(tmp_path: Path) -> None:
    texts = [text(80, 1), "  cafe\u0301 \r\n x ", text(30, 2)]
    [task] = signed(tmp_path, write_rows(tmp_path / "a.jsonl", texts))
    clean = [texts[0], "café\n x", texts[2]]
    assert texts_of(task) == clean
    exact = np.fromfile(task.directory / flat.EXACT, dtype=np.uint64).reshape(-1, 2)
    assert exact.tobytes() == b"".join(
        hashlib.blake2b(one.encode(), digest_size=16).digest() for one in clean
    )
    bands = np.fromfile(task.directory / flat.BANDS, dtype=np.uint64).reshape(-1, BANDS.bands)
    assert np.array_equal(bands, BANDS.keys(shingles(clean)))
    with flat.Reader(task.directory, BANDS.bands) as reader:
        first = len(json.dumps({"text": texts[0]})) + 1
        second = first + len(json.dumps({"text": texts[1]})) + 1
        assert reader.places() == ["a.jsonl@0", f"a.jsonl@{first}", f"a.jsonl@{second}"]


def test_the_report_counts_everything(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ["good one", " ", "another", "\x00"])
    with path.open("ab") as file:
        file.write(b'broken\n{"text": 5}\n')
    [task] = signed(tmp_path, path)
    assert report_of(task) == {
        "source": 0,
        "file": "a.jsonl",
        "read": 6,
        "documents": 2,
        "bytes": len("good one" + "another"),
        "dropped": {"Empty": 2, "NotJSON": 1, "NoText": 1},
        "shown": {
            "Empty": [{"place": "a.jsonl@21", "text": ""}, {"place": "a.jsonl@55", "text": ""}],
            "NotJSON": [{"place": "a.jsonl@74", "text": "broken\n"}],
            "NoText": [{"place": "a.jsonl@81", "text": "got text of type int"}],
        },
    }


def test_a_piece_of_which_nothing_stays_is_a_piece_all_the_same(tmp_path: Path) -> None:
    [task] = signed(tmp_path, write_rows(tmp_path / "a.jsonl", ["", " "]))
    assert texts_of(task) == [] and report_of(task)["dropped"] == {"Empty": 2}
    for name in (flat.TEXT, flat.EXACT, flat.BANDS, flat.PLACES):
        assert (task.directory / name).stat().st_size == 0
    assert np.fromfile(task.directory / flat.OFFSETS, dtype=np.int64).tolist() == [0]


def test_rules_are_asked_after_cleaning(tmp_path: Path) -> None:
    good = "the miller and the baker walk to rivers that have water\n\n\n\n\n" * 6
    path = write_rows(tmp_path / "a.jsonl", [good, "the and"])
    [task] = signed(tmp_path / "ruled", path, rules="Gopher")
    assert report_of(task)["dropped"] == {"RepeatedLines": 1, "TooFewWords": 1}
    [free] = signed(tmp_path / "free", path)
    assert report_of(free)["documents"] == 2


@pytest.mark.parametrize("count", [0, 1, SHOWN, SHOWN + 1, 40])
def test_the_first_few_of_a_reason_are_shown(count: int) -> None:
    tally = Tally()
    for number in range(count):
        tally.drop(Dropped(f"a@{number}", "NotJSON", "x" * 500))
        tally.drop(Dropped(f"a@{number}", "Empty"))
    assert tally.dropped == ({"NotJSON": count, "Empty": count} if count else {})
    for rows in tally.shown.values():
        assert [row["place"] for row in rows] == [f"a@{number}" for number in range(min(count, SHOWN))]
    assert all(len(row["text"]) == 200 for row in tally.shown.get("NotJSON", []))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=30), st.integers(1, 900))
def test_batches_hold_everything_in_order_and_little_more_than_asked(sizes: list[int], most: int) -> None:
    items = [Document(str(number), "x" * size) for number, size in enumerate(sizes)]
    before, sign.BATCH_BYTES = sign.BATCH_BYTES, most  # type: ignore[misc]
    try:
        made = list(batches(iter(items)))
    finally:
        sign.BATCH_BYTES = before  # type: ignore[misc]
    assert [item for batch in made for item in batch] == items
    for batch in made[:-1]:
        total = sum(len(item.text) for item in batch)
        assert most <= total < most + 401
    assert all(made)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_exact_keys_are_equal_for_equal_texts_only(texts: list[bytes]) -> None:
    keys = exact_keys(texts)
    assert keys.shape == (len(texts), 2)
    assert len({row.tobytes() for row in keys}) == len(set(texts))


def test_a_task_is_plain_data(tmp_path: Path) -> None:
    import pickle

    [task] = signed(tmp_path, write_rows(tmp_path / "a.jsonl", ["x"]))
    other: Any = pickle.loads(pickle.dumps(task))
    assert other == task and np.array_equal(
        other.bands.keys(shingles(["a b"])), BANDS.keys(shingles(["a b"]))
    )
