"""The last stage alone, and the datasheet's arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus import datasheet, shards
from windlass_workloads.corpus.datasheet import repeated_by_piece, summed
from windlass_workloads.corpus.shards import SHARD, Shard
from windlass_workloads.corpus.tasks import perform, report_of
from workloads.corpus.test_match import BANDS, signed
from workloads.corpus.texts import text


def shard(root: Path, texts: list[str], dropped: tuple[int, ...] = (), name: str = "shard") -> Shard:
    documents = signed(root / "in", texts, pieces=1) if not (root / "in").exists() else None
    directory = documents.directories[0] if documents is not None else root / "in" / "sign-0"
    task = Shard(root / name, directory, 3, BANDS.bands, dropped)
    perform(task)
    return task


@pytest.mark.parametrize("dropped", [(), (0,), (1, 3), (4,), (0, 1, 2, 3)])
def test_what_is_not_dropped_is_written_in_order(tmp_path: Path, dropped: tuple[int, ...]) -> None:
    texts = [text(30, seed) for seed in range(4)] + ["é字\nlast"]
    task = shard(tmp_path, texts, dropped)
    staying = [one for number, one in enumerate(texts) if number not in dropped]
    table = pq.read_table(task.directory / SHARD)
    assert table.column("text").to_pylist() == staying
    assert table.column("source").to_pylist() == [3] * len(staying)
    raw = (task.directory / SHARD).read_bytes()
    assert report_of(task) == {
        "documents": len(staying),
        "bytes": sum(len(one.encode()) for one in staying),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def test_where_nothing_stays_there_is_no_file(tmp_path: Path) -> None:
    task = shard(tmp_path, ["a", "b"], (0, 1))
    assert report_of(task) == {"documents": 0, "bytes": 0, "sha256": None}
    assert [path.name for path in task.directory.iterdir()] == ["report.json"]


@pytest.mark.parametrize("group_bytes", [1, 300, 1 << 20])
def test_rows_are_written_in_groups(
    tmp_path: Path, group_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "GROUP_BYTES", group_bytes)
    texts = [text(20, seed) for seed in range(9)]
    task = shard(tmp_path, texts)
    file = pq.ParquetFile(task.directory / SHARD)
    assert file.read().column("text").to_pylist() == texts
    fewest, most = {1: (9, 9), 300: (3, 5), 1 << 20: (1, 1)}[group_bytes]
    assert fewest <= file.metadata.num_row_groups <= most


def test_the_same_documents_are_the_same_bytes(tmp_path: Path) -> None:
    texts = [text(40, seed) for seed in range(6)]
    one, other = (shard(tmp_path, texts, (2,), name) for name in ("one", "other"))
    assert (one.directory / SHARD).read_bytes() == (other.directory / SHARD).read_bytes()


# --- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "total"),
    [([], {}), ([{}], {}), ([{"b": 1}, {"a": 2, "b": 3}], {"a": 2, "b": 4}), ([{"a": 0}], {"a": 0})],
)
def test_counts_are_added_by_name(counts: list[Mapping[str, int]], total: dict[str, int]) -> None:
    assert summed(counts) == total and list(summed(counts)) == sorted(total)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.data())
def test_each_repetition_is_counted_in_its_piece(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    reasons = ["ExactDuplicate", "NearDuplicate"]
    chosen = (
        data.draw(st.dictionaries(st.integers(0, max(0, total - 1)), st.sampled_from(reasons)))
        if total
        else {}
    )
    twins = {reason: {number: 0 for number, why in chosen.items() if why == reason} for reason in reasons}
    found = repeated_by_piece([{"documents": size} for size in sizes], twins)
    expected: list[dict[str, int]] = [{} for _ in sizes]
    for number, reason in chosen.items():
        piece = next(place for place in range(len(sizes)) if number < sum(sizes[: place + 1]))
        expected[piece][reason] = expected[piece].get(reason, 0) + 1
    assert found == expected


def index(**changes: Any) -> dict[str, Any]:
    return {
        "digest": "sha256:00",
        "recipe": {"rules": "Gopher", "threshold": 0.8},
        "read": 1234567,
        "documents": 1000000,
        "bytes": 5,
        "dropped": {"NotEnglish": 4},
        "sources": [{"name": "a & b", "read": 7, "documents": 3, "bytes": 5}],
        "shown": {"NotEnglish": [{"place": "a@0", "text": "<i>"}]},
        **changes,
    }


@pytest.mark.parametrize(
    "said",
    [
        "1,234,567 rows read",
        "<b>1,000,000 documents</b>",
        "Rules: Gopher",
        "from a resemblance of 0.8",
        "<td>a &amp; b</td>",
        "documents with fewer than two of the words",
        "<pre>&lt;i&gt;</pre>",
        "<code>sha256:00</code>",
    ],
)
def test_the_page_shows_the_index(said: str) -> None:
    assert said in datasheet.page(index())


def test_the_page_says_when_near_repetitions_were_not_looked_for() -> None:
    page = datasheet.page(index(recipe={"rules": "None", "threshold": None}))
    assert "Near repetitions: not looked for" in page


def test_the_page_is_one_file_without_anything_from_elsewhere() -> None:
    page = datasheet.page(index())
    assert (
        "http" not in page
        and "src=" not in page
        and "<link" not in page
        and page.startswith("<!doctype html>")
    )


def test_every_reason_of_the_stage_is_explained() -> None:
    assert set(datasheet.reasons("None")) == {
        "NotUTF8",
        "NotJSON",
        "NoText",
        "LineTooLong",
        "Empty",
        "ExactDuplicate",
        "NearDuplicate",
    }
    assert set(datasheet.reasons("Gopher")) > set(datasheet.reasons("None"))
