"""Runs of real agents whose ranks are scripts of the tests; no process may be left when one ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from workloads.agent.conftest import make_run as make_run
from workloads.agent.support import Agent, Run

SCRIPT = Path(__file__).with_name("script.py")
# Each start of a rank imports torch, and the machine may be busy.
PATIENCE = 900.0


@dataclass
class Scripted:
    """A run of script.py, and what its rank 0 wrote down: the batch and loss of each step, as it did them."""

    run: Run
    home: Path
    agents: list[Agent] = field(default_factory=list)

    def start(self) -> Agent:
        self.agents.append(self.run.start())
        return self.agents[-1]

    def finish(self) -> Agent:
        agent = self.start()
        assert agent.wait(PATIENCE) == 0, agent.log
        return agent

    def lives(self) -> list[tuple[int, int, str]]:
        rows = [line.split() for line in (self.home / "losses").read_text().splitlines()]
        return [(int(step), int(batch), loss) for step, batch, loss in rows]

    def losses(self) -> dict[int, str]:
        return {step: loss for step, _, loss in self.lives()}

    def variables(self, rank: int) -> dict[str, str]:
        lines = (self.home / f"environment-{rank}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def scripted(make_run: Callable[..., Run], tmp_path: Path) -> Callable[..., Scripted]:
    def make(
        name: str = "one", *, fault: str = "-1:0:", environment: dict[str, str] | None = None, **more: Any
    ) -> Scripted:
        home = tmp_path / name
        home.mkdir()
        variables = {"SCRIPT_HOME": str(home), "FAULT": fault, **(environment or {})}
        more.setdefault("custom", ["python", str(SCRIPT)])
        run = make_run(environment=variables, **more)
        run.directory = home
        run.config = run.config.model_copy(update={"store_path": str(home / "store")})
        return Scripted(run, home)

    return make
