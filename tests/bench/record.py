"""What every benchmark writes: figures, how they were got, versions, commit and machine.

Figures of a shared machine are noisy: benchmarks give medians and ratios of interleaved runs, and keep each.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Count, median, p95 and the extremes."""
    return {
        "n": len(values),
        "p50": round(statistics.median(values), 4),
        "p95": round(percentile(values, 0.95), 4),
        "minimum": round(min(values), 4),
        "maximum": round(max(values), 4),
    }


def machine() -> dict[str, Any]:
    """Processor, cores and memory."""
    info = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "?"
    )
    memory = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    return {
        "processor": model,
        "flags": [flag for flag in FLAGS if f" {flag} " in info],
        "cores": len(os.sched_getaffinity(0)),
        "memoryBytes": int(memory.split()[1]) * 1024,
        "kernel": platform.release(),
    }


def versions(*names: str) -> dict[str, str]:
    """Installed versions of the named packages, and Python's."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def commit() -> str:
    """The commit, with a mark if the tree has changes."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    dirty = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("-modified" if dirty.stdout.strip() else "")


def write(name: str, figures: dict[str, Any], packages: Sequence[str] = ("torch", "transformers")) -> Path:
    """Write build/bench/NAME.json and print the figures."""
    path = ROOT / "build" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        **figures,
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(*packages),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"written: {path.relative_to(ROOT)}")
    return path
