"""Rows out of a long text of tokens: each source's tokens in order, cut to one length, with tables that fit them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.data import rows
from windlass_workloads.data.arrays import FILES, Split, open_split
from windlass_workloads.data.rows import Rows, Written, all_but_first, write_rows

settings.register_profile("windlass", deadline=None)
settings.load_profile("windlass")

SIZES = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=4)
"""Tokens of each file of each source."""


def write_sources(root: Path, sizes: list[list[int]]) -> tuple[list[list[Path]], list[list[int]]]:
    """Files of tokens that are all different, and the same as one list for each source."""
    paths: list[list[Path]] = []
    texts: list[list[int]] = []
    number = 0
    for place, files in enumerate(sizes):
        paths.append([])
        texts.append([])
        for part, size in enumerate(files):
            tokens = list(range(number, number + size))
            number += size
            path = root / f"{place}-{part}.bin"
            path.write_bytes(np.asarray(tokens, dtype=np.int32).tobytes())
            paths[-1].append(path)
            texts[-1] += tokens
    return paths, texts


def units_of(split: Split) -> list[tuple[list[int], list[bool]]]:
    found = []
    for unit in range(len(split)):
        ((tokens, learned),) = split.samples_of(unit)
        found.append((tokens.tolist(), learned.tolist()))
    return found


def odd_tokens(found: Rows) -> npt.NDArray[np.int64]:
    counted: npt.NDArray[np.int64] = (found % 2).sum(axis=1)
    return counted


@given(SIZES, st.integers(1, 17), st.integers(1, 60))
def test_rows_are_the_tokens_of_each_source_in_order_cut_to_length(
    sizes: list[list[int]], length: int, block: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        root = Path(directory)
        paths, texts = write_sources(root, sizes)
        patch.setattr(rows, "BLOCK_TOKENS", block)
        patch.setattr(rows, "COPY_BYTES", 4 * block)
        written = write_rows(root / "split", paths, length, odd_tokens)
        split = open_split(root / "split")
        wanted = [
            text[first : first + length]
            for text in texts
            for first in range(0, len(text) - length + 1, length)
        ]
        assert units_of(split) == [(row, [True] * length) for row in wanted]
        assert written == Written(
            [len(text) // length for text in texts], [len(text) % length for text in texts]
        )
        assert split.unit_lengths.tolist() == [length] * len(wanted)
        assert split.unit_targets.tolist() == [sum(token % 2 for token in row) for row in wanted]
        assert sum(written.parts) == len(split) == len(wanted)


@pytest.mark.parametrize(("length", "most"), [(8, 128), (100, 10), (1024, 1), (4096, 1)])
def test_what_is_looked_at_together_does_not_grow_with_text_or_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, most: int
) -> None:
    shapes = []

    def targets(found: Rows) -> npt.NDArray[np.int64]:
        shapes.append(found.shape)
        return all_but_first(found)

    monkeypatch.setattr(rows, "BLOCK_TOKENS", 1024)
    paths, _ = write_sources(tmp_path, [[50_000]])
    written = write_rows(tmp_path / "split", paths, length, targets)
    assert sum(count for count, _ in shapes) == written.parts[0] == 50_000 // length
    assert {width for _, width in shapes} == {length}
    assert max(count for count, _ in shapes) == most


def test_nothing_is_written_of_what_is_learned(tmp_path: Path) -> None:
    paths, _ = write_sources(tmp_path, [[64]])
    write_rows(tmp_path / "split", paths, 8, all_but_first)
    assert sorted(path.name for path in (tmp_path / "split").iterdir()) == sorted(
        f"{name}.bin" for name in FILES
    )
    assert (tmp_path / "split" / "learned.bin").stat().st_size == 0
    split = open_split(tmp_path / "split")
    assert split.learned.shape == (64,) and split.learned.strides == (0,) and bool(split.learned.all())
    assert split.unit_targets.tolist() == [7] * 8


def test_texts_that_fill_no_row_make_an_empty_split(tmp_path: Path) -> None:
    paths, _ = write_sources(tmp_path, [[7, 0], []])
    assert write_rows(tmp_path / "split", paths, 8, all_but_first) == Written([0, 0], [7, 0])
    split = open_split(tmp_path / "split")
    assert len(split) == 0 and split.tokens.shape == split.learned.shape == (0,)


def test_a_split_is_not_written_into_a_directory_that_somebody_has_removed(tmp_path: Path) -> None:
    paths, _ = write_sources(tmp_path, [[64]])
    with pytest.raises(FileNotFoundError):
        write_rows(tmp_path / "removed" / "validation", paths, 8, all_but_first)
    assert not (tmp_path / "removed").exists()
