"""Ranks die and the gang goes on in place."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from agent_support import wait_for


@pytest.mark.fault("F37")
def test_killed_rank_resumes_in_place_from_the_newest_verified_checkpoint(make_run: Callable[..., Any]) -> None:
    run = make_run(steps=40, every=5)
    agent = run.start()
    run.reach(1, 10)
    ranks = wait_for("two ranks", lambda: agent.ranks() if len(agent.ranks()) == 2 else None)
    warm = agent.warm()
    os.kill(ranks[1], signal.SIGKILL)
    assert agent.wait() == 0, agent.log
    assert agent.verdict.result == "Succeeded"
    (row,) = run.recoveries()
    print(row)
    assert row["rung"] == "InPlace"
    assert row["class"] == "Crash"
    assert row["signal"] == signal.SIGKILL
