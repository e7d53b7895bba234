"""What one cluster did to this machine, kept in `state.json` so that `down` can undo exactly that.

Written by `up` before each change it records, read by `down` and `status`.
It must never be the evidence that something runs: processes are checked by pid and start time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from windlass.cli.cluster import errors
from windlass.cli.cluster.paths import Layout


@dataclass(slots=True)
class State:
    """The record of one cluster; `provider` is `embedded` or `kind`."""

    provider: str
    directory: str
    repository: str
    network: str
    supervisor_pid: int = 0
    supervisor_start_ticks: int = 0
    server: str = ""
    sysctls: dict[str, str] = field(default_factory=dict)
    cgroups: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    phases_seconds: dict[str, float] = field(default_factory=dict)
    setup_seconds: float = 0.0
    ready: bool = False


def read(layout: Layout) -> State | None:
    """The recorded state; None when there is none or it was cut short by a crash."""
    try:
        document = json.loads(layout.state.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    names = {known.name for known in fields(State)}
    return State(**{key: value for key, value in document.items() if key in names})


def write(layout: Layout, state: State) -> None:
    """Replace the recorded state in one step."""
    layout.directory.mkdir(parents=True, exist_ok=True)
    temporary = layout.state.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(temporary, layout.state)


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = text.rsplit(")", 1)[1].split()
    return None if after_name[0] == "Z" else int(after_name[19])


def supervisor_is_alive(state: State) -> bool:
    """Whether the recorded supervisor still runs; a reused pid does not count."""
    return state.supervisor_pid > 0 and start_ticks(state.supervisor_pid) == state.supervisor_start_ticks


def check_directory(layout: Layout) -> None:
    """Refuse a directory that has content which no `up` made.

    Raises ClusterError when files are there and the state file and lock are not.
    """
    if layout.state.exists() or layout.lock.exists() or not layout.directory.exists():
        return
    if not layout.directory.is_dir() or any(layout.directory.iterdir()):
        raise errors.directory_is_foreign(str(layout.directory))


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the directory for one `up` or `down`. Raises ClusterError when another holds it."""
    layout.directory.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise errors.directory_is_busy(
                str(layout.directory), handle.read().strip() or "unknown"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
