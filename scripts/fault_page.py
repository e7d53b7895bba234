"""Makes docs/faults.md from the table of faults and the marks of the tests.

Marks are read from the sources, so that nothing has to be imported or run: `pytest.mark.fault("F37")` on a test, on
one of its parameters, on its class, or as its module's pytestmark.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from fault_rows import GROUPS, ROWS, Row

Tests = Mapping[str, list[str]]

INTRODUCTION: Final = """# Faults

What can go wrong, what is expected then, and the tests that really cause it. Everything runs without a GPU: agents and
ranks are real processes, the API server is a real one where it matters, and disks, clocks and connections are made to
fail. `make test` runs the tests; `make bench-faults` disturbs one long run hundreds of times at random and checks the
[promises](promises.md) after each fault.

This page is generated from the table in `scripts/fault_rows.py` and the marks of the tests (`make crds`). A row that
has neither a test nor a reason fails `make check`, and so does one that has both. `make test` ends by holding the page
against what it ran: it fails if a test named here failed, was not run, or if all tests of a fault were skipped, and it
writes this page with the results of each test as `build/faults.md`.
"""


def marks_in(node: ast.AST) -> set[str]:
    """Ids of all `mark.fault("…")` calls within a node."""
    return {
        argument.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "fault"
        and isinstance(call.func.value, ast.Attribute)
        and call.func.value.attr == "mark"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def marked_tests(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """(name, ids) of the tests of a module; a test in a class is `Class::name`."""
    everywhere: set[str] = set()
    for node in tree.body:
        names = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(name, ast.Name) and name.id == "pytestmark" for name in names):
            everywhere |= marks_in(node)
    yield from _marked(tree.body, everywhere, "")


def _marked(body: list[ast.stmt], inherited: set[str], prefix: str) -> Iterator[tuple[str, set[str]]]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        own = set().union(inherited, *(marks_in(each) for each in node.decorator_list))
        if isinstance(node, ast.ClassDef):
            yield from _marked(node.body, own, f"{prefix}{node.name}::")
        elif node.name.startswith("test") and own:
            yield f"{prefix}{node.name}", own


def tests_by_fault(root: Path) -> dict[str, list[str]]:
    """Test ids by fault, from all test files below `root`/tests."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for name, ids in marked_tests(ast.parse(path.read_text())):
            for fault in ids:
                found.setdefault(fault, []).append(f"{path.relative_to(root).as_posix()}::{name}")
    return found


def number_of(fault: str) -> int:
    """F37 is 37."""
    match = re.fullmatch(r"F([1-9][0-9]?)", fault)
    if match is None:
        raise ValueError(
            f"fault: no such id (got {fault!r}); allowed F1 to F99. hint: see scripts/fault_rows.py"
        )
    return int(match[1])


def problems(tests: Tests, rows: tuple[Row, ...] = ROWS) -> list[str]:
    """What is wrong between the table and the tests, each with the next step."""
    found = [
        f"{row.id}: has neither a test nor a reason. hint: mark a test with it or say in scripts/fault_rows.py why not"
        for row in rows
        if not tests.get(row.id) and not row.why_not
    ]
    found += [
        f"{row.id}: has a test and a reason why it has none. hint: delete the reason in scripts/fault_rows.py"
        for row in rows
        if tests.get(row.id) and row.why_not
    ]
    numbers = [number_of(row.id) for row in rows]
    if numbers != list(range(1, len(rows) + 1)):
        found.append(f"rows: are not numbered one after the other (got {numbers})")
    return found


def page(tests: Tests, rows: tuple[Row, ...] = ROWS, results: Mapping[str, str] | None = None) -> str:
    """The page; `results` says of a test, by its id, what a run saw of it."""
    proved = sum(bool(tests.get(row.id)) for row in rows)
    count = len({name for row in rows for name in tests.get(row.id, [])})
    parts = [INTRODUCTION, f"{proved} of {len(rows)} faults are caused by {count} tests.\n"]
    for title, (first, last) in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [
            entry(row, tests.get(row.id, []), results or {})
            for row in rows
            if first <= number_of(row.id) <= last
        ]
    return "\n".join(parts)


def entry(row: Row, tests: list[str], results: Mapping[str, str]) -> str:
    """One fault."""
    lines = [f"### {row.id} {row.title}", "", f"Caused by: {row.caused}. Expected: {row.expected}.", ""]
    if tests:
        lines += [f"- `{name}`" + (f": {results[name]}" if name in results else "") for name in tests]
    else:
        lines.append(f"Not caused here: {row.why_not}.")
    return "\n".join([*lines, ""])
