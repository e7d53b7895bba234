"""Cleaning: equal texts become the same letters, and nothing that carries meaning goes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus.clean import clean
from windlass_workloads.corpus.words import words


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("plain", "plain"),
        ("  space around \n", "space around"),
        ("one\r\ntwo\rthree\x85four\u2028five\u2029six", "one\ntwo\nthree\nfour\nfive\nsix"),
        ("line ends \t\n  next", "line ends\n  next"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("a \n \n \n \n \nb", "a\n\n\nb"),
        ("cafe\u0301", "café"),
        ("\ufeffmark of order", "mark of order"),
        ("nu\x00ll and \x1b[31mcolour", "null and [31mcolour"),
        ("tab\tstays", "tab\tstays"),
        ("soft\u00adhyphen and\u200djoiner stay", "soft\u00adhyphen and\u200djoiner stay"),
        ("ﬁ stays a ligature", "ﬁ stays a ligature"),
        (
            "page one\x0cpage two\x0bthree\x1cfour\x1dfive\x1esix",
            "page one\npage two\nthree\nfour\nfive\nsix",
        ),
        ("e\x00\u0301", "é"),
        ("", ""),
        (" \n\t ", ""),
        ("\x00\x01", ""),
    ],
)
def test_a_text_is_cleaned(given: str, made: str) -> None:
    assert clean(given) == made


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("e\u0301\x00\x0c\r\n \t"), max_size=80))
@example("e\x00\u0301")
@example("a \x00\nb")
@example("a\n\n\x00\n\n\nb")
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", categories=("L", "M", "N", "P", "Zs")), max_size=80))
def test_no_word_is_lost(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert words([clean(text)])[0].tolist() == words([composed])[0].tolist()
