"""A run of real agents per test; no process may be left when it ends."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


def _support() -> Any:
    spec = importlib.util.spec_from_file_location("agent_support", HERE / "support.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["agent_support"] = module
    spec.loader.exec_module(module)
    return module


support = sys.modules.get("agent_support") or _support()


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
