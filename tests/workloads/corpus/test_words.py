"""Words and shingles: what counts as a word, and that a number stands for the same run of words for ever."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus import words as module
from windlass_workloads.corpus.words import kinds, mixed, numbers, shingles, words

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=6)
PLAIN = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aa", "7"]), max_size=12).map(" ".join)


def spelled(text: str) -> list[str]:
    """The words of a text by the definition, one letter after another."""
    found: list[str] = []
    before = ""
    for letter in text.lower():
        alone = any(first <= ord(letter) <= last for first, last in module.WITHOUT_SPACES)
        if unicodedata.category(letter)[0] not in "LMN":
            before = ""
            continue
        if alone or before in ("", "alone"):
            found.append(letter)
        else:
            found[-1] += letter
        before = "alone" if alone else "in a word"
    return found


def runs(text: str, size: int = 5) -> list[tuple[str, ...]]:
    """The shingles of a text by the definition."""
    found = spelled(text)
    if len(found) < size:
        return [tuple(found)] if found else []
    return [tuple(found[place : place + size]) for place in range(len(found) - size + 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The cat sat.", "the CAT, sat!"),
        ("naïve café", "NAÏVE  café"),
        ("one\ntwo\tthree", "one two three"),
        ("a-b", "a b"),
        ("x 1 y", "x (1) y"),
        ("中文 字", "中文字"),
        ("abc中", "abc 中"),
        ("สวัสดี", "ส ว ั ส ด ี"),
    ],
)
def test_case_punctuation_and_space_do_not_count(one: str, other: str) -> None:
    assert np.array_equal(words([one])[0], words([other])[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ab", "ba"),
        ("a b", "ab"),
        ("a b", "b a"),
        ("1", "2"),
        ("cafe", "café"),
        ("字文", "文字"),
        ("aa", "a"),
    ],
)
def test_other_words_have_other_numbers(one: str, other: str) -> None:
    assert not np.array_equal(words([one])[0], words([other])[0])


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_words_are_those_of_the_definition(texts: list[str]) -> None:
    hashes, bounds = words(texts)
    assert len(bounds) == len(texts) + 1 and bounds[0] == 0 and bounds[-1] == len(hashes)
    for number, text in enumerate(texts):
        assert bounds[number + 1] - bounds[number] == len(spelled(text))


@settings(max_examples=150, deadline=None)
@given(st.lists(PLAIN, max_size=5))
def test_two_shingles_are_equal_if_and_only_if_their_words_are(texts: list[str]) -> None:
    found = [
        (int(value), run)
        for one, text in zip(shingles(texts), texts, strict=True)
        for value, run in zip(one.tolist(), runs(text), strict=True)
    ]
    by_run = {run: value for value, run in found}
    assert all(by_run[run] == value for value, run in found)
    assert len(set(by_run.values())) == len(by_run)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_a_text_has_the_same_shingles_in_any_company(texts: list[str]) -> None:
    for text, together in zip(texts, shingles(texts), strict=True):
        assert np.array_equal(shingles([text])[0], together)


def test_numbers_stay_what_they_are() -> None:
    """Written down once: a corpus that was signed by an older release is compared with these."""
    assert [hex(value) for value in words(["Hello, world 7"])[0].tolist()] == GOLDEN_WORDS
    assert [hex(value) for value in shingles(["a b c d e f"])[0].tolist()] == GOLDEN_SHINGLES


GOLDEN_WORDS = ["0xce9fd1dbae5ea42c", "0xd90e2d43c3590678", "0x28974815505817e1"]
GOLDEN_SHINGLES = ["0xe3d7e24b024cceaf", "0x5cca3a7bb925cac9"]


def test_nothing_has_no_words() -> None:
    assert shingles([]) == []
    assert [len(one) for one in shingles(["", " ", "... !", "\n\n"])] == [0, 0, 0, 0]
    hashes, bounds = words(["", "a", "", "b c"])
    assert len(hashes) == 3 and bounds.tolist() == [0, 0, 1, 1, 3]


def test_long_words_differ_by_each_letter_and_by_length() -> None:
    long = "x" * 300
    others = [long[:-1], long + "x", "y" + long[1:], long[:150] + "y" + long[151:]]
    # The same letters in the same places of other parts of 64.
    halves = ["a" * 64 + "b" * 64, "b" * 64 + "a" * 64]
    values = {int(words([one])[0][0]) for one in [long, *others, *halves]}
    assert len(values) == 7


def test_kinds_cover_all_code_points() -> None:
    table = kinds()
    assert len(table) == 0x110000 and set(np.unique(table).tolist()) == {0, 1, 2}
    assert [int(table[ord(letter)]) for letter in "aé7 .字ก\n"] == [1, 1, 1, 0, 0, 2, 2, 0]


def test_factors_are_odd_and_differ_by_purpose() -> None:
    one, other = numbers(64, "letters"), numbers(64, "shingles")
    assert (one & np.uint64(1)).all() and len(set(one.tolist())) == 64
    assert not set(one.tolist()) & set(other.tolist())


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=20, unique=True))
def test_mixing_loses_nothing(values: list[int]) -> None:
    assert len(set(mixed(np.asarray(values, dtype=np.uint64)).tolist())) == len(values)
