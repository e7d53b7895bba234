"""Runs the layers of the test suite and prints what each took.

`make check` and `make test` call this. A failing layer does not hide the ones after it; the exit status is
non-zero if any failed. Layers of a stage run two at a time, stages one after another. Each layer of tests leaves
its results in build/test/NAME.xml; `all` ends by holding docs/faults.md against them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "test"


@dataclass(frozen=True, slots=True)
class Layer:
    """One step: a name and the command that checks it."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How a layer ended. `processor`: seconds of it that the layer used, with all processes that it waited for."""

    name: str
    seconds: float
    processor: float
    passed: bool


def module(*arguments: str) -> tuple[str, ...]:
    """A Python module of this environment as a command."""
    return (sys.executable, "-m", *arguments)


def suite(name: str, *paths: str) -> Layer:
    """A layer of pytest, its results in JUnit's form beside its output.

    Hypothesis tries the same examples each time: a run says what its commit did. Plain pytest looks for new ones.
    """
    options = ("-q", "--hypothesis-profile=ci", f"--junitxml={RESULTS / name}.xml")
    return Layer(name, module("pytest", *options, *paths))


CORE = ("tests/unit/core", "tests/golden", "tests/docs")
UNIT = tuple(f"tests/unit/{part}" for part in ("api", "bench", "cli", "cluster", "shell"))
# The longest first, so that the last to end does not stand alone.
CHECK = (
    suite("core", *CORE),
    suite("unit", "tests/house", *UNIT),
    Layer("types", module("mypy", "--no-error-summary")),
    Layer("imports", (str(Path(sys.executable).with_name("lint-imports")),)),
    Layer("generated", (sys.executable, "scripts/generate.py", "--check")),
    Layer("lint", module("ruff", "check", "--quiet", ".")),
    Layer("format", module("ruff", "format", "--check", "--quiet", ".")),
)
# Built here, a first time takes ten minutes of both processors: no test has that much time.
PROGRAMS = Layer("programs", (sys.executable, "-c", "from tests.contract import server; server.programs()"))
TRAINING = tuple(f"tests/workloads/{part}" for part in ("train", "checkpoint", "data", "corpus", "tracking"))
# None of these needs both processors for long, their limits allow for a neighbour, and none but the one of clusters
# touches the machine's networks and mounts. The longest first, again.
DEEP = (
    suite("training", *TRAINING),
    suite("agents", "tests/workloads/agent", "tests/workloads/custom"),
    suite("contract", "tests/contract"),
    suite("cluster", "tests/cluster"),
    suite("perturb", "tests/perturb"),
    suite("chart", "tests/chart"),
)
# Pods that train on a cluster, with nothing beside them.
E2E = (suite("e2e", "tests/e2e"),)
FAULTS = Layer("faults", (sys.executable, "scripts/fault_proof.py", str(RESULTS)))


def run_one(layer: Layer) -> Result:
    """Run a layer with its output in view."""
    print(f"== {layer.name}", flush=True)
    return measured(layer)


def run_quietly(layer: Layer) -> Result:
    """Run a layer and print its output whole when it ends, so that two at a time stay readable."""
    # A file and no pipe: what a failed test leaves running must not hold the layer up.
    with tempfile.TemporaryFile("w+") as output:
        result = measured(layer, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        print(f"== {layer.name}\n{output.read()}", end="", flush=True)
    return result


def measured(layer: Layer, **output: Any) -> Result:
    """Run a layer's command and look at what it took."""
    began = time.monotonic()
    with subprocess.Popen(layer.command, cwd=ROOT, **output) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    return Result(layer.name, seconds, used.ru_utime + used.ru_stime, process.returncode == 0)


def run(*stages: Sequence[Layer]) -> int:
    """Run the stages in turn, the layers of each two at a time; return the number that failed."""
    results: list[Result] = []
    for stage in stages:
        with ThreadPoolExecutor(2) as pool:
            results += pool.map(run_quietly if len(stage) > 1 else run_one, stage)
    print("\nlayer        seconds  processor  result")
    for each in results:
        passed = "passed" if each.passed else "FAILED"
        print(f"{each.name:<12} {each.seconds:7.1f} {each.processor:10.1f}  {passed}")
    return sum(not each.passed for each in results)


def main(arguments: list[str]) -> int:
    """Entry: `check`, `all`, or names of layers."""
    known = {layer.name: layer for layer in (*CHECK, PROGRAMS, *DEEP, *E2E)}
    if arguments == ["check"]:
        failed = run(CHECK)
    elif arguments == ["all"]:
        for old in RESULTS.glob("*.xml"):  # what an earlier run saw proves nothing about this one
            old.unlink()
        failed = run(CHECK, (PROGRAMS,), DEEP, E2E, (FAULTS,))
    elif arguments and all(name in known for name in arguments):
        failed = run(*((known[name],) for name in arguments))
    else:
        print(
            f"tests.run: expected check, all or layers of {', '.join(known)} (got {arguments})",
            file=sys.stderr,
        )
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
