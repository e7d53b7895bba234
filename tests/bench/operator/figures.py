"""The arithmetic of the operator's benchmark: what is reached, and who was made twice. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.record import percentile

GOALS: dict[str, float] = {
    "podsRatio": 1.5,
    "statusP99Seconds": 2.0,
    "residentMegabytes": 300.0,
    "writesPerChange": 3.0,
    "writesAtRest": 0,
    "firstPassSeconds": 30.0,
    "takeoverSeconds": 20.0,
    "duplicates": 0,
    "stormSeconds": 30.0,
}
"""Most that each figure may be, at the full size."""

FULL = {"jobs": 1000, "finished": 10_000, "storm": 100}
MADE_AT = {
    "firstPassSeconds": "finished",
    "writesAtRest": "finished",
    "stormSeconds": "storm",
}
"""Which size a figure depends on; the others depend on the number of jobs."""


def verdicts(measured: Mapping[str, float | None], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Each goal beside its figure. A goal of the full size is not reached by a smaller run."""
    found = {}
    for name, goal in GOALS.items():
        value = measured.get(name)
        if value is None:
            continue
        size = MADE_AT.get(name, "jobs")
        found[name] = {
            # JSON knows no infinity; what never came has no figure and is not within any goal.
            "measured": value if math.isfinite(value) else None,
            "goal": goal,
            "within": value <= goal,
            "fullSize": sizes[size] >= FULL[size],
        }
    return found


def latency(seconds: Sequence[float], missing: int) -> dict[str, float | int | None]:
    """Percentiles of how long changes took to show; one that never showed is later than all others."""
    values = [*seconds, *[float("inf")] * missing]
    if not values:
        return {"n": 0, "missing": 0, "p50": None, "p99": None, "maximum": None}

    def finite(value: float) -> float | None:
        return round(value, 4) if value != float("inf") else None

    return {
        "n": len(values),
        "missing": missing,
        "p50": finite(percentile(values, 0.50)),
        "p99": finite(percentile(values, 0.99)),
        "maximum": finite(max(values)),
    }


def duplicates(objects: Iterable[tuple[str, str, str]]) -> list[str]:
    """Places that more than one child holds, of (kind, run, place) each."""
    counted = Counter(objects)
    return sorted(f"{kind} {run} {place}" for (kind, run, place), count in counted.items() if count > 1)


def places(kind: str, bodies: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Kind, run and place of children that stay: an index for pods, a purpose for other kinds."""
    found = []
    for body in bodies:
        metadata = body["metadata"]
        labels = metadata.get("labels") or {}
        if metadata.get("deletionTimestamp") or "windlass.dev/run" not in labels:
            continue
        run = labels["windlass.dev/run"]
        # run-config-1a2b3c4d and run-ca are two purposes; the digest of a configuration is none.
        purpose = metadata["name"].removeprefix(run).lstrip("-").split("-")[0]
        found.append((kind, run, labels.get("windlass.dev/index", purpose) if kind == "Pod" else purpose))
    return found


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds of processor time that each program has used between two looks, and all together."""
    spent = {name: round(seconds - before.get(name, 0.0), 2) for name, seconds in sorted(after.items())}
    return {name: seconds for name, seconds in spent.items() if seconds > 0} | {
        "all": round(sum(max(seconds, 0.0) for seconds in spent.values()), 2)
    }


def ratio(seconds: float, beside: Sequence[float]) -> float:
    """How many times as long as the mean of the runs before and after it."""
    return round(seconds / (sum(beside) / len(beside)), 2)
