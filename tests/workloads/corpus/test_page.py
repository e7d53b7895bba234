"""docs/concepts/corpus.md says what the tables of the code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from windlass_workloads.corpus import __main__ as command
from windlass_workloads.corpus import match, minhash, read, stages, words
from windlass_workloads.corpus.datasheet import reasons
from windlass_workloads.data.read import Limits

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "concepts" / "corpus.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    """A table of the page by its first column."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", table, re.MULTILINE))


def test_every_reason_is_explained_as_the_datasheet_explains_it() -> None:
    assert rows("Reason") == reasons("Gopher")


def test_every_option_is_there() -> None:
    options = {option for option in command.arguments(["x", "--output", "y"]).__dict__ if option != "files"}
    assert {name.removeprefix("--") for name in rows("Option")} | {"output"} == options


@pytest.mark.parametrize(
    "said",
    [
        f"{stages.THRESHOLD} if left out",
        f"the {match.MOST_COMPARED} earlier ones",
        f"one in a {'hundred' if minhash.MISSED == 0.01 else '?'}",
        f"runs of {'five' if words.SHINGLE_WORDS == 5 else '?'} words",
        f"({Limits().row_bytes >> 20} MiB; longer ones",
        *(f"`{kind}`" for kind in (*read.KINDS, *read.COMPRESSIONS)),
        "`corpus.json`",
        "`datasheet.html`",
    ],
)
def test_numbers_and_names_are_those_of_the_code(said: str) -> None:
    assert said in PAGE


def test_every_file_of_a_corpus_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    made = stages.make(stages.Recipe((read.Source(tmp_path / "a.jsonl", "x"),)), tmp_path / "out")
    assert all(f"`{path.name}`" in PAGE for path in made.iterdir())
