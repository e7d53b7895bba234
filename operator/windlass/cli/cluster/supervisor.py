"""Process 1 of the cluster's sandbox: makes its mounts, starts its processes and restarts those that end.

Started by `sandbox.start` in new mount, process and network namespaces, with the cluster's directory
and the repository as arguments. When it ends, the kernel ends everything in the sandbox and drops every
mount and link of it. It must never touch the host's mounts: its own namespace receives but does not send.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from windlass.cli.cluster.paths import HOST_REPOSITORY, HOST_USR, SANDBOX_RUN, Layout

# What the kubelet wants to find; it writes those that differ. Files of ours are mounted over them, so
# that the machine's own settings stay as they are.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
TICK_SECONDS = 0.1
# The API server would wait for its watchers; only etcd has something to lose, and it ends in time.
STOP_SECONDS = 2.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 10.0
# Ended in this order: the kubelet first, so that it does not restart what goes; etcd last.
LAST_STOPPED = ("kube-apiserver", "containerd", "etcd")


@dataclass(slots=True)
class Process:
    """One process of the plan and how it fared."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    after: str | None
    pid: int = 0
    starts: int = 0
    last_exit: str = ""
    next_start: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    started_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Runs a plan until it is told to stop."""

    layout: Layout
    processes: dict[str, Process] = field(default_factory=dict)
    stopping: bool = False
    plan_stamp: float = 0.0

    def run(self) -> None:
        """Loop until SIGTERM, then stop everything in order."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while not self.stopping:
            self._read_plan()
            changed = self._reap() | self._start_due()
            if changed:
                self._report()
            time.sleep(TICK_SECONDS)
        self._stop_all()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _read_plan(self) -> None:
        try:
            stamp = self.layout.plan.stat().st_mtime
        except FileNotFoundError:
            return
        if stamp == self.plan_stamp:
            return
        self.plan_stamp = stamp
        for entry in json.loads(self.layout.plan.read_text()):
            if entry["name"] not in self.processes:
                self.processes[entry["name"]] = Process(**entry)

    def _start_due(self) -> bool:
        now, changed = time.monotonic(), False
        for process in self.processes.values():
            if process.pid or now < process.next_start:
                continue
            if process.after is not None and not answers(process.after):
                continue
            self._start(process)
            changed = True
        return changed

    def _start(self, process: Process) -> None:
        log = (self.layout.logs / f"{process.name}.log").open("ab")
        with log:
            try:
                child = subprocess.Popen(
                    process.arguments,
                    env=process.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as problem:
                log.write(f"cannot start: {problem}\n".encode())
                self._schedule(process, str(problem))
                return
        process.pid = child.pid
        process.starts += 1
        process.started_at = time.monotonic()
        # Python must not wait for it a second time: _reap does.
        child.returncode = 0

    def _reap(self) -> bool:
        changed = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return changed
            if pid == 0:
                return changed
            for process in self.processes.values():
                if process.pid == pid:
                    process.pid = 0
                    self._schedule(process, f"exit {os.waitstatus_to_exitcode(status)}")
                    changed = True

    def _schedule(self, process: Process, reason: str) -> None:
        process.last_exit = reason
        if time.monotonic() - process.started_at > LONGEST_BACKOFF_SECONDS:
            process.backoff_seconds = FIRST_BACKOFF_SECONDS
        process.next_start = time.monotonic() + process.backoff_seconds
        process.backoff_seconds = min(process.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)

    def _report(self) -> None:
        report = {
            process.name: {"pid": process.pid, "starts": process.starts, "lastExit": process.last_exit}
            for process in self.processes.values()
        }
        temporary = self.layout.processes.with_suffix(".new")
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        os.replace(temporary, self.layout.processes)

    def _stop_all(self) -> None:
        early = [name for name in self.processes if name not in LAST_STOPPED]
        for names in (early, *([name] for name in LAST_STOPPED)):
            waiting = [self.processes[name] for name in names if name in self.processes]
            for process in waiting:
                if process.pid:
                    os.kill(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while any(process.pid for process in waiting) and time.monotonic() < deadline:
                self._reap()
                time.sleep(TICK_SECONDS / 2)


def answers(address: str) -> bool:
    """Whether something listens at `host:port` or on the Unix socket at that path."""
    family = socket.AF_UNIX if address.startswith("/") else socket.AF_INET
    host, _, port = address.rpartition(":")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        target: Any = address if family == socket.AF_UNIX else (host, int(port))
        return probe.connect_ex(target) == 0


def make_mounts(layout: Layout, repository: Path) -> None:
    """The sandbox's own /run, read-only views of the host, Kubernetes' built-in paths, kernel settings."""
    _mount("-t", "tmpfs", "-o", "mode=0755,nosuid,nodev", "windlass", "/run")
    for source, target in ((Path("/usr"), HOST_USR), (repository, HOST_REPOSITORY)):
        target.mkdir(parents=True)
        _mount("--bind", str(source), str(target))
        _mount("-o", "remount,bind,ro", str(target))
    if layout.directory.is_relative_to(repository):
        # The view of the repository must not show the cluster's keys and other namespaces' volumes.
        hidden = HOST_REPOSITORY / layout.directory.relative_to(repository)
        _mount("-t", "tmpfs", "-o", "ro,mode=0555", "windlass", str(hidden))
    for number, parent in enumerate(sorted({Path(name).parent for name in layout.overlays})):
        _make_writable(parent, SANDBOX_RUN / "parents" / str(number))
    for name, own in layout.overlays.items():
        own.mkdir(parents=True, exist_ok=True)
        Path(name).mkdir(exist_ok=True)
        _mount("--bind", str(own), name)
        # The kubelet shares what pods mount with them through this tree.
        _mount("--make-rshared", name)
    for name, value in KERNEL_SETTINGS.items():
        setting = Path("/proc/sys") / name
        if setting.exists():
            stand_in = SANDBOX_RUN / "sysctl" / name
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.write_text(f"{value}\n")
            _mount("--bind", str(stand_in), str(setting))


def _make_writable(folder: Path, aside: Path) -> None:
    """Let directories be made in a folder of the host without the host having them.

    A tmpfs takes its place, with everything that was there mounted into it.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
    aside.mkdir(parents=True)
    _mount("--rbind", str(folder), str(aside))
    _mount("-t", "tmpfs", "-o", "mode=0755,nosuid,nodev", "windlass", str(folder))
    for entry in aside.iterdir():
        twin = folder / entry.name
        if entry.is_symlink():
            twin.symlink_to(os.readlink(entry))
            continue
        twin.mkdir() if entry.is_dir() else twin.touch()
        _mount("--rbind", str(entry), str(twin))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    """Entry of the sandbox: arguments are the cluster's directory and the repository."""
    layout, repository = Layout(Path(sys.argv[1])), Path(sys.argv[2])
    make_mounts(layout, repository)
    (SANDBOX_RUN / "mounted").touch()
    Supervisor(layout).run()


if __name__ == "__main__":
    main()
