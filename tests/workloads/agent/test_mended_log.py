"""A container's log that stalls holds nobody up."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from windlass.api.meta import ExitCode
from windlass_workloads.agent import console as consoles
from windlass_workloads.agent.console import Console
from windlass_workloads.agent.pumps import LogPump
from workloads.agent import support
from workloads.agent.support import MakeRun


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes little before it blocks who writes."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for each in (reader, writer):
        os.close(each)


def read_until(reader: int, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += os.read(reader, 1 << 16)
    return data


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    console = Console(writer)
    wanted = b"".join(b"line %d\n" % number for number in range(5000))
    for line in wanted.splitlines(keepends=True):
        console.show(line)
    assert read_until(reader, b"line 4999\n") == wanted
    assert console.drain(5.0)


def test_a_reader_that_stalls_holds_nobody_up_and_is_told_what_was_left_out(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "KEPT_BYTES", 100_000)
    reader, writer = pipe
    console = Console(writer)
    line = b"x" * 99 + b"\n"
    began = time.monotonic()
    for _ in range(10_000):
        console.show(line)
    assert time.monotonic() - began < 5.0
    assert not console.drain(0.01)
    threading.Thread(target=lambda: (console.drain(10.0), console.show(b"end\n"))).start()
    rows = read_until(reader, b"end\n").splitlines(keepends=True)
    assert 990 <= rows.count(line) <= 1100
    notes = [
        re.fullmatch(rb"\[agent\] warning (\d+) lines left out: .*\n", row) for row in rows if row != line
    ]
    assert rows[-1] == b"end\n" and notes.pop() is None
    assert rows.count(line) + sum(int(note[1]) for note in notes if note) == 10_000


def test_a_log_that_nobody_can_read_any_more_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = Console(writer)
    console.write("lost ü \udcff\n")
    assert console.drain(5.0)
    os.close(writer)


async def test_a_pump_shows_lines_where_it_is_told_to() -> None:
    reader, writer = os.pipe()
    shown: list[bytes] = []
    pump = LogPump(reader, "rank 0", shown.append)
    os.write(writer, b"one\ntwo")
    os.close(writer)
    await pump.drain(5.0)
    assert shown == [b"[rank 0] one\n", b"[rank 0] two\n"]
    assert pump.tail() == ["one", "two"]


@pytest.mark.workloads
def test_a_run_whose_log_stalls_goes_on(
    make_run: MakeRun, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, writer = pipe
    os.write(writer, b"x" * 4096)
    real = subprocess.Popen

    def stalled(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, **{**options, "stdout": writer, "stderr": writer})

    run = make_run(steps=5, every=5, ranks=1)
    monkeypatch.setattr(support.subprocess, "Popen", stalled)
    agent = run.start(0)
    assert agent.process.wait(30) == ExitCode.SUCCESS
    assert agent.verdict.result == "Succeeded"
