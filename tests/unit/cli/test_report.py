"""`windlass report`: where the job comes from, where the page goes, and what is refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.cli.fakes import FakeAccess
from unit.cli.test_timeline import GOLDEN, a_run
from windlass.cli import main, page, report
from windlass.cli.errors import CliError

RUN = GOLDEN / "run.yaml"


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"name": None, "file": None, "output": None} | given)


def unreachable() -> Any:
    raise AssertionError("-f needs no cluster")


def saved(path: Path, *documents: Any) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def test_from_a_file_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.html"
    assert report.report_command(options(file=str(RUN), output=str(target)), unreachable) == 0
    assert target.read_text() == (GOLDEN / "report.html").read_text()
    assert capsys.readouterr().out == f"written: {target}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_from_the_cluster_under_the_jobs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    access: Any = FakeAccess(a_run())
    assert report.report_command(options(name="triage"), lambda: access) == 0
    assert (tmp_path / "triage.html").read_text() == page.render(a_run())


def test_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report", "-f", str(RUN), "-o", "-"]) == 0
    assert capsys.readouterr().out == (GOLDEN / "report.html").read_text()


@pytest.mark.parametrize("as_list", [False, True], ids=["documents", "list"])
def test_the_named_job_of_several(tmp_path: Path, as_list: bool) -> None:
    other = {"kind": "FineTuneJob", "metadata": {"name": "other"}}
    config = {"kind": "ConfigMap", "metadata": {"name": "triage"}}
    bodies = [other, config, a_run()]
    path = saved(tmp_path / "jobs.yaml", *([{"kind": "List", "items": bodies}] if as_list else bodies))
    assert report.from_file(path, "triage")["metadata"]["name"] == "triage"
    with pytest.raises(CliError, match=r"one job \(there: other, triage\)"):
        report.from_file(path, None)
    with pytest.raises(CliError, match="one job named third"):
        report.from_file(path, "third")


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "ConfigMap", "metadata": {"name": "a"}},
        {"kind": "FineTuneJob", "metadata": None},
        {"kind": "FineTuneJob", "metadata": {"name": ""}},
        {"kind": "FineTuneJob"},
        ["a"],
        "text",
        7,
    ],
    ids=str,
)
def test_what_is_no_job_is_refused_with_the_way_out(tmp_path: Path, document: Any) -> None:
    with pytest.raises(CliError) as caught:
        report.from_file(saved(tmp_path / "x.yaml", document), None)
    assert "there: none" in str(caught.value) and "kubectl get ftj" in str(caught.value)
    assert caught.value.status == 2


def test_neither_name_nor_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report"]) == 2
    assert "NAME: is missing" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "out.html"
    with pytest.raises(CliError, match="-o: cannot be written") as caught:
        report.report_command(options(file=str(RUN), output=str(target)), unreachable)
    assert str(target) in str(caught.value) and "hint: " in str(caught.value)
    occupied = tmp_path / "directory"
    occupied.mkdir()
    with pytest.raises(CliError, match="-o: cannot be written"):
        report.report_command(options(file=str(RUN), output=str(occupied)), unreachable)
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_a_report_that_was_there_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out.html"
    target.write_text("old")
    report.report_command(options(file=str(RUN), output=str(target)), unreachable)
    assert target.read_text().startswith("<!DOCTYPE html>")
