"""The ranks of one pod, with processes that need no warm parent."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from windlass.api.contract import RankContext
from windlass.api.meta import Phase
from windlass_workloads.agent.console import show_now
from windlass_workloads.agent.dumps import catches
from windlass_workloads.agent.forking import ForkFailed, WarmParent
from windlass_workloads.agent.messages import Exited, Idle, Said, Stacks, Upward
from windlass_workloads.agent.ranks import RankHost
from windlass_workloads.agent.reaper import Ending, Reaper
from workloads.agent.support import config, state_of

MADE: list[int] = []
"""Processes of the present test."""


class SimpleParent:
    """Forks a process that does `work` with its event pipe; stands in for the warm parent."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.work = work
        self.ready = asyncio.Event()
        self.ready.set()
        self.made: list[int] = []
        self.has_built = True

    async def fork(self, context: RankContext, events: int, output: int) -> int:
        process = os.fork()
        if process == 0:
            try:
                faulthandler.disable()
                os.dup2(output, 1)
                self.work(events)
            finally:
                os._exit(0)
        self.made.append(process)
        MADE.append(process)
        return process


class BuildingParent(SimpleParent):
    """Builds ahead until the test says that it is done; forks wait for that, as the real one's do."""

    def __init__(self, work: Callable[[int], None]) -> None:
        super().__init__(work)
        self.has_built = False
        self.begun, self.done = asyncio.Event(), asyncio.Event()

    async def build_ahead(self, context: RankContext) -> None:
        self.begun.set()
        await self.done.wait()
        self.has_built = True


class BrokenParent(SimpleParent):
    async def fork(self, context: RankContext, events: int, output: int) -> int:
        raise ForkFailed("no memory for a fork")


class OwnReaper(Reaper):
    """Leaves alone the children that other tests of this process have."""

    def __init__(self, parent: SimpleParent) -> None:
        super().__init__()
        self.parent = parent

    def reap(self) -> None:
        for process in self.parent.made:
            with contextlib.suppress(ChildProcessError):
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self.settle(process, Ending.of(status))

    def strays(self) -> list[int]:
        return []


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Also not when a test fails: a stopped process would stay for ever."""
    MADE.clear()
    yield
    for process in MADE:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, 0)


def host_with(
    parent: SimpleParent, show: Callable[[bytes], None] = show_now
) -> tuple[RankHost, list[Upward]]:
    told: list[Upward] = []
    reaper = OwnReaper(parent)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, reaper.reap)
    return RankHost(cast(WarmParent, parent), reaper, told.append, show), told


def contexts(tmp_path: Path, count: int = 2) -> list[RankContext]:
    return [
        RankContext(task="train", config=config(tmp_path), incarnation=4, rank=rank, world_size=count)
        for rank in range(count)
    ]


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def sleep_long(_: int) -> None:
    time.sleep(60)


def exits(told: list[Upward]) -> dict[int, Exited]:
    return {each.rank: each for each in told if isinstance(each, Exited)}


async def test_rank_that_died_before_the_order_to_kill_was_not_killed_by_it(tmp_path: Path) -> None:
    parent = SimpleParent(sleep_long)
    host, told = host_with(parent)
    host.start(4, contexts(tmp_path))
    await until(lambda: len(parent.made) == 2)
    os.kill(parent.made[0], signal.SIGKILL)
    deadline = time.monotonic() + 5
    while state_of(parent.made[0]) != "Z" and time.monotonic() < deadline:
        pass
    host.stop("Kill")
    await until(lambda: host.incarnation == 0)
    found = exits(told)
    assert (found[0].ordered, found[1].ordered) == (False, True)
    assert (found[0].signal, found[1].signal) == (9, 9)
    assert isinstance(told[-1], Idle) and told[-1].incarnation == 4


async def test_last_words_arrive_before_the_end_is_told(tmp_path: Path) -> None:
    def speak(events: int) -> None:
        os.write(
            events, b'{"type": "Saved", "at": 1, "step": 3}\nnonsense\n{"type": "Done", "at": 2, "step": 3}'
        )
        os.write(1, b"good\nbye")

    host, told = host_with(SimpleParent(speak))
    host.start(4, contexts(tmp_path, 1))
    await until(lambda: host.incarnation == 0)
    kinds = [each.event.type if isinstance(each, Said) else type(each).__name__ for each in told]
    assert kinds == ["Saved", "Done", "Exited", "Idle"]
    assert exits(told)[0].tail == ["good", "bye"]


async def test_order_to_kill_while_waiting_for_a_warm_parent_ends_the_wait(tmp_path: Path) -> None:
    parent = SimpleParent(sleep_long)
    parent.ready.clear()
    host, told = host_with(parent)
    host.start(4, contexts(tmp_path))
    await asyncio.sleep(0)
    assert host.incarnation == 4
    assert await host.kill_and_wait(5)
    assert parent.made == [] and told == [Idle(incarnation=4)]


async def test_ranks_are_forked_once_their_model_is_built_which_is_told_as_loading(tmp_path: Path) -> None:
    parent = BuildingParent(sleep_long)
    host, told = host_with(parent)
    host.start(4, contexts(tmp_path))
    await parent.begun.wait()
    assert parent.made == []
    (said,) = told
    assert isinstance(said, Said) and (said.incarnation, said.event.phase, said.event.rank) == (
        4,
        Phase.LOAD,
        0,
    )
    parent.done.set()
    await until(lambda: len(parent.made) == 2)
    assert await host.kill_and_wait(5)
    assert len([each for each in told if isinstance(each, Said)]) == 1


async def test_order_to_kill_does_not_wait_for_what_is_being_built(tmp_path: Path) -> None:
    parent = BuildingParent(sleep_long)
    host, told = host_with(parent)
    host.start(4, contexts(tmp_path))
    await parent.begun.wait()
    assert await host.kill_and_wait(5)
    assert parent.made == [] and told[-1] == Idle(incarnation=4)
    parent.done.set()
    host.start(5, contexts(tmp_path))
    await until(lambda: len(parent.made) == 2)
    assert await host.kill_and_wait(5)


async def test_nothing_is_built_for_ranks_that_do_not_train(tmp_path: Path) -> None:
    parent = BuildingParent(sleep_long)
    host, _ = host_with(parent)
    preparing = [each.model_copy(update={"task": "prepare"}) for each in contexts(tmp_path, 1)]
    host.start(4, preparing)
    await until(lambda: parent.made)
    assert not parent.begun.is_set()
    assert await host.kill_and_wait(5)


async def test_rank_that_cannot_be_started_is_told_as_an_end(tmp_path: Path) -> None:
    host, told = host_with(BrokenParent(sleep_long))
    host.start(4, contexts(tmp_path, 1))
    await until(lambda: host.incarnation == 0)
    exited = exits(told)[0]
    assert (exited.code, exited.ordered) == (1, False)
    assert exited.tail == ["rank could not be started: no memory for a fork"]


async def test_ranks_are_not_started_on_top_of_others(tmp_path: Path) -> None:
    parent = SimpleParent(sleep_long)
    host, _ = host_with(parent)
    host.start(4, contexts(tmp_path, 1))
    host.start(5, contexts(tmp_path, 1))
    await until(lambda: parent.made)
    assert host.incarnation == 4
    assert await host.kill_and_wait(5)
    assert len(parent.made) == 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
async def test_signal_that_ends_a_rank_is_told(tmp_path: Path, number: signal.Signals) -> None:
    host, told = host_with(SimpleParent(lambda _: os.kill(os.getpid(), number)))
    host.start(4, contexts(tmp_path, 1))
    await until(lambda: host.incarnation == 0)
    assert (exits(told)[0].signal, exits(told)[0].code) == (number, 128 + number)


def answer_when_asked(_: int) -> None:
    os.dup2(1, 2)
    faulthandler.register(signal.SIGUSR1, file=2)
    os.write(1, b"asked for nothing yet\n")
    time.sleep(60)


async def test_ranks_tell_their_stacks_when_asked_and_go_on(tmp_path: Path) -> None:
    parent, shown = SimpleParent(answer_when_asked), list[bytes]()
    host, told = host_with(parent, shown.append)
    host.start(4, contexts(tmp_path))
    await until(lambda: len(parent.made) == 2 and all(catches(each, signal.SIGUSR1) for each in parent.made))
    await until(lambda: sum(b"asked for nothing yet" in each for each in shown) == 2)
    os.kill(parent.made[1], signal.SIGSTOP)
    await until(lambda: state_of(parent.made[1]) == "T")
    host.dump(4)
    await until(lambda: sum(isinstance(each, Stacks) for each in told) == 2)
    found = {each.rank: each for each in told if isinstance(each, Stacks)}
    assert found[0].incarnation == 4
    assert any("in answer_when_asked" in line for line in found[0].lines)
    assert (found[1].state, found[1].lines) == ("T", [])
    assert host.incarnation == 4
    assert await host.kill_and_wait(5)


@pytest.mark.parametrize("incarnation", [3, 5])
async def test_ranks_of_another_incarnation_are_not_asked(tmp_path: Path, incarnation: int) -> None:
    parent = SimpleParent(answer_when_asked)
    host, told = host_with(parent)
    host.start(4, contexts(tmp_path, 1))
    await until(lambda: parent.made and catches(parent.made[0], signal.SIGUSR1))
    host.dump(incarnation)
    assert await host.kill_and_wait(5)
    assert not any(isinstance(each, Stacks) for each in told)
