"""The example of pre-training: its texts are the same each time and honest, its comparison counts right."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "03-pretrain"


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pretrain_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    program("make_texts").main(directory)
    return directory


def test_the_same_library_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    program("make_texts").main(tmp_path)
    files = sorted(path.relative_to(made) for path in made.rglob("*.jsonl"))
    assert len(files) > 40
    assert all((tmp_path / name).read_bytes() == (made / name).read_bytes() for name in files)


def test_no_module_that_is_held_out_is_trained_on(made: Path) -> None:
    trained = {text for path in (made / "sources").iterdir() for text in texts(path)}
    held_out = [text for text in texts(made / "held-out" / "sources.jsonl") if text.strip()]
    assert len(held_out) > 30 and trained.isdisjoint(held_out)


def test_repetitions_are_planted_exactly_and_nearly() -> None:
    planted = program("make_texts").doubled([f"text {number}" for number in range(40)])
    assert planted[40:] == ["text 0", "text 20", "Again text 10", "Again text 30"]


def test_docstrings_are_read_and_not_imported() -> None:
    long = "x" * 80
    source = f'"""{long}"""\nimport no_such_module\ndef f():\n    """short"""\nclass C:\n    """{long}y"""\n'
    find = program("make_texts").docstrings
    assert list(find(source)) == [long, f"{long}y"]
    assert list(find("def broken(:")) == []


def test_the_interval_is_of_the_mean() -> None:
    interval = program("compare").interval
    assert interval([0.25] * 30) == (0.25, 0.25)
    values = [(-1.0) ** place for place in range(400)]
    low, high = interval(values)
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.1)


def test_perplexity_is_of_all_tokens_together() -> None:
    found = program("compare").perplexity([(2.0, 1), (4.0, 3), (0.0, 0)])
    assert found == pytest.approx(math.exp(6.0 / 4))
