"""What is no text, and times that there are not: each names its row, and harms nothing that does not use it."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windlass.api.training import Columns
from windlass_workloads.data.chat import NAME_LETTERS, Recipe, make_sample
from windlass_workloads.data.read import BadRow, Complaints, read_rows

FIELD = "spec.data.sources[0].uri"
HALF = "cut emoji \ud83d"
SAID = r"half a letter at character 11 \(got \\ud83d\)"
TURN = {"role": "assistant", "content": "a"}


def read(path):
    complaints = Complaints(FIELD, path.name)
    rows = list(read_rows(path, field=FIELD, complaints=complaints))
    complaints.raise_if_any()
    return rows


@pytest.mark.parametrize(
    ("format", "row", "place"),
    [
        ("Text", {"text": HALF}, "text"),
        ("Instruction", {"instruction": HALF, "output": "a"}, "instruction"),
        ("Instruction", {"instruction": "a", "input": HALF, "output": "a"}, "input"),
        ("Instruction", {"instruction": "a", "output": HALF}, "output"),
        ("Chat", {"messages": [TURN, {"role": "user", "content": HALF}]}, r"messages\[1\].content"),
    ],
    ids=["text", "instruction", "input", "output", "chat"],
)
def test_half_a_letter_is_a_bad_row_and_no_crash(tokenizer, tmp_path, format, row, place):
    """A JSON escape may be cut in the middle of an emoji; Python reads it, tokenisers do not."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    (found,) = read(path)
    recipe = Recipe(format, Columns(), True, 64)
    with pytest.raises(BadRow, match=f"^{place} has {SAID}$"):
        make_sample(found.values, recipe, tokenizer)


def test_whole_letters_of_any_kind_are_text(tokenizer):
    for text in ("über", "日本語", "\U0001f4a5", "a\u0301", "\x00\x1b[31m"):
        assert make_sample({"text": text}, Recipe("Text", Columns(), True, 64), tokenizer).tokens


@pytest.mark.parametrize(
    ("row", "format"),
    [({"x" * 80_000: "a", "y" * 80_000: "b"}, "Text"), ({"messages": [{"role": "r" * 80_000}]}, "Chat")],
    ids=["columns", "role"],
)
def test_names_that_are_whole_texts_are_shown_short(tokenizer, row, format):
    """A file without its header: the first row is taken for names."""
    with pytest.raises(BadRow) as caught:
        make_sample(row, Recipe(format, Columns(), True, 64), tokenizer)
    assert NAME_LETTERS < len(str(caught.value)) < 8 * NAME_LETTERS + 200


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return read(path)


def test_a_column_that_python_cannot_hold_harms_no_other(tmp_path):
    times = pa.array([0, 1 << 58], pa.timestamp("us"))
    rows = write(tmp_path / "rows.parquet", text=["one", "two"], at=times)
    assert [row.values["text"] for row in rows] == ["one", "two"]
    assert rows[1].values["at"] == 1 << 58


def test_text_that_is_none_is_told_with_its_row_where_it_is_used(tokenizer, tmp_path):
    bad = pa.array([b"fine", b"caf\xe9"]).cast(pa.binary())
    text = pa.StringArray.from_buffers(2, bad.buffers()[1], bad.buffers()[2])
    first, second = write(tmp_path / "rows.parquet", text=text, other=["a", "b"])
    recipe = Recipe("Text", Columns(), True, 64)
    assert make_sample(first.values, recipe, tokenizer).tokens
    with pytest.raises(BadRow, match=r"^text is not UTF-8 at character 4$"):
        make_sample(second.values, recipe, tokenizer)
    assert make_sample(second.values, Recipe("Text", Columns(text="other"), True, 64), tokenizer).tokens
