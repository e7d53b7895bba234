"""The kept log of the first failed rank: which one, by which way, and what is said when there is none."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unit.cli.fakes import FakeAccess, pod
from windlass.cli import fetch, kept_log, logs
from windlass.cli.errors import CliError
from windlass.cli.kept_log import READ, Kept

SPEC = {
    "model": {"uri": "pvc://models/tiny"},
    "data": {"sources": [{"uri": "pvc://data/train.jsonl"}]},
    "training": {"globalBatchSize": 4, "maxSteps": 40},
    "checkpoint": {"store": "pvc://checkpoints/group"},
}
INSIDE = Path("group/team/a/u1/logs")


def job(**spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "a",
        "namespace": "team",
        "uid": "u1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"kind": "FineTuneJob", "metadata": metadata, "spec": SPEC | spec, "status": {}}


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"name": "a", "rank": None, "follow": False, "tail": None, "failed": True} | given
    )


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A store's claim with two kept logs, and files that are none."""
    folder = tmp_path / INSIDE
    folder.mkdir(parents=True)
    (folder / "incarnation-00000002-rank-1.log").write_text("old\n")
    (folder / "incarnation-00000010-rank-0.log").write_bytes(b"Traceback\nValueError: \xff zw\xc3\xb6lf\n")
    for name in (
        ".tmp-x.log",
        "notes.txt",
        "incarnation-x-rank-1.log",
        "incarnation-00000099-rank-0.log.tmp",
    ):
        (folder / name).write_text("no")
    (folder / "incarnation-00000050-rank-7.log").mkdir()
    return tmp_path


def printed_in_pod(volume: Path) -> str:
    """What the program prints where the store lies at this path."""
    (volume / INSIDE / "incarnation-00000050-rank-7.log").rmdir()
    command = [sys.executable, "-c", READ, str(volume / INSIDE)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def no_volume_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "local_volume", lambda access, claim: None)


def test_from_a_volume_of_this_machine(
    volume: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def local(access: Any, claim: str) -> Path:
        asked.append(claim)
        return volume

    monkeypatch.setattr(fetch, "local_volume", local)
    access: Any = FakeAccess(job())
    assert logs.logs_command(options(), access) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["Traceback", "ValueError: � zwölf"]
    assert "rank 0, failed first in incarnation 10" in said.err
    assert asked == ["checkpoints"] and access.ran == []


@pytest.mark.parametrize(("tail", "lines"), [(0, 0), (1, 1), (2, 2), (9, 2), (None, 2)])
def test_only_the_last_lines(
    volume: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tail: int | None,
    lines: int,
) -> None:
    monkeypatch.setattr(fetch, "local_volume", lambda access, claim: volume)
    access: Any = FakeAccess(job())
    logs.logs_command(options(tail=tail), access)
    assert len(capsys.readouterr().out.splitlines()) == lines


@pytest.mark.usefixtures("no_volume_here")
def test_through_a_running_pod_of_the_run(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pods = [pod("gone", 0, phase="Failed"), pod("leaving", 0, leaving=True), pod("p1", 1)]
    access: Any = FakeAccess(job(), pods=pods)
    access.said = "warning: something\n" + printed_in_pod(volume)
    assert logs.logs_command(options(rank=1), access) == 0
    assert capsys.readouterr().out == "old\n"
    ((name, command),) = access.ran
    assert name == "p1" and command[0] == "/env/python"
    assert command[-1] == "/windlass/store/group/team/a/u1/logs"


@pytest.mark.usefixtures("no_volume_here")
def test_through_a_pod_of_its_own_when_none_runs(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[tuple[str, str]] = []

    class Reader:
        def __init__(self, access: Any, name: str, claim: str) -> None:
            entered.append((name, claim))

        def __enter__(self) -> tuple[str, str]:
            return "reader", "/python"

        def __exit__(self, *_: object) -> None:
            entered.append(("left", ""))

    monkeypatch.setattr(fetch, "ReaderPod", Reader)
    access: Any = FakeAccess(job(), pods=[pod("gone", 0, phase="Failed")])
    access.said = printed_in_pod(volume)
    assert kept_log.failed_log(access, job(), None).incarnation == 10
    assert entered == [("ftj/a", "checkpoints"), ("left", "")]
    assert [name for name, _ in access.ran] == ["reader"]


def test_the_program_prints_nothing_where_there_is_no_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ, str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("rank", [None, 5])
def test_no_kept_log_is_said_with_what_to_look_at(
    volume: Path, monkeypatch: pytest.MonkeyPatch, rank: int | None
) -> None:
    where = volume if rank is not None else volume / "elsewhere"
    monkeypatch.setattr(fetch, "local_volume", lambda access, claim: where)
    access: Any = FakeAccess(job())
    with pytest.raises(
        CliError, match=r"a: no log of a failed rank is kept in its store .* hint: `windlass status a`"
    ):
        logs.logs_command(options(rank=rank), access)


def test_it_cannot_be_followed() -> None:
    access: Any = FakeAccess(job())
    with pytest.raises(CliError, match="--failed: cannot be followed") as caught:
        logs.logs_command(options(follow=True), access)
    assert caught.value.status == 2


def test_a_spec_that_does_not_parse_is_named() -> None:
    access: Any = FakeAccess()
    with pytest.raises(CliError, match="a: its spec does not parse"):
        kept_log.failed_log(access, job(training=7), None)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("kept incarnation-00000003-rank-12.log YQpi", [Kept(3, 12, ("a", "b"))]),
        ("kept incarnation-00000003-rank-12.log ", [Kept(3, 12, ())]),
        ("kept ../../etc/passwd YQ==", []),
        ("kept incarnation-3-rank-1.log YQ==", []),
        ("something else", []),
        ("", []),
    ],
)
def test_printed_lines(line: str, found: list[Kept]) -> None:
    assert kept_log.parse([line]) == found


def test_what_was_damaged_on_the_way_is_not_shown() -> None:
    with pytest.raises(CliError, match="damaged on the way"):
        kept_log.parse(["kept incarnation-00000003-rank-1.log YQ=!"])
