"""Each rule with documents on both sides of its number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass_workloads.corpus.rules import FREQUENT, GOPHER, SETS, Look, dropped_by, repeated, share

SENTENCE = "The miller and the baker have walked to the old river that runs with water of spring {}."
GOOD = "\n\n".join(SENTENCE.format(name) for name in ("one", "two", "three", "four", "five"))


def filled(words: list[str], count: int = 60) -> str:
    """These words, and enough good ones around them."""
    return " ".join([*words, *(["the", "and", "walked", "river"] * count)[: count - len(words)]])


RULES = {rule.name: rule for rule in GOPHER}
CASES: dict[str, tuple[str, str]] = {
    # rule: (one that it drops, one that it just lets pass)
    "TooFewWords": ("the and " * 24 + "river", "the and " * 25),
    "TooManyWords": ("the and " * 50_000 + "river", "the and " * 50_000),
    "WordLength": ("it an " * 30, "the and " * 30),
    "Symbols": (filled(["#"] * 7, 60), filled(["#"] * 6, 60)),
    "BulletLines": ("\n".join(["- the and"] * 10), "\n".join(["- the and"] * 9 + ["the and"])),
    "EllipsisLines": ("\n".join(["the and..."] * 4 + ["the"] * 6), "\n".join(["the and…"] * 3 + ["the"] * 7)),
    "FewLetters": ("the 1 " * 30, "the and was had 1 " * 20),
    "NotEnglish": ("the river " * 30, "the and river " * 30),
    "RepeatedLines": ("aaaa\naaaa\nbbbb\ncccc\ndddd", "aaaa\naaaa\nbbbb\ncccc\ndddd\neeee"),
    "RepeatedParagraphs": (
        "aaaa\n\naaaa\n\nbbbb\n\ncccc\n\ndddd",
        "aaaa\n\naaaa\n\nbbbb\n\ncccc\n\ndddd\n\neeee",
    ),
}


def test_every_rule_has_its_case() -> None:
    assert set(CASES) == set(RULES) and len(RULES) == len(GOPHER)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_rule_drops_beyond_its_number_and_not_before(name: str) -> None:
    dropped, passed = CASES[name]
    assert RULES[name].matches(Look(dropped)) and not RULES[name].matches(Look(passed))


def test_a_plain_text_passes_all_rules() -> None:
    assert dropped_by(GOOD, GOPHER) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CASES["TooFewWords"][0], "TooFewWords"),
        ("zz " * 60, "WordLength"),
        (filled(["#tag"] * 10), "Symbols"),
        ("1234 " * 60, "FewLetters"),
        ("lorem ipsum dolor " * 20, "NotEnglish"),
        ("\n".join([SENTENCE.format("same")] * 8), "RepeatedLines"),
        ("", "TooFewWords"),
    ],
)
def test_the_first_rule_that_matches_gives_the_reason(text: str, reason: str) -> None:
    assert dropped_by(text, GOPHER) == reason


def test_no_rules_drop_nothing() -> None:
    assert SETS["None"] == () and dropped_by("", SETS["None"]) is None


def test_each_rule_says_what_it_drops() -> None:
    assert all(rule.drops and rule.drops[0].islower() and not rule.drops.endswith(".") for rule in GOPHER)
    assert all(word in RULES["NotEnglish"].drops for word in FREQUENT)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_every_measure_is_a_number_for_every_text(text: str) -> None:
    look = Look(text)
    assert 0 <= look.lettered <= 1 and look.mean_word >= 0 and look.symbols >= 0 and 0 <= look.frequent <= 8
    assert 0 <= repeated(look.lines) <= 1 and 0 <= repeated(look.paragraphs) <= 1
    dropped_by(text, GOPHER)


@pytest.mark.parametrize(("answers", "part"), [([], 0.0), ([True], 1.0), ([True, False, False, False], 0.25)])
def test_a_share_of_nothing_is_nothing(answers: list[bool], part: float) -> None:
    assert share(answers) == part


@pytest.mark.parametrize(("parts", "part"), [([], 0.0), (["a", "b"], 0.0), (["ab", "ab", "c", "d"], 2 / 6)])
def test_repeated_counts_letters_of_what_was_there_before(parts: list[str], part: float) -> None:
    assert repeated(parts) == pytest.approx(part)
