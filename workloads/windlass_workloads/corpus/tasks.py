"""Runs the tasks of a stage, each of which makes one directory that appears whole or not at all.

Called by `stages`. The directory is its own marker: a task whose directory is there has run, so that a stage that was
killed goes on with what is missing. One worker runs in this process; more run as tasks of Ray, in processes of
their own on this node or on the nodes of the cluster that Ray was started on.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from windlass_workloads import heap

REPORT: Final = "report.json"
UNFINISHED: Final = ".new-"
KEPT_BYTES, BLOCK_BYTES = 64 << 20, 32 << 20
"""See `heap`: arrays of a batch come and go."""
Json = dict[str, Any]


class Task(Protocol):
    """Something to do; what it does follows from its fields and from the files that they name."""

    @property
    def directory(self) -> Path:
        """What it makes."""
        ...

    def run(self, directory: Path) -> Json:
        """Write into a directory; what is to be known of it, as JSON."""
        ...


def perform(task: Task) -> None:
    """Run a task whose directory is not there yet."""
    if task.directory.exists():
        return
    heap.keep(KEPT_BYTES, BLOCK_BYTES)
    with appearing(task.directory) as temporary:
        report = task.run(temporary)
        write_json(temporary / REPORT, report)


def report_of(task: Task) -> Json:
    """What a task that has run says."""
    report: Json = json.loads((task.directory / REPORT).read_text(encoding="utf-8"))
    return report


@contextmanager
def crew(workers: int) -> Iterator[None]:
    """What tasks of all stages run on: nothing for one worker, else Ray, which takes seconds to start."""
    if workers == 1:
        yield
        return
    from windlass_workloads.corpus.on_ray import started

    with started(workers):
        yield


def perform_all(tasks: Sequence[Task], workers: int, check: Callable[[], None] = lambda: None) -> None:
    """Run all that have not run, within a `crew`; the first error is raised as it is.

    `check` is called after each task and may raise.
    """
    missing = [task for task in tasks if not task.directory.exists()]
    # What killed ones have left is of no use. Nobody else is at work here: see `stages.make`.
    for directory in {task.directory.parent for task in missing}:
        clear(directory)
    if workers == 1 or len(missing) < 2:
        for task in missing:
            perform(task)
            check()
        return
    from windlass_workloads.corpus.on_ray import perform_on_ray

    for _ in perform_on_ray(missing, workers):
        check()


@contextmanager
def appearing(final: Path) -> Iterator[Path]:
    """A directory to write into that has its name only once everything is on the disk."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{final.name}.", dir=final.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        for path in temporary.iterdir():
            flush(path)
        flush(temporary)
        put(temporary, final)
        flush(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear(directory: Path, name: str = "") -> None:
    """Remove what was not finished, or of that what would have had this name."""
    for left in directory.glob(f"{UNFINISHED}{name + '.' if name else ''}*"):
        shutil.rmtree(left, ignore_errors=True)


def put(temporary: Path, final: Path) -> None:
    """Give a directory its name; another process may have made the same one meanwhile."""
    try:
        temporary.rename(final)
    except OSError:
        if not final.exists():
            raise


def flush(path: Path) -> None:
    """Have a file or directory on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """A value as text that is the same for equal values."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
