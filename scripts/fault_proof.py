"""Holds docs/faults.md against what a run of the tests saw: each fault that the page claims was really caused.

Reads the JUnit files that `make test` leaves in a folder, and writes the page again with results as build/faults.md.
A fault counts as caused if one of its tests passed and none failed; a test may be skipped where a machine lacks what
it needs, but not all tests of a fault.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import fault_page
from fault_rows import ROWS, Row

ROOT: Final = Path(__file__).resolve().parent.parent

Results = Mapping[str, Counter[str]]
"""Test id as on the page to the number of its cases that passed, failed or were skipped."""


def page_id(classname: str, name: str) -> str:
    """`tests.unit.test_x.TestY` and `test_z[1-a]` are `tests/unit/test_x.py::TestY::test_z`."""
    parts = classname.split(".")
    end = next((at for at, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
    return "::".join(["/".join(parts[: end + 1]) + ".py", *parts[end + 1 :], name.partition("[")[0]])


def outcome(case: ElementTree.Element) -> str:
    """What became of one case."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def results_in(files: Iterable[Path]) -> dict[str, Counter[str]]:
    """Results of all cases in JUnit files.

    Raises:
        ElementTree.ParseError: a file is cut short, for example since its layer was killed.
    """
    found: dict[str, Counter[str]] = {}
    for path in files:
        # The suite wrote these files a moment ago: nothing in them comes from elsewhere.
        for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314
            name = page_id(case.get("classname", ""), case.get("name", ""))
            found.setdefault(name, Counter())[outcome(case)] += 1
    return found


def shortcomings(tests: fault_page.Tests, results: Results, rows: tuple[Row, ...] = ROWS) -> list[str]:
    """Faults that the page claims and this run did not prove, each with the next step."""
    found = []
    for row in rows:
        named = tests.get(row.id, [])
        failed = [name for name in named if results.get(name, Counter())["failed"]]
        missing = [name for name in named if not results.get(name)]
        found += [f"{row.id}: {name} failed. hint: see its layer's output above" for name in failed]
        found += [f"{row.id}: {name} was not run. hint: its layer is not in tests/run.py" for name in missing]
        if named and not failed and not missing and not any(results[name]["passed"] for name in named):
            found.append(f"{row.id}: every test of it was skipped here. hint: run pytest -rs on {named[0]}")
    return found


def counts(result: Counter[str]) -> str:
    """`3 passed, 1 skipped`."""
    return ", ".join(f"{number} {word}" for word, number in sorted(result.items()))


def main(arguments: list[str]) -> int:
    """Compare and write; 1 if the page claims what this run did not show, 2 if there is no run to compare with."""
    folder = Path(arguments[0]) if len(arguments) == 1 else None
    files = sorted(folder.glob("*.xml")) if folder else []
    if not files:
        print(
            f"fault_proof: expected a folder with JUnit files (got {arguments}). hint: make test",
            file=sys.stderr,
        )
        return 2
    tests, results = fault_page.tests_by_fault(ROOT), results_in(files)
    written = ROOT / "build" / "faults.md"
    written.write_text(fault_page.page(tests, results={name: counts(seen) for name, seen in results.items()}))
    lacking = shortcomings(tests, results)
    for line in lacking:
        print(line, file=sys.stderr)
    proved = sum(bool(tests.get(row.id)) for row in ROWS) - len({line.partition(":")[0] for line in lacking})
    print(f"{proved} of {len(ROWS)} faults were caused in this run: {written.relative_to(ROOT)}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
