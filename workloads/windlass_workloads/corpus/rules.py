"""Rules by which documents are dropped for what they look like, each with its reason.

The numbers are those of Gopher's quality filter (Rae et al. 2021, arXiv:2112.11446, appendix A1), which much published
work on corpora repeats. `docs/concepts/corpus.md` lists them from this table. Written for texts whose words have spaces
between them: in others use no rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

BULLETS: Final = ("-", "*", "•", "‣", "●")
ELLIPSES: Final = ("...", "…")
SYMBOLS: Final = re.compile(r"#|\.\.\.|…")
FREQUENT: Final = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


class Look:
    """A document as rules look at it; each measure is taken once, when it is asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """What stands between spaces."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between empty lines."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]

    @cached_property
    def mean_word(self) -> float:
        """Letters of a word, on average."""
        return sum(map(len, self.words)) / max(1, len(self.words))

    @cached_property
    def symbols(self) -> float:
        """Hashes and ellipses for each word."""
        return len(SYMBOLS.findall(self.text)) / max(1, len(self.words))

    @cached_property
    def lettered(self) -> float:
        """Share of words with a letter."""
        return share(any(map(str.isalpha, word)) for word in self.words)

    @cached_property
    def frequent(self) -> int:
        """How many of the most frequent English words occur."""
        return len(FREQUENT & {word.strip(".,;:!?\"'()").lower() for word in self.words})


def share(found: Iterable[bool]) -> float:
    """Which part of what was asked is true; 0 of nothing."""
    answers = list(found)
    return sum(answers) / max(1, len(answers))


def repeated(parts: list[str]) -> float:
    """Share of letters in parts that occurred before."""
    counted = Counter(parts)
    letters = sum(map(len, parts))
    return sum(len(part) * (count - 1) for part, count in counted.items()) / max(1, letters)


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason to drop a document."""

    name: str
    drops: str
    """Which documents, in words that follow on from `drops documents`."""
    matches: Callable[[Look], bool]


GOPHER: Final = (
    Rule("TooFewWords", "of fewer than 50 words", lambda look: len(look.words) < 50),
    Rule("TooManyWords", "of more than 100 000 words", lambda look: len(look.words) > 100_000),
    Rule(
        "WordLength",
        "whose words have fewer than 3 or more than 10 letters on average",
        lambda look: not 3 <= look.mean_word <= 10,
    ),
    Rule("Symbols", "with more than one # or ellipsis for ten words", lambda look: look.symbols > 0.1),
    Rule(
        "BulletLines",
        "of which more than 90 % of the lines begin with a bullet",
        lambda look: share(line.startswith(BULLETS) for line in look.lines) > 0.9,
    ),
    Rule(
        "EllipsisLines",
        "of which more than 30 % of the lines end with an ellipsis",
        lambda look: share(line.endswith(ELLIPSES) for line in look.lines) > 0.3,
    ),
    Rule(
        "FewLetters", "of which fewer than 80 % of the words hold a letter", lambda look: look.lettered < 0.8
    ),
    Rule(
        "NotEnglish",
        "with fewer than two of the words " + ", ".join(sorted(FREQUENT)),
        lambda look: look.frequent < 2,
    ),
    Rule(
        "RepeatedLines",
        "of which 20 % of the letters or more are lines that occurred before",
        lambda look: repeated(look.lines) >= 0.2,
    ),
    Rule(
        "RepeatedParagraphs",
        "of which 20 % of the letters or more are paragraphs that occurred before",
        lambda look: repeated(look.paragraphs) >= 0.2,
    ),
)

SETS: Final[dict[str, tuple[Rule, ...]]] = {"None": (), "Gopher": GOPHER}


def dropped_by(text: str, rules: tuple[Rule, ...]) -> str | None:
    """The name of the first rule that drops a text, None if it stays."""
    look = Look(text)
    return next((rule.name for rule in rules if rule.matches(look)), None)
