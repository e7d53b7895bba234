"""scripts/fault_proof.py: what a run of the tests saw, held against docs/faults.md."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from docs.scripts import ROOT, load
from tests import run


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    """The script as a module."""
    return load("fault_proof")


@pytest.mark.parametrize(
    ("classname", "name", "wanted"),
    [
        ("tests.unit.core.test_a", "test_b", "tests/unit/core/test_a.py::test_b"),
        ("tests.unit.core.test_a", "test_b[1-x[0]]", "tests/unit/core/test_a.py::test_b"),
        ("tests.unit.core.test_a.TestC", "test_b", "tests/unit/core/test_a.py::TestC::test_b"),
        (
            "tests.unit.core.test_a.TestC.TestD",
            "test_b[y]",
            "tests/unit/core/test_a.py::TestC::TestD::test_b",
        ),
    ],
)
def test_names_of_a_result_file_are_those_of_the_page(
    proof: ModuleType, classname: str, name: str, wanted: str
) -> None:
    assert proof.page_id(classname, name) == wanted


def test_results_are_those_that_pytest_writes(proof: ModuleType, tmp_path: Path) -> None:
    """One real run of each outcome, names as on the page."""
    folder = tmp_path / "tests" / "unit"
    folder.mkdir(parents=True)
    (folder / "test_x.py").write_text("""
import pytest

@pytest.mark.parametrize("n", [1, 2, 3])
def test_some(n):
    if n == 2:
        pytest.skip("not here")
    assert n != 3

@pytest.fixture
def broken():
    raise OSError("no disk")

def test_setup(broken): ...

class TestMore:
    def test_in(self): ...
""")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--rootdir=.", "-p", "no:randomly"),
            *("--junitxml=out.xml", "tests"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert proof.results_in([tmp_path / "out.xml"]) == {
        "tests/unit/test_x.py::test_some": Counter(passed=1, skipped=1, failed=1),
        "tests/unit/test_x.py::test_setup": Counter(failed=1),
        "tests/unit/test_x.py::TestMore::test_in": Counter(passed=1),
    }


@pytest.mark.parametrize(
    ("results", "wanted"),
    [
        ({"a": {"passed": 2}, "b": {"passed": 1}}, []),
        ({"a": {"passed": 2, "skipped": 1}, "b": {"skipped": 1}}, []),
        ({"a": {"passed": 2, "failed": 1}, "b": {"passed": 1}}, ["F1: a failed"]),
        ({"a": {"passed": 2}}, ["F1: b was not run"]),
        ({"a": {"skipped": 2}, "b": {"skipped": 1}}, ["F1: every test of it was skipped here"]),
        ({"a": {"skipped": 2}}, ["F1: b was not run"]),
        ({}, ["F1: a was not run", "F1: b was not run"]),
    ],
)
def test_what_a_run_does_not_prove_is_said(
    proof: ModuleType, results: dict[str, dict[str, int]], wanted: list[str]
) -> None:
    rows = (proof.Row("F1", "t", "c", "e"), proof.Row("F2", "t", "c", "e", "there is no such thing here"))
    seen = {name: Counter(outcomes) for name, outcomes in results.items()}
    found = proof.shortcomings({"F1": ["a", "b"]}, seen, rows)
    assert [text.partition(".")[0] for text in found] == wanted
    assert all("hint: " in text for text in found)


def test_the_page_of_a_run_shows_counts(proof: ModuleType) -> None:
    rows = (proof.Row("F1", "t", "c", "e"),)
    text = proof.fault_page.page({"F1": ["a", "b"]}, rows, {"a": proof.counts(Counter(passed=2, skipped=1))})
    assert "- `a`: 2 passed, 1 skipped\n- `b`\n" in text


def test_no_results_are_no_proof(
    proof: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proof.main([str(tmp_path)]) == 2
    assert "hint: make test" in capsys.readouterr().err
    assert proof.main([]) == 2


def test_a_run_of_little_fails_and_says_what_lacks(
    proof: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "one.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.unit.core.test_lifecycle" '
        'name="test_deleted_job_is_left_to_its_owner_references"/></testsuite></testsuites>'
    )
    named = proof.fault_page.tests_by_fault(ROOT)
    monkeypatch.setattr(proof, "ROOT", tmp_path)
    monkeypatch.setattr(proof.fault_page, "tests_by_fault", lambda root: named)
    assert proof.main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "F2: " in printed.err and "F3: " not in printed.err
    assert printed.out.startswith("1 of 62 faults were caused in this run")
    assert "owner_references`: 1 passed" in (tmp_path / "build" / "faults.md").read_text()


def test_every_layer_of_tests_leaves_results_and_the_proof_reads_them() -> None:
    layers = [layer for layer in (*run.CHECK, *run.DEEP, *run.E2E) if "pytest" in layer.command]
    files = [word.partition("=")[2] for layer in layers for word in layer.command if "junitxml" in word]
    assert files == [str(run.RESULTS / f"{layer.name}.xml") for layer in layers] and len(set(files)) == 9
    assert run.FAULTS.command[-1] == str(run.RESULTS)
