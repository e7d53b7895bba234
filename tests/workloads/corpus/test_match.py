"""Matching: candidates found as a plain search finds them, and dropped only for what truly was there before."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus import flat, match
from windlass_workloads.corpus.match import Library, Shingled, Signed, Union, Verify, pairs
from windlass_workloads.corpus.minhash import Bands
from windlass_workloads.corpus.sign import exact_keys
from windlass_workloads.corpus.tasks import perform
from windlass_workloads.corpus.words import shingles
from workloads.corpus.texts import jaccard, near, text

BANDS = Bands.for_threshold(0.8)


def signed(root: Path, texts: list[str], pieces: int = 3, bands: Bands = BANDS) -> Signed:
    """Documents as the first stage leaves them, in so many pieces."""
    parts = np.array_split(np.arange(len(texts)), pieces)
    directories = []
    for number, part in enumerate(parts):
        directory = root / f"sign-{number}"
        directory.mkdir(parents=True)
        mine = [texts[place] for place in part]
        writer = flat.Writer(directory)
        if mine:
            raw = [one.encode() for one in mine]
            writer.add(raw, [f"place {place}" for place in part], exact_keys(raw), bands.keys(shingles(mine)))
        writer.close()
        directories.append(directory)
    return Signed(tuple(directories), (0, *np.cumsum([len(part) for part in parts]).tolist()), bands)


def repeats(root: Path, documents: Signed, threshold: float = 0.8) -> tuple[dict[int, int], dict[int, int]]:
    """What both ways of matching find."""
    exact = match.exact_repeats(documents)
    groups = match.candidate_groups(documents, list(exact))
    found: dict[int, int] = {}
    with Library(documents) as library:
        for number, share in enumerate(match.shared_out(groups, library)):
            task = Verify(root / f"verify-{number}", documents, tuple(map(tuple, share)), threshold)
            perform(task)
            found |= match.twins_of(task)
    return exact, found


# --- groups ----------------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25)


@settings(max_examples=200, deadline=None)
@given(st.lists(PAIRS, max_size=4))
def test_groups_are_what_pairs_connect(turns: list[list[tuple[int, int]]]) -> None:
    union = Union(20)
    naive = {number: {number} for number in range(20)}
    for turn in turns:
        union.join(*(np.asarray([pair[side] for pair in turn], dtype=np.int64) for side in (0, 1)))
        for one, other in turn:
            joined = naive[one] | naive[other]
            for member in joined:
                naive[member] = joined
    assert union.firsts.tolist() == [min(naive[number]) for number in range(20)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30))
def test_pairs_are_the_first_with_a_key_and_each_other(keys: list[tuple[int, int]]) -> None:
    firsts, others = pairs(np.asarray(keys, dtype=np.uint64).reshape(-1, 2), np.arange(len(keys)) + 100)
    seen: dict[tuple[int, int], int] = {}
    expected = []
    for number, key in enumerate(keys):
        first = seen.setdefault(key, number + 100)
        if first != number + 100:
            expected.append((first, number + 100))
    assert sorted(zip(firsts.tolist(), others.tolist(), strict=True)) == sorted(expected)


@pytest.mark.parametrize("part_rows", [3, 7, 1 << 19])
def test_the_same_is_found_in_parts(tmp_path: Path, part_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text(60, seed % 11) for seed in range(40)]
    documents = signed(tmp_path / "in", texts, pieces=4)
    whole = match.exact_repeats(documents)
    monkeypatch.setattr(match, "PART_ROWS", part_rows)
    assert match.exact_repeats(documents) == whole == {place: place % 11 for place in range(11, 40)}
    assert match.candidate_groups(documents, []) == [list(range(first, 40, 11)) for first in range(11)]
    assert match.candidate_groups(documents, list(whole)) == []


def test_what_is_dropped_already_is_no_candidate(tmp_path: Path) -> None:
    one = text(80, 1)
    documents = signed(tmp_path, [one, one, near(one, 1)])
    assert match.candidate_groups(documents, []) == [[0, 1, 2]]
    assert match.candidate_groups(documents, [0]) == [[1, 2]]
    assert match.candidate_groups(documents, [0, 2]) == []


def test_documents_without_words_match_nothing(tmp_path: Path) -> None:
    documents = signed(tmp_path, ["...", "!!!", "???", "one", "two"])
    exact, found = repeats(tmp_path / "out", documents)
    assert exact == found == {} and match.candidate_groups(documents, []) == []


def test_groups_are_shared_out_by_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text(100, seed // 2) for seed in range(20)]
    documents = signed(tmp_path, texts)
    groups = match.candidate_groups(documents, [])
    with Library(documents) as library:
        assert match.shared_out(groups, library) == [groups]
        monkeypatch.setattr(match, "TASK_BYTES", 1500)
        shares = match.shared_out(groups, library)
        assert [group for share in shares for group in share] == groups and 4 <= len(shares) <= 10
        monkeypatch.setattr(match, "TASK_BYTES", 1)
        assert match.shared_out(groups, library) == [[group] for group in groups]
        assert match.shared_out([], library) == []


# --- verifying -------------------------------------------------------------------------------------


def brute(texts: list[str], threshold: float) -> dict[int, int]:
    """Each document compared with all earlier ones that stay."""
    staying: list[int] = []
    found: dict[int, int] = {}
    for number, one in enumerate(texts):
        twin = next((other for other in staying if jaccard(texts[other], one) >= threshold), None)
        if twin is None:
            staying.append(number)
        else:
            found[number] = twin
    return found


def corpus(count: int, chance: random.Random) -> list[str]:
    """New texts, the same ones again, and ones that are changed a little or a lot."""
    made: list[str] = []
    for number in range(count):
        kind = chance.random()
        if not made or kind < 0.5:
            made.append(text(chance.randint(40, 300), 10_000 + number))
        elif kind < 0.6:
            made.append(chance.choice(made))
        else:
            made.append(near(chance.choice(made), chance.randint(1, 12), number))
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_what_is_dropped_is_what_a_plain_search_would_drop(
    tmp_path: Path, seed: int, threshold: float
) -> None:
    texts = corpus(300, random.Random(seed))
    documents = signed(tmp_path / "in", texts, 5, Bands.for_threshold(threshold))
    exact, found = repeats(tmp_path / "out", documents, threshold)
    assert all(texts[one] == texts[other] for one, other in exact.items())
    wrong = {one: other for one, other in found.items() if jaccard(texts[one], texts[other]) < threshold}
    assert wrong == {}, "nothing is dropped that was not there before"
    expected = brute(texts, threshold)
    dropped = set(exact) | set(found)
    missed = set(expected) - dropped
    assert len(missed) <= max(2, 0.02 * len(expected)), f"missed {len(missed)} of {len(expected)}"
    # The other way round: who is dropped for one that a plain search drops itself may not be among its finds.
    assert len(dropped - set(expected)) <= max(2, 0.02 * len(expected))


def test_what_is_dropped_repeats_one_that_stays(tmp_path: Path) -> None:
    """Resemblance does not carry over: of a chain of small changes the far ends are different texts."""
    chain = [text(200, 1)]
    for number in range(12):
        words = chain[-1].split()
        words[number * 16] = f"changed{number}"
        chain.append(" ".join(words))
    documents = signed(tmp_path / "in", chain)
    _, found = repeats(tmp_path / "out", documents)
    staying = set(range(len(chain))) - set(found)
    assert set(found.values()) <= staying and len(staying) > 1
    assert all(jaccard(chain[one], chain[other]) >= 0.8 for one, other in found.items())
    assert jaccard(chain[0], chain[-1]) < 0.8


@pytest.mark.parametrize("pieces", [2, 7, 30])
def test_the_result_does_not_depend_on_pieces(tmp_path: Path, pieces: int) -> None:
    texts = corpus(60, random.Random(9))
    one, other = (signed(tmp_path / f"{count}", texts, count) for count in (1, pieces))
    assert repeats(tmp_path / "a", one) == repeats(tmp_path / "b", other)


def test_a_document_is_compared_with_so_many_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(Shingled, "resemble", lambda self, one, other: asked.append((one, other)) or 0.0)
    documents = signed(tmp_path / "in", [near(text(300, 1), 1, seed) for seed in range(12)])
    monkeypatch.setattr(match, "MOST_COMPARED", 3)
    repeats(tmp_path / "out", documents)
    compared: dict[int, list[int]] = defaultdict(list)
    for one, other in asked:
        compared[other].append(one)
    assert max(map(len, compared.values())) == 3


def test_a_phrase_that_goes_round_hides_no_repetition(tmp_path: Path) -> None:
    """Pages of one site share a text around what is theirs: each resembles all others, and its copy much more."""
    frame = text(120, 1)
    pages = [f"{frame} {text(40, 100 + number)}" for number in range(400)]
    copies = [near(page, 1, number) for number, page in enumerate(pages[300:])]
    assert 0.5 < jaccard(pages[0], pages[1]) < 0.8 <= jaccard(pages[300], copies[0])
    _, found = repeats(tmp_path / "out", signed(tmp_path / "in", [*pages, *copies], 4))
    assert len(found) >= 98, f"found {len(found)} of 100"
    assert all(twin == number - 100 for number, twin in found.items())


def test_few_are_remembered_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What many documents share must not take more and more memory and time."""
    looked: list[int] = []
    counter = match.Counter
    monkeypatch.setattr(
        match, "Counter", lambda all_of: (looked.append(len(made := list(all_of))), counter(made))[1]
    )
    monkeypatch.setattr(Shingled, "resemble", lambda *_: 0.0)
    monkeypatch.setattr(match, "MOST_COMPARED", 5)
    repeats(tmp_path / "out", signed(tmp_path / "in", [near(text(300, 1), 1, seed) for seed in range(30)]))
    assert max(looked) <= 5 * BANDS.bands and len(looked) == 30


@pytest.mark.parametrize("most", [0, 1000, 1 << 25])
def test_shingles_that_were_forgotten_are_made_again(tmp_path: Path, most: int) -> None:
    texts = [text(80, seed) for seed in range(6)]
    with Library(signed(tmp_path, texts)) as library:
        known = Shingled(library, most)
        for _ in range(2):
            for number, one in enumerate(texts):
                assert known.of(number).tolist() == sorted(set(shingles([one])[0].tolist()))
        kept = len(known._known)
        assert known._bytes == sum(one.nbytes for one in known._known.values())
        assert kept == (6 if most > 10_000 else 1)


def test_no_more_pieces_are_open_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text(20, seed) for seed in range(9)]
    monkeypatch.setattr(match, "MOST_OPEN", 2)
    with Library(signed(tmp_path, texts, pieces=9)) as library:
        for number in [0, 1, 2, 0, 8, 8, 3, 0]:
            reader, row = library.at(number)
            assert reader.text(row) == texts[number] and len(library._open) <= 2
        left = list(library._open.values())
    assert all(reader._files == {} for reader in left)


# --- files -----------------------------------------------------------------------------------------


def test_flat_files_give_back_what_went_in(tmp_path: Path) -> None:
    texts = ["plain", "é字😀", "", "two\nlines"]
    documents = signed(tmp_path, texts, pieces=1)
    with flat.Reader(documents.directories[0], BANDS.bands) as reader:
        assert len(reader) == 4 and [reader.text(row) for row in range(4)] == texts
        assert [reader.size(row) for row in range(4)] == [len(one.encode()) for one in texts]
        assert reader.places() == [f"place {row}" for row in range(4)]
        keys = BANDS.keys(shingles(texts))
        assert all(np.array_equal(reader.keys(row), keys[row]) for row in range(4))


def test_a_table_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "ROWS", 4)
    table: Any = np.arange(30, dtype=np.uint64).reshape(10, 3)
    table.tofile(tmp_path / "table.bin")
    parts = list(flat.columns(tmp_path / "table.bin", 3))
    assert [len(part) for part in parts] == [4, 4, 2] and np.array_equal(np.concatenate(parts), table)
    (tmp_path / "none.bin").touch()
    assert list(flat.columns(tmp_path / "none.bin", 3)) == []
