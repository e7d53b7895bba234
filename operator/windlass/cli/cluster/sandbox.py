"""The namespaces in which the whole cluster runs, seen from the host.

Used by `up`, `down` and `status`: start the supervisor, run a command inside, see who is inside, stop all.
It must never signal a process that is not in the sandbox: membership is the process namespace's number.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from windlass.cli.cluster import errors
from windlass.cli.cluster.commands import CommandFailed, run
from windlass.cli.cluster.paths import SANDBOX_RUN, Layout
from windlass.cli.cluster.state import start_ticks

START_SECONDS = 20.0
STOP_SECONDS = 45.0
SUPERVISOR = "windlass.cli.cluster.supervisor"


def check_permitted() -> None:
    """Try the namespaces on `true`. Raises ClusterError when the machine refuses them."""
    try:
        run(
            [
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--mount-proc",
                "mount",
                "-t",
                "tmpfs",
                "x",
                "/mnt",
            ]
        )
    except CommandFailed as failed:
        raise errors.kernel_refuses("new mount, network and process namespaces", str(failed)) from failed


def start(layout: Layout, repository: Path) -> int:
    """Start the supervisor in new namespaces and return its pid on the host. Raises ClusterError."""
    layout.logs.mkdir(parents=True, exist_ok=True)
    package_root = Path(__file__).resolve().parents[3]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(package_root)}
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["--propagation", "slave", sys.executable, "-m", SUPERVISOR]
    with (layout.logs / "supervisor.log").open("ab") as log:
        outer = subprocess.Popen(
            [*command, str(layout.directory), str(repository)],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and outer.poll() is None:
        inner = _only_child(outer.pid)
        # Seen through the process's own root: the marker lies on the sandbox's private /run.
        if inner and Path(f"/proc/{inner}/root{SANDBOX_RUN}/mounted").exists():
            return inner
        time.sleep(0.05)
    tail = (layout.logs / "supervisor.log").read_text()[-1000:]
    if outer.poll() is None:
        outer.kill()
    raise errors.kernel_refuses("the sandbox's mounts", tail)


def find(layout: Layout) -> list[int]:
    """Supervisors of this directory, also one that was started by an `up` which died before it noted it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[1:4] == ["-m", SUPERVISOR, str(layout.directory)]:
            found.append(int(path.parent.name))
    return found


def enter(pid: int, arguments: Sequence[str]) -> list[str]:
    """The command that runs `arguments` inside the sandbox of this supervisor."""
    return ["nsenter", "--target", str(pid), "--mount", "--net", "--pid", *arguments]


def run_inside(
    pid: int,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    text_input: str | None = None,
    timeout_seconds: float = 120.0,
) -> str:
    """Run a command in the sandbox to its end. Raises CommandFailed."""
    return run(
        enter(pid, arguments), environment=environment, text_input=text_input, timeout_seconds=timeout_seconds
    )


def members(pid: int) -> dict[int, str]:
    """Host pids and command names of all processes in the sandbox, nested namespaces included."""
    wanted = _namespace(pid)
    if wanted is None:
        return {}
    candidates = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    inside = {candidate for candidate in candidates if _namespace(candidate) == wanted}
    found: dict[int, str] = {}
    for member in inside | _descendants(pid):
        try:
            found[member] = Path(f"/proc/{member}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def stop(pid: int, ticks: int) -> None:
    """End the supervisor, and with it everything inside. Raises ClusterError when something stays."""
    if start_ticks(pid) != ticks:
        return
    inside = {member: start_ticks(member) for member in members(pid)}
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    killed = False
    while any(began is not None and start_ticks(member) == began for member, began in inside.items()):
        if not killed and time.monotonic() > deadline - STOP_SECONDS / 3 and start_ticks(pid) == ticks:
            os.kill(pid, signal.SIGKILL)
            killed = True
        if time.monotonic() > deadline:
            left = [member for member, began in inside.items() if start_ticks(member) == began]
            raise errors.not_ready("stopping the processes", STOP_SECONDS, f"still there: {left}")
        time.sleep(0.05)


def _only_child(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.split()[0]) if text.split() else None


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    todo = [pid]
    while todo:
        parent = todo.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(item) for item in path.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            todo.extend(child for child in children if child not in found)
            found.update(children)
    return found


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
