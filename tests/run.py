"""Runs the layers of the test suite one after another and prints what each took.

`make check` and `make test` call this. A failing layer does not hide the ones after it; the exit
status is non-zero if any failed. Layers need what the one before them proved, so their order counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Layer:
    """One step: a name and the command that checks it."""

    name: str
    command: tuple[str, ...]


def module(*arguments: str) -> tuple[str, ...]:
    """A Python module of this environment as a command."""
    return (sys.executable, "-m", *arguments)


CHECK = (
    Layer("format", module("ruff", "format", "--check", "--quiet", ".")),
    Layer("lint", module("ruff", "check", "--quiet", ".")),
    Layer("types", module("mypy", "--no-error-summary")),
    Layer("imports", (str(Path(sys.executable).with_name("lint-imports")),)),
    Layer("generated", (sys.executable, "scripts/generate.py", "--check")),
    Layer(
        "unit",
        module("pytest", "-q", "tests/house", "tests/unit", "tests/golden", "tests/perturb", "tests/docs"),
    ),
)
DEEP = (
    Layer("chart", module("pytest", "-q", "tests/chart")),
    Layer("contract", module("pytest", "-q", "tests/contract")),
    Layer("workloads", module("pytest", "-q", "tests/workloads")),
    Layer("cluster", module("pytest", "-q", "tests/cluster")),
    Layer("e2e", module("pytest", "-q", "tests/e2e")),
)


def run(layers: tuple[Layer, ...]) -> int:
    """Run the layers in order; return the number that failed."""
    rows: list[tuple[str, float, bool]] = []
    for layer in layers:
        print(f"== {layer.name}", flush=True)
        began = time.monotonic()
        passed = subprocess.run(layer.command, cwd=ROOT, check=False).returncode == 0
        rows.append((layer.name, time.monotonic() - began, passed))
    print("\nlayer        seconds  result")
    for name, seconds, passed in rows:
        print(f"{name:<12} {seconds:7.1f}  {'passed' if passed else 'FAILED'}")
    return sum(not passed for _, _, passed in rows)


def main(arguments: list[str]) -> int:
    """Entry: `check`, `all`, or names of layers."""
    known = {layer.name: layer for layer in CHECK + DEEP}
    if arguments == ["check"]:
        chosen = CHECK
    elif arguments == ["all"]:
        chosen = CHECK + DEEP
    elif arguments and all(name in known for name in arguments):
        chosen = tuple(known[name] for name in arguments)
    else:
        print(
            f"tests.run: expected check, all or layers of {', '.join(known)} (got {arguments})",
            file=sys.stderr,
        )
        return 2
    return 1 if run(chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
