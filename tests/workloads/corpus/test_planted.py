"""The text of `make bench-data`: what is planted is what it says, and the verdict counts it right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.data import planted
from bench.data.__main__ import SEED, figures_of, judged
from workloads.corpus.texts import jaccard

SIZE = 700_000


@pytest.fixture(scope="module")
def made() -> list[planted.Planted]:
    return list(planted.documents(SIZE, SEED))


def test_the_same_seed_is_the_same_text(made: list[planted.Planted]) -> None:
    assert list(planted.documents(SIZE, SEED)) == made
    assert list(planted.documents(SIZE, SEED + 1)) != made


def test_each_kind_resembles_an_earlier_one_as_much_as_it_says(made: list[planted.Planted]) -> None:
    seen: list[set[tuple[str, ...]]] = []
    kinds = Counter(one.kind for one in made)
    assert set(kinds) == {"new", "exact", "near", "decoy"} and min(kinds.values()) > 3
    for one in made:
        words = one.text.split()
        mine = {tuple(words[place : place + 5]) for place in range(len(words) - 4)}
        likest = max((len(mine & other) / len(mine | other) for other in seen), default=0.0)
        match one.kind:
            case "exact":
                assert likest == 1.0
            case "near":
                assert planted.NEAR[0] - 0.02 <= likest <= planted.NEAR[1] + 0.02
            case "decoy":
                assert likest <= planted.DECOY[1] + 0.02
            case _:
                assert likest < 0.62, "at most a frame is shared"
                seen.append(mine)


@pytest.mark.parametrize(
    ("count", "resemblance"),
    # One word of seventy is more than a fiftieth of a text's shingles already.
    [
        (70, 0.3),
        (70, 0.5),
        (70, 0.84),
        (300, 0.3),
        (300, 0.72),
        (300, 0.98),
        (1200, 0.3),
        (1200, 0.9),
        (1200, 0.98),
    ],
)
def test_words_are_changed_until_texts_resemble_each_other_so_much(count: int, resemblance: float) -> None:
    words = [f"w{number}" for number in range(count)]
    other = planted.changed(words, resemblance, "q")
    assert jaccard(" ".join(words), " ".join(other)) == pytest.approx(resemblance, abs=0.06)


def test_files_hold_the_documents_in_order(tmp_path: Path, made: list[planted.Planted]) -> None:
    counts = planted.write(tmp_path / "texts", SIZE, SEED)
    rows = [
        json.loads(line)
        for path in sorted((tmp_path / "texts").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [(row["id"], row["text"]) for row in rows] == [(one.name, one.text) for one in made]
    assert sum(counts[kind] for kind in planted.SHARES) == len(made)
    assert (
        counts["bytes"] == sum(len(one.text) for one in made)
        and len(list((tmp_path / "texts").iterdir())) > 4
    )


@pytest.mark.parametrize(
    ("gone", "recall", "precision"),
    [
        (("exact", "near"), 1.0, 1.0),
        (("exact",), None, 1.0),
        (("exact", "near", "decoy"), 1.0, None),
    ],
)
def test_a_verdict_counts_what_is_gone(
    made: list[planted.Planted], gone: tuple[str, ...], recall: float | None, precision: float | None
) -> None:
    kinds = Counter(one.kind for one in made)
    found = judged([one.text for one in made if one.kind not in gone], SIZE)
    repeated = sum(kinds[kind] for kind in ("exact", "near") if kind in gone)
    assert found["recall"] == pytest.approx(
        recall if recall is not None else repeated / (kinds["exact"] + kinds["near"]), abs=1e-4
    )
    every = sum(kinds[kind] for kind in gone)
    assert found["precision"] == pytest.approx(
        precision if precision is not None else repeated / every, abs=1e-4
    )
    assert found["decoysDropped"] == (kinds["decoy"] if "decoy" in gone else 0) and found["newDropped"] == 0


def row(seconds: float, resident: float) -> dict[str, float]:
    return {"documents": 100, "seconds": seconds, "residentMegabytes": resident}


def test_figures_are_medians_and_ratios() -> None:
    runs = {
        "windlass2 text": [row(6.0, 200.0), row(5.0, 210.0), row(9.0, 190.0)],
        "windlass2 large": [row(30.0, 200.0)],
        "windlass1 large": [row(55.0, 130.0), row(54.0, 120.0), row(70.0, 110.0)],
        "windlass1 tenth": [row(6.0, 100.0)],
        "datatrove2 text": [row(60.0, 300.0)],
    }
    sizes = {"text": 120_000_000, "large": 600_000_000, "tenth": 60_000_000}
    figures = figures_of(runs, {"windlass": {"recall": 0.99, "precision": 1.0}}, sizes)
    assert figures["measured"] == {
        "recall": 0.99,
        "precision": 1.0,
        "memoryTenfold": 1.3,
        "speedOfTwoWorkers": 1.83,
        "speedBesidePeer": 10.0,
    }
    assert figures["megabytesPerSecond"]["windlass2 text"] == 20.0
    assert figures["megabytesPerSecond"]["datatrove2 text"] == 2.0
    assert figures["medianSeconds"]["windlass1 large"] == 55.0
    assert figures["residentMegabytes"]["windlass2 text"] == 210.0
    alone = {name: rows for name, rows in runs.items() if "datatrove" not in name}
    assert (
        "speedBesidePeer"
        not in figures_of(alone, {"windlass": {"recall": 1, "precision": 1}}, sizes)["measured"]
    )
