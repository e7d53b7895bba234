"""The supervisor starts what is due, restarts what ends, and stops in order. Real processes, no namespaces."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.cli.cluster import supervisor
from windlass.cli.cluster.paths import Layout
from windlass.cli.cluster.state import start_ticks

RUNNER = """
import sys
from pathlib import Path
from windlass.cli.cluster.paths import Layout
from windlass.cli.cluster.supervisor import Supervisor
Supervisor(Layout(Path(sys.argv[1]))).run()
"""
SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
    return value


def entry(name: str, arguments: list[str], after: str | None = None) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, "environment": dict(os.environ), "after": after}


class Running:
    """A supervisor in a process of its own, and what it reports."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory)
        self.layout.logs.mkdir(parents=True)
        self.layout.config.mkdir()
        source = str(Path(supervisor.__file__).resolve().parents[3])
        environment = {**os.environ, "PYTHONPATH": source}
        self.process = subprocess.Popen([sys.executable, "-c", RUNNER, str(directory)], env=environment)

    def plan(self, *entries: dict[str, Any]) -> None:
        temporary = self.layout.plan.with_suffix(".new")
        temporary.write_text(json.dumps(entries))
        os.replace(temporary, self.layout.plan)

    def report(self, name: str) -> dict[str, Any]:
        if not self.layout.processes.exists():
            return {}
        found: dict[str, Any] = json.loads(self.layout.processes.read_text()).get(name, {})
        return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGTERM)
    made.process.wait(timeout=30)


def test_killed_process_is_started_again(running: Running) -> None:
    running.plan(entry("worker", SLEEP))
    first = until(lambda: running.report("worker").get("pid"))
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (pid := running.report("worker").get("pid")) != first and pid)
    report = running.report("worker")
    assert (report["pid"], report["starts"], report["lastExit"]) == (second, 2, "exit -9")


def test_process_that_fails_at_once_is_tried_with_pauses(running: Running) -> None:
    running.plan(entry("broken", [sys.executable, "-c", "print('why it failed'); raise SystemExit(7)"]))
    until(lambda: running.report("broken").get("starts", 0) >= 3)
    assert running.report("broken")["lastExit"] == "exit 7"
    assert "why it failed" in (running.layout.logs / "broken.log").read_text()


def test_program_that_does_not_exist_is_in_the_log(running: Running) -> None:
    running.plan(entry("absent", ["/nonexistent/program"]))
    log = running.layout.logs / "absent.log"
    until(lambda: log.exists() and "cannot start" in log.read_text())
    assert running.process.poll() is None


def test_process_waits_for_the_address_it_needs(running: Running, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    running.plan(entry("first", SLEEP), entry("second", SLEEP, after=path))
    until(lambda: running.report("first").get("pid"))
    assert running.report("second")["pid"] == 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        until(lambda: running.report("second").get("pid"))


def test_plan_written_later_is_added_and_nothing_is_started_twice(running: Running) -> None:
    running.plan(entry("first", SLEEP))
    first = until(lambda: running.report("first").get("pid"))
    running.plan(entry("first", SLEEP), entry("second", SLEEP))
    until(lambda: running.report("second").get("pid"))
    assert (running.report("first")["pid"], running.report("first")["starts"]) == (first, 1)


def test_stop_ends_everything_and_etcd_last(running: Running, tmp_path: Path) -> None:
    order = tmp_path / "order"
    program = (
        "import signal, sys\n"
        "def end(*_):\n"
        "    open(sys.argv[2], 'a').write(sys.argv[1] + '\\n')\n"
        "    raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[2] + sys.argv[1], 'w')\n"
        "signal.pause()\n"
    )
    names = ["etcd", "kube-apiserver", "kubelet"]
    running.plan(*(entry(name, [sys.executable, "-c", program, name, str(order)]) for name in names))
    until(lambda: all(Path(f"{order}{name}").exists() for name in names))
    # A program may be up before the supervisor has written that it is.
    pids = [until(lambda name=name: running.report(name).get("pid")) for name in names]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert order.read_text().split() == ["kubelet", "kube-apiserver", "etcd"]
    assert [pid for pid in pids if start_ticks(pid)] == []


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_answers_tells_listeners_from_silence(family: str, tmp_path: Path) -> None:
    kind = socket.AF_INET if family == "tcp" else socket.AF_UNIX
    with socket.socket(kind) as listener:
        listener.bind(("127.0.0.1", 0) if family == "tcp" else str(tmp_path / "socket"))
        name = listener.getsockname()
        address = f"{name[0]}:{name[1]}" if family == "tcp" else name
        assert not supervisor.answers(address)
        listener.listen()
        accepting = threading.Thread(target=listener.accept, daemon=True)
        accepting.start()
        assert supervisor.answers(address)
        accepting.join(timeout=5)


def test_kernel_settings_are_those_the_kubelet_writes() -> None:
    # The kubelet refuses to start when one differs and cannot be written; all six are covered.
    assert set(supervisor.KERNEL_SETTINGS) == {
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
        "kernel/keys/root_maxkeys",
        "kernel/keys/root_maxbytes",
    }
