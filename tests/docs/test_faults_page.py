"""docs/faults.md is in step with the table of faults and with the marks of the tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from types import ModuleType

import pytest

from docs.scripts import ROOT, load


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """The script as a module."""
    return load("fault_page")


def test_every_fault_has_either_a_test_or_a_reason(pages: ModuleType) -> None:
    assert pages.problems(pages.tests_by_fault(ROOT)) == []


def test_the_page_is_what_table_and_marks_make(pages: ModuleType) -> None:
    wanted = pages.page(pages.tests_by_fault(ROOT))
    assert (ROOT / "docs" / "faults.md").read_text() == wanted, "hint: make crds"
    ids = re.findall(r"^### (F\d+) ", wanted, re.M)
    assert ids == [f"F{number}" for number in range(1, 63)]


def test_marks_are_found_wherever_they_may_stand(pages: ModuleType) -> None:
    source = """
pytestmark = [pytest.mark.contract, pytest.mark.fault("F1")]

@pytest.mark.fault("F2")
@pytest.mark.fault("F3")
async def test_one(): ...

@pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.fault("F4"))])
def test_two(x): ...

@pytest.mark.fault("F5")
class TestMore:
    def test_three(self): ...
    def helper(self): ...

@pytest.mark.fault("F6")
def no_test(): ...
"""
    assert dict(pages.marked_tests(ast.parse(source))) == {
        "test_one": {"F1", "F2", "F3"},
        "test_two": {"F1", "F4"},
        "TestMore::test_three": {"F1", "F5"},
    }
    assert dict(pages.marked_tests(ast.parse("def test_plain(): ..."))) == {}


def test_what_pytest_collects_is_what_is_read(pages: ModuleType) -> None:
    """The marks as pytest sees them in one folder, beside those read from its sources."""
    folder = "tests/unit/core"
    program = """
import sys, pytest
class Marks:
    def pytest_collection_finish(self, session):
        for item in session.items:
            for mark in item.iter_markers("fault"):
                print("MARK", mark.args[0], item.nodeid.partition("[")[0])
sys.exit(pytest.main(["-q", "--collect-only", sys.argv[1]], plugins=[Marks()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    seen = {tuple(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("MARK ")}
    read = {
        (fault, name)
        for fault, names in pages.tests_by_fault(ROOT).items()
        for name in names
        if name.startswith(f"{folder}/")
    }
    assert seen == read and seen


def test_a_row_without_proof_and_one_with_too_much_are_refused(pages: ModuleType) -> None:
    rows = (
        pages.Row("F1", "a", "b", "c"),
        pages.Row("F2", "a", "b", "c", "there is no such thing here"),
        pages.Row("F3", "a", "b", "c", "there is no such thing here"),
        pages.Row("F4", "a", "b", "c"),
    )
    found = pages.problems({"F2": ["tests/test_x.py::test_y"], "F4": ["tests/test_x.py::test_y"]}, rows)
    assert [text.partition(":")[0] for text in found] == ["F1", "F2"]
    assert all("hint: " in text for text in found)
    with pytest.raises(ValueError, match=r"got 'B7'"):
        pages.problems({}, (pages.Row("B7", "a", "b", "c"),))
    assert (
        "are not numbered"
        in pages.problems({"F1": ["t"], "F3": ["t"]}, (rows[0], rows[2]._replace(why_not="")))[0]
    )


def test_marks_name_faults_of_the_table_or_of_the_groups_after_it(pages: ModuleType) -> None:
    known = {row.id for row in pages.ROWS} | {f"F{number}" for number in range(63, 74)}
    assert set(pages.tests_by_fault(ROOT)) <= known
