"""A warm parent that neither comes up nor ends, as with a network volume that does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import cast

import pytest

from windlass.api.meta import ExitCode
from windlass_workloads.agent import forking
from windlass_workloads.agent.forking import WarmParent
from windlass_workloads.agent.reaper import Ending, Reaper
from workloads.agent.support import MakeRun
from workloads.agent.test_rank_host import until


@pytest.mark.workloads
def test_imports_that_hang_end_the_run_with_the_evidence(make_run: MakeRun) -> None:
    run = make_run(
        budgets={"crash": 0}, environment={"TOY_PRELOAD": "hang"}, arguments=["--import-seconds", "0.5"]
    )
    agent = run.start()
    assert agent.wait(40) == ExitCode.BUDGET, agent.log
    failure = agent.verdict.failure
    assert failure is not None and failure.first_failed.pod == "toy-0-1"
    assert any("has not imported its modules within 0.5 s" in line for line in failure.evidence), failure
    assert agent.log.count("warm parent ended") == forking.TRIES


class Unkillable(Reaper):
    """Its only child ends when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def claim(self, process: int) -> asyncio.Future[Ending]:
        return self.ending


async def test_one_that_cannot_be_killed_is_told_as_broken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "KILL_SECONDS", 0.01)
    reaper = Unkillable()
    told: list[list[str]] = []
    parent = WarmParent(
        "no_such_tasks",
        cast(Reaper, reaper),
        on_ready=lambda _: None,
        on_broken=told.append,
        environment=os.environ,
    )
    parent.limit_seconds = 0.0
    parent.start()
    await until(lambda: told)
    assert "survives SIGKILL" in told[0][-1]
    process = parent.process
    reaper.ending.set_result(Ending(137, signal.SIGKILL))
    await parent.stop()
    os.waitpid(process, 0)  # noqa: ASYNC222 - it was killed
