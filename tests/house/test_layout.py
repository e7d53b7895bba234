"""The house rules that a tree can be checked for: sizes, names, words and files that must not be there."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("operator", "workloads", "examples", "scripts")
FILE_LIMIT, FILE_P90, FUNCTION_LIMIT, FUNCTION_P95 = 500, 350, 80, 45

PAIRS_OF_WORDS = ("/wo" + "rk/", "/ro" + "ot/", "TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")


def tracked(*suffixes: str) -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        ROOT / line for line in listing.splitlines() if line.endswith(suffixes) and (ROOT / line).is_file()
    ]


def python_sources() -> list[Path]:
    return [path for path in tracked(".py") if path.relative_to(ROOT).parts[0] in SOURCES]


def percentile(values: list[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_operator_folder_is_no_package() -> None:
    # A root package named operator would shadow the standard library's.
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_every_folder_of_tests_is_run_by_a_layer() -> None:
    from tests.run import CHECK, DEEP, E2E

    run = {argument for layer in CHECK + DEEP + E2E for argument in layer.command}
    folders = {path.relative_to(ROOT).parent for path in tracked(".py") if path.name.startswith("test_")}
    left_out = {str(each) for each in folders if not run & {str(each), *map(str, each.parents)}}
    assert left_out == set()


def test_files_stay_within_their_budget() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in python_sources()}
    every = sizes | {path: len(path.read_text().splitlines()) for path in tracked(".py")}
    assert {str(path): size for path, size in every.items() if size > FILE_LIMIT} == {}
    assert percentile(list(sizes.values()), 0.90) <= FILE_P90


def test_functions_stay_within_their_budget() -> None:
    rows = [(str(path), name, size) for path in python_sources() for name, size in functions(path)]
    assert [row for row in rows if row[2] > FUNCTION_LIMIT] == []
    assert percentile([row[2] for row in rows], 0.95) <= FUNCTION_P95


def test_every_module_says_what_it_is() -> None:
    silent = [str(path) for path in python_sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


@pytest.mark.parametrize("word", PAIRS_OF_WORDS)
def test_no_tracked_file_holds(word: str) -> None:
    texts = tracked(".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".json", "Makefile", ".tpl", ".txt")
    holders = [str(path.relative_to(ROOT)) for path in texts if word in path.read_text(errors="replace")]
    assert holders == []


def test_broad_exception_handlers_are_rare_and_explained() -> None:
    unexplained = []
    for path in python_sources():
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            here = "".join(lines[number : number + 2])
            if re.search(r"except (Base)?Exception\b", line) and "#" not in here:
                unexplained.append(f"{path.relative_to(ROOT)}:{number + 1}")
    assert unexplained == []


def test_no_large_or_binary_file_is_tracked() -> None:
    large = [str(path) for path in tracked("") if path.stat().st_size > 400_000 and path.name != "uv.lock"]
    assert large == []
