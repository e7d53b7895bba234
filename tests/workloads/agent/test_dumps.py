"""Asking processes for their stacks: those that answer, those that cannot, and those that must not be asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from windlass_workloads.agent import dumps
from windlass_workloads.agent.pumps import LogPump
from windlass_workloads.agent.stacks import read
from workloads.agent.support import wait_for

BEGIN = "import faulthandler, signal, sys, time; "
CATCHES = BEGIN + "faulthandler.register(signal.SIGUSR1, all_threads=True); "


class Child:
    """A Python process with a log, and the pump that reads it."""

    def __init__(self, code: str) -> None:
        reader, writer = os.pipe()
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=writer)
        os.close(writer)
        self.descriptor = os.pidfd_open(self.process.pid)
        self.shown: list[bytes] = []
        self.pump = LogPump(reader, "rank 0", self.shown.append)

    async def ready(self) -> None:
        for _ in range(3000):
            if any(b"ready" in line for line in self.shown):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the child did not begin")

    async def ask(self) -> tuple[str, list[str]]:
        return await dumps.stacks_of(self.process.pid, self.descriptor, self.pump)


@pytest.fixture
def made() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.process.kill()
        child.process.wait()
        os.close(child.descriptor)


async def child_of(made: list[Child], code: str) -> Child:
    child = Child(code)
    made.append(child)
    await child.ready()
    return child


async def test_a_process_says_where_it_is_and_goes_on(made: list[Child]) -> None:
    code = CATCHES + "print('ready', flush=True)\ndef waits():\n  time.sleep(600)\nwaits()"
    child = await child_of(made, code)
    state, lines = await child.ask()
    found = read(0, state, lines)
    assert [frame.name for frame in found.frames] == ["waits", "<module>"]
    assert state in ("S", "R")
    assert child.process.poll() is None
    again = await child.ask()
    assert read(0, *again).frames == found.frames, "it can be asked again"


@pytest.mark.fault("F40")
async def test_a_stopped_process_is_not_waited_for_longer_than_a_moment(
    made: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "ANSWER_SECONDS", 0.2)
    child = await child_of(made, CATCHES + "print('ready', flush=True); time.sleep(600)")
    os.kill(child.process.pid, signal.SIGSTOP)
    wait_for("the process stops", lambda: dumps.state_of(child.process.pid) == "T")
    began = time.monotonic()
    assert await child.ask() == ("T", [])
    assert time.monotonic() - began < dumps.ANSWER_SECONDS + 5.0
    os.kill(child.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGUSR1, signal.SIG_IGN); "])
async def test_a_process_without_a_handler_is_not_asked_since_that_would_end_it(
    made: list[Child], handler: str
) -> None:
    child = await child_of(made, BEGIN + handler + "print('ready', flush=True); time.sleep(600)")
    state, lines = await child.ask()
    assert (state in ("S", "R"), lines) == (True, [])
    assert child.process.poll() is None


async def test_a_process_that_is_gone_has_no_state(made: list[Child]) -> None:
    child = await child_of(made, "print('ready', flush=True)")
    child.process.wait()
    assert await child.ask() == ("", [])
    assert await dumps.stacks_of(os.getpid(), -1, child.pump) == (dumps.state_of(os.getpid()), [])


async def test_a_talkative_process_is_cut_and_its_log_is_shown_all_the_same(
    made: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(dumps, "LINES", 7)
    code = CATCHES + "print('ready', flush=True)\nwhile True:\n  print('x', flush=True); time.sleep(0.001)"
    child = await child_of(made, code)
    _, lines = await child.ask()
    assert len(lines) == 7
    assert len(child.shown) > 7


async def test_two_may_listen_at_once_and_hear_only_what_comes_meanwhile() -> None:
    reader, writer = os.pipe()
    shown: list[bytes] = []
    pump = LogPump(reader, "rank 0", shown.append)

    async def write(text: str) -> None:
        before = len(shown)
        os.write(writer, text.encode() + b"\n")
        for _ in range(2000):
            if len(shown) > before:
                return
            await asyncio.sleep(0.001)

    await write("before")
    with pump.listen() as first:
        await write("one")
        with pump.listen() as second:
            await write("two")
        await write("three")
    await write("after")
    assert (first, second) == (["one", "two", "three"], ["two"])
    assert pump.tail() == ["before", "one", "two", "three", "after"]
    os.close(writer)
    await pump.drain(1.0)


@pytest.mark.parametrize(
    ("number", "caught"), [(signal.SIGUSR1, False), (signal.SIGINT, True), (signal.SIGKILL, False)]
)
def test_what_this_process_catches(number: signal.Signals, caught: bool) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        assert dumps.catches(os.getpid(), number) is caught
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_is_known_of_a_process_that_never_was() -> None:
    assert dumps.state_of(2**22 + 1) == ""
    assert not dumps.catches(2**22 + 1, signal.SIGUSR1)
