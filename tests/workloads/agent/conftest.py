"""A run of real agents per test; no process may be left when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workloads.agent import support


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    runs: list[Any] = []

    def make(**changes: Any) -> Any:
        arguments = changes.pop("arguments", [])
        environment = changes.pop("environment", {})
        config = support.config(tmp_path / "store", **changes)
        run = support.Run(directory=tmp_path, config=config, arguments=arguments)
        run.environment = {"TOY_STORE": str(tmp_path / "store"), **environment}
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()
        support.wait_for("no process left", lambda: not support.orphans(tmp_path / "store"), 5.0)
