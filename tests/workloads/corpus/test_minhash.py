"""MinHash: that documents share keys as often as theory says, and that what is compared is Jaccard's measure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus.minhash import (
    CHUNK,
    MISSED,
    NOTHING,
    Bands,
    candidate_probability,
    resemblance,
)
from windlass_workloads.corpus.words import Hashes, shingles
from workloads.corpus.texts import jaccard, near, text

PAIRS = 1200


def pair(share: float, chance: np.random.Generator, size: int = 400) -> tuple[Hashes, Hashes]:
    """Two sets of shingles of the same size that resemble each other by this much."""
    common = round(2 * size * share / (1 + share))
    drawn = chance.integers(0, 2**64, size=2 * size - common, dtype=np.uint64)
    return drawn[:size], drawn[size - common :]


@pytest.mark.parametrize(
    ("threshold", "bands", "rows"),
    [(0.5, 35, 3), (0.6, 19, 3), (0.7, 17, 4), (0.8, 16, 6), (0.85, 15, 8), (0.9, 9, 8)],
)
def test_bands_follow_from_the_threshold(threshold: float, bands: int, rows: int) -> None:
    made = Bands.for_threshold(threshold)
    assert (made.bands, made.rows) == (bands, rows) and made.minima <= 128
    assert candidate_probability(threshold, bands, rows) >= 1 - MISSED


@pytest.mark.parametrize("threshold", [0.3, 0.41, 0.55, 0.66, 0.77, 0.95, 1.0])
def test_longer_bands_would_miss_more(threshold: float) -> None:
    made = Bands.for_threshold(threshold)
    assert candidate_probability(threshold, made.bands, made.rows) >= 1 - MISSED
    if made.rows < 8:
        most = 128 // (made.rows + 1)
        assert candidate_probability(threshold, most, made.rows + 1) < 1 - MISSED


def test_a_threshold_that_nothing_can_find_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold: is too low .*got 0\.001"):
        Bands.for_threshold(0.001)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.8, 0.9])
def test_minima_agree_and_keys_meet_as_theory_says(share: float) -> None:
    chance, bands = np.random.default_rng(17), Bands.for_threshold(0.8)
    pairs = [pair(share, chance) for _ in range(PAIRS)]
    ones, others = ([one[side] for one in pairs] for side in (0, 1))
    agree = (bands.signatures(ones) == bands.signatures(others)).mean()
    # Minima of a pair are not independent of each other; of different pairs they are.
    assert agree == pytest.approx(share, abs=0.01)
    met = (bands.keys(ones) == bands.keys(others)).any(axis=1).mean()
    expected = candidate_probability(share, bands.bands, bands.rows)
    assert met == pytest.approx(expected, abs=4 * (expected * (1 - expected) / PAIRS) ** 0.5 + 0.005)


def test_each_permutation_is_one_of_its_own() -> None:
    bands = Bands(16, 8)
    factors, shifts = bands._permutations
    assert len(set(factors.tolist())) == len(set(shifts.tolist())) == 128 and (factors % 2 == 1).all()


def test_keys_of_a_document_do_not_depend_on_its_company_or_on_chunks() -> None:
    bands = Bands.for_threshold(0.8)
    documents = shingles([text(words, words) for words in (3, 40, CHUNK, CHUNK + 4, 3 * CHUNK + 11)])
    together = bands.keys(documents)
    for number, document in enumerate(documents):
        assert np.array_equal(bands.keys([document])[0], together[number])
    turned = bands.keys([document[::-1] for document in documents])
    assert np.array_equal(turned, together), "a set has no order"


def test_a_document_without_words_has_the_key_that_matches_nothing() -> None:
    bands = Bands(4, 2)
    keys = bands.keys(shingles(["", "one", "..."]))
    assert (keys[0] == NOTHING).all() and (keys[2] == NOTHING).all() and (keys[1] != NOTHING).all()


def test_keys_of_different_bands_never_agree() -> None:
    keys = Bands(35, 3).keys(shingles([text(80, seed) for seed in range(40)]))
    for row in keys:
        assert len(set(row.tolist())) == 35


def test_keys_stay_what_they_are() -> None:
    keys = Bands(3, 2).keys(shingles(["the quick brown fox jumps over the lazy dog"]))
    assert [hex(value) for value in keys[0].tolist()] == GOLDEN


GOLDEN = ["0xa0b2b97470b54625", "0xbfd4ce2e9c7cbb93", "0xebda30540751c613"]

SETS = st.sets(st.integers(0, 40), max_size=20)


@settings(max_examples=200, deadline=None)
@given(SETS, SETS)
def test_resemblance_is_the_measure_of_jaccard(one: set[int], other: set[int]) -> None:
    found = resemblance(*(np.asarray(sorted(each), dtype=np.uint64) for each in (one, other)))
    assert found == pytest.approx(len(one & other) / len(one | other) if one and other else 0.0)


@pytest.mark.parametrize("changed", [0, 1, 3, 8, 20])
def test_texts_resemble_each_other_by_their_runs_of_words(changed: int) -> None:
    one = text(300, 5)
    other = near(one, changed)
    sets = [np.unique(each) for each in shingles([one, other])]
    assert resemblance(*sets) == pytest.approx(jaccard(one, other))
