"""The wish to save reaches ranks that are only just starting."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from windlass.api.meta import ExitCode
from windlass_workloads.agent.messages import Said
from workloads.agent.support import MakeRun, wait_for
from workloads.agent.test_rank_host import SimpleParent, contexts, exits, host_with, until


def wait_for_the_wish(events: int) -> None:
    signal.alarm(8)
    signal.sigwait([signal.SIGTERM])
    os.write(events, b'{"type": "Saved", "at": 1, "step": 3}\n')


async def test_ranks_that_start_after_the_wish_to_save_hear_of_it(tmp_path: Path) -> None:
    # Forked with the signal blocked, as the warm parent does it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        parent = SimpleParent(wait_for_the_wish)
        parent.ready.clear()
        host, told = host_with(parent)
        host.start(4, contexts(tmp_path))
        host.stop("Save")
        parent.ready.set()
        await until(lambda: host.incarnation == 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert [each.code for each in exits(told).values()] == [0, 0]
    assert sum(isinstance(each, Said) for each in told) == 2


async def test_a_wish_to_save_is_not_kept_for_the_next_incarnation(tmp_path: Path) -> None:
    parent = SimpleParent(lambda _: None)
    host, told = host_with(parent)
    for incarnation in (4, 5):
        host.start(incarnation, contexts(tmp_path, 1))
        if incarnation == 4:
            host.stop("Save")
        await until(lambda: host.incarnation == 0)
    assert exits(told)[0].signal is None, "the second rank was not asked for anything"


@pytest.mark.workloads
@pytest.mark.fault("F26")
def test_a_drain_between_fork_and_first_words_of_a_rank_still_saves(make_run: MakeRun) -> None:
    run = make_run(steps=4000, every=1000, ranks=1, grace=60, environment={"TOY_PRELOAD": "hold"})
    agent = run.start()
    wait_for("the rank to be forked", lambda: run.store.exists("held"))
    agent.send(signal.SIGTERM)
    wait_for("the save to be asked for", lambda: "Saving" in agent.log)
    run.store.write("release", b"")
    assert agent.wait(20) == ExitCode.PREEMPTED, agent.log
    assert run.verified() == [agent.verdict.step]
    assert agent.verdict.lost_steps == 0
