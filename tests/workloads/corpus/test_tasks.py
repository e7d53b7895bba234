"""Tasks of a stage: each makes its directory whole or not at all, and one that has run is never run again."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from windlass.api.meta import FailureClass, Reason
from windlass_workloads.corpus import tasks
from windlass_workloads.corpus.on_ray import as_text, problem_of
from windlass_workloads.corpus.tasks import appearing, crew, perform_all, report_of, write_json
from windlass_workloads.data.errors import WorkloadError


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass(frozen=True)
class Writes:
    """A task of two files. `fails` says in which place it breaks off."""

    directory: Path
    number: int
    fails: str = ""

    def run(self, directory: Path) -> dict[str, Any]:
        (directory / "one.txt").write_text(f"one {self.number}")
        if self.fails == "killed":
            raise Killed
        if self.fails == "refused":
            raise WorkloadError(Reason.DATA_EMPTY, f"sources[{self.number}]: is empty.", hint="fill it")
        if self.fails == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        (directory / "two.txt").write_text("two")
        # Whoever runs it leaves a trace, so that one can count.
        with (self.directory.parent / "ran.log").open("a") as log:
            log.write(f"{self.number}\n")
        return {"number": self.number}


def some(root: Path, count: int = 4, **fails: str) -> list[Writes]:
    return [Writes(root / f"task-{number}", number, fails.get(f"n{number}", "")) for number in range(count)]


def ran(root: Path) -> list[int]:
    log = root / "ran.log"
    return sorted(map(int, log.read_text().split())) if log.exists() else []


def whole(task: Writes) -> bool:
    return sorted(path.name for path in task.directory.iterdir()) == ["one.txt", "report.json", "two.txt"]


def test_tasks_make_their_directories_and_reports(tmp_path: Path) -> None:
    made = some(tmp_path)
    perform_all(made, 1)
    assert all(map(whole, made)) and [report_of(task) for task in made] == [{"number": n} for n in range(4)]
    assert ran(tmp_path) == [0, 1, 2, 3]
    perform_all(made, 1)
    assert ran(tmp_path) == [0, 1, 2, 3], "none runs twice"


@pytest.mark.parametrize("fails", ["killed", "refused", "disk"])
def test_what_breaks_off_leaves_nothing_that_counts(tmp_path: Path, fails: str) -> None:
    broken = some(tmp_path, n2=fails)
    errors = {"killed": Killed, "refused": WorkloadError, "disk": OSError}
    with pytest.raises(errors[fails]):
        perform_all(broken, 1)
    assert [task.directory.exists() for task in broken] == [True, True, False, False]
    perform_all(some(tmp_path), 1)
    assert ran(tmp_path) == [0, 1, 2, 3] and all(map(whole, some(tmp_path)))


def test_what_a_killed_process_has_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".new-task-1.x47y"
    left.mkdir()
    (left / "one.txt").write_text("half")
    other = tmp_path / ".task-1.of-another"
    other.mkdir()
    perform_all(some(tmp_path), 1)
    assert not left.exists() and other.exists(), "what is not of this kind is not ours to clear away"


@pytest.mark.parametrize("step", ["write", "flush", "put"])
def test_a_directory_appears_whole_or_not_at_all(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise Killed

    if step != "write":
        monkeypatch.setattr(tasks, step, broken)
    with pytest.raises(Killed), appearing(tmp_path / "made") as temporary:
        (temporary / "file").write_text("x")
        if step == "write":
            raise Killed
    assert not (tmp_path / "made").exists()
    monkeypatch.undo()
    with appearing(tmp_path / "made") as temporary:
        (temporary / "file").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_everything_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, put = tasks.flush, tasks.put
    monkeypatch.setattr(tasks, "flush", lambda path: (done.append(f"flush {path.name}"), flush(path)))
    monkeypatch.setattr(tasks, "put", lambda one, other: (done.append("name"), put(one, other)))
    with appearing(tmp_path / "made") as temporary:
        (temporary / "file").write_text("x")
    assert done == ["flush file", f"flush {temporary.name}", "name", f"flush {tmp_path.name}"]


def test_another_process_may_have_made_the_same_meanwhile(tmp_path: Path) -> None:
    with appearing(tmp_path / "made") as temporary:
        (temporary / "file").write_text("mine")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("theirs")
    assert (tmp_path / "made" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_disk_that_takes_no_names_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(OSError, match="Read-only"), appearing(tmp_path / "made"):
        monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [1, 2, 3])
def test_who_waits_may_stop_between_tasks(tmp_path: Path, after: int) -> None:
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == after:
            raise Killed

    with pytest.raises(Killed):
        perform_all(some(tmp_path), 1, check)
    assert ran(tmp_path) == list(range(after))


def test_equal_values_are_equal_texts(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (
        json.loads((tmp_path / "a").read_text()) == {"a": "é", "b": 1} and "é" in (tmp_path / "a").read_text()
    )


# --- Ray -------------------------------------------------------------------------------------------


def test_more_workers_make_the_same(tmp_path: Path) -> None:
    checks: list[int] = []
    with crew(2):
        perform_all(some(tmp_path, 5), 2, lambda: checks.append(1))
        assert all(map(whole, some(tmp_path, 5))) and ran(tmp_path) == [0, 1, 2, 3, 4] and len(checks) == 5
        perform_all(some(tmp_path, 7), 2)
    assert ran(tmp_path) == list(range(7)), "only what is missing"


@pytest.mark.parametrize("fails", ["refused", "disk"])
def test_an_error_of_a_worker_is_raised_as_it_is(tmp_path: Path, fails: str) -> None:
    # With the crew the tasks that had begun end, which others of the same names must not meet.
    with pytest.raises((WorkloadError, OSError)) as raised, crew(2):
        perform_all(some(tmp_path, n1=fails), 2)
    if fails == "refused":
        assert isinstance(raised.value, WorkloadError)
        assert (raised.value.reason, raised.value.message) == (Reason.DATA_EMPTY, "sources[1]: is empty.")
    else:
        assert isinstance(raised.value, OSError) and raised.value.errno == errno.ENOSPC
    perform_all(some(tmp_path), 1)
    assert all(map(whole, some(tmp_path)))


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_ray_is_started_here_unless_a_cluster_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray is asked for; neither of them is started."""
    import ray

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append({"shutdown": True}))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with crew(3):
        assert len(asked) == 1
    here = {"address": "local", "num_cpus": 3, "_node_ip_address": "127.0.0.1"}
    given = {name: asked[0].get(name) for name in here}
    assert given == (dict.fromkeys(here) if address else here) and asked[1:] == [{"shutdown": True}]


def test_one_worker_does_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", None)
    with crew(1):
        pass


ERRORS = [
    WorkloadError(Reason.DATA_EMPTY, "x: is empty.", hint="fill it", evidence=("a:1", "a:2")),
    WorkloadError(Reason.DATA_UNREADABLE, "y", hint="z", failure_class=FailureClass.STORAGE),
    OSError(errno.EIO, "Input/output error"),
    OSError("text alone"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_error_travels_as_text(error: WorkloadError | OSError) -> None:
    other = problem_of(as_text(error))
    assert type(other) is type(error)
    if isinstance(error, WorkloadError):
        names = ("reason", "message", "hint", "evidence", "failure_class")
        assert [getattr(other, name) for name in names] == [getattr(error, name) for name in names]
    else:
        assert isinstance(other, OSError) and other.errno == error.errno and str(error) in str(other)
