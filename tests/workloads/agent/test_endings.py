"""How processes end: each ending is told once, to whoever asked, and no child of a rank is forgotten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from windlass_workloads.agent.lifeline import PR_SET_CHILD_SUBREAPER, process_control
from windlass_workloads.agent.reaper import REMEMBERED, Ending, Reaper, children_of
from workloads.agent.support import state_of, wait_for


@pytest.mark.parametrize(
    ("status", "code", "number"),
    [(0, 0, None), (1 << 8, 1, None), (17 << 8, 17, None), (255 << 8, 255, None)]
    + [(number, 128 + number, number) for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV)]
    + [(signal.SIGSEGV | 0x80, 139, signal.SIGSEGV)],
)
def test_a_wait_status_in_words(status: int, code: int, number: int | None) -> None:
    assert Ending.of(status) == Ending(code=code, signal=number)


async def test_an_ending_is_told_to_who_claimed_it_before_or_after() -> None:
    reaper = Reaper()
    reaper.reap = lambda: None  # type: ignore[method-assign]
    early = reaper.claim(101)
    reaper.settle(101, Ending(0, None))
    reaper.settle(102, Ending(1, None))
    late = reaper.claim(102)
    assert (await early, await late) == (Ending(0, None), Ending(1, None))
    again = reaper.claim(102)
    assert not again.done(), "a process id that comes again is another process"
    again.cancel()
    reaper.settle(102, Ending(2, None))


async def test_endings_that_nobody_asks_for_fill_no_memory() -> None:
    reaper = Reaper()
    reaper.reap = lambda: None  # type: ignore[method-assign]
    for process in range(10_000, 10_000 + 2 * REMEMBERED):
        reaper.settle(process, Ending(0, None))
    assert len(reaper._unclaimed) == REMEMBERED
    assert reaper.claim(10_000 + 2 * REMEMBERED - 1).done()
    assert not reaper.claim(10_000).done(), "the oldest are forgotten"


def test_a_child_is_found_while_it_lives_and_a_dead_one_is_not() -> None:
    living = subprocess.Popen(["sleep", "60"])
    dead = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        found = children_of(os.getpid())
        assert living.pid in found
        assert dead.pid not in found, "a zombie is no child to end"
    finally:
        living.kill()
        living.wait()
        dead.wait()
    assert living.pid not in children_of(os.getpid())


def sleeping_child() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


async def test_strays_are_the_children_that_nobody_claimed() -> None:
    reaper = Reaper()
    reaper.reap = lambda: None  # type: ignore[method-assign]
    mine, stray = sleeping_child(), sleeping_child()
    try:
        future = reaper.claim(mine.pid)
        strays = reaper.strays()
        assert stray.pid in strays and mine.pid not in strays
        future.cancel()
    finally:
        for child in (mine, stray):
            child.kill()
            child.wait()


HALF_GONE = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)  # exit(2): of this thread alone
"""


def test_one_whose_first_thread_has_ended_is_a_stray_until_all_have() -> None:
    """Its own children become the agent's only then."""
    reaper = Reaper()
    reaper.reap = lambda: None  # type: ignore[method-assign]
    child = subprocess.Popen([sys.executable, "-c", HALF_GONE])
    try:
        wait_for("its first thread to end", lambda: state_of(child.pid) == "Z")
        assert child.pid not in children_of(os.getpid())
        assert child.pid in reaper.strays()
    finally:
        child.kill()
        child.wait()


def test_a_name_with_brackets_and_spaces_confuses_nobody(tmp_path: Any) -> None:
    odd = tmp_path / "a) S (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "60"])
    try:
        assert child.pid in children_of(os.getpid())
    finally:
        child.kill()
        child.wait()


ADOPTS = """
import os, subprocess, sys
from windlass_workloads.agent.lifeline import PR_SET_CHILD_SUBREAPER, process_control
from windlass_workloads.agent.reaper import children_of
process_control(PR_SET_CHILD_SUBREAPER, 1)
middle = subprocess.Popen([sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"],
                          stdout=subprocess.PIPE, text=True)
orphan = int(middle.stdout.readline())
middle.wait()
print(orphan in children_of(os.getpid()))
os.kill(orphan, 9)
os.waitpid(orphan, 0)
"""


def test_orphans_become_the_agents_own() -> None:
    # In a process of its own: what prctl sets would stay with all other tests.
    from workloads.agent.support import ROOT

    paths = os.pathsep.join(str(ROOT / name) for name in ("operator", "workloads"))
    done = subprocess.run(
        [sys.executable, "-c", ADOPTS],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "True"


def test_a_refusal_of_the_kernel_is_an_error() -> None:
    with pytest.raises(OSError, match=r"prctl\(9999\)"):
        process_control(9999, 0)
    assert PR_SET_CHILD_SUBREAPER == 36
