"""From single tries to the figures of recovery.json, and which goals they reach. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bench.record import spread

Row = Mapping[str, Any]
Figures = dict[str, Any]

GOALS: Figures = {
    "inPlace.p95": 3.0,
    "inPlace.detect.p95": 1.0,
    "ratio": 8.0,
    "podDelete.beyondImports.p95": 8.0,
    "podDelete.detect.p95": 5.0,
    "asyncStallRatio": 0.10,
    "sigterm.verified": "all of at least 20",
    "sigterm.lostSteps": 0,
    "fallback.ok": "all of at least 20",
    "gangOfEight.p95": 5.0,
    "shrink.p95": 10.0,
    "shrink.growLostSteps": 0,
}
AT_LEAST = {"ratio"}
TRIES = {
    "inPlace": 20,
    "torchrun": 5,
    "podDelete": 5,
    "sigterm": 20,
    "fallback": 20,
    "gangOfEight": 20,
    "shrink": 5,
}
STALL_MEGABYTES = 1000


def deal(count: int, blocks: int) -> list[int]:
    """How many of `count` tries each block gets, as evenly as they go, the first ones more."""
    return [count // blocks + (block < count % blocks) for block in range(blocks)]


def gang_began(rows: Iterable[Row], *, after: int, world: int) -> tuple[int, int, float] | None:
    """(incarnation, step, when its slowest rank entered the forward) of the first whole gang after one.

    `rows` are those of forward.jsonl: each rank's first forward in each incarnation.
    """
    times: dict[int, dict[int, Row]] = {}
    for row in rows:
        if row["incarnation"] > after:
            times.setdefault(row["incarnation"], {}).setdefault(row["rank"], row)
    whole = sorted(number for number, ranks in times.items() if len(ranks) == world)
    if not whole:
        return None
    ranks = times[whole[0]].values()
    return whole[0], max(row["step"] for row in ranks), max(row["at"] for row in ranks)


def peer_began(rows: Iterable[Row], *, after: float, world: int) -> tuple[int, float] | None:
    """(step, when the slowest rank entered the forward) of the peer's first whole start after a moment."""
    found: dict[int, Row] = {}
    for row in rows:
        if row["at"] > after:
            found.setdefault(row["rank"], row)
    if len(found) < world:
        return None
    return max(row["step"] for row in found.values()), max(row["at"] for row in found.values())


def moment(text: str) -> float:
    """Unix seconds of a time as status writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def noticed(record: Row, fault_at: float) -> float:
    """Seconds from the fault, by its own clock, until the leader knew of it."""
    return max(0.0, moment(record["at"]) + record["seconds"]["detect"] - fault_at)


def phases(tries: Sequence[Row]) -> dict[str, float]:
    """Median seconds of each phase of status.recoveries."""
    names = list(tries[0]["phases"]) if tries else []
    return {name: round(statistics.median(row["phases"][name] for row in tries), 4) for name in names}


def recoveries(tries: Sequence[Row]) -> Figures:
    """In place or after a deleted pod: seconds, how soon it was noticed, where the time went, what was lost."""
    noticing = [row["detect"] for row in tries if row["detect"] is not None]
    return {
        **spread([row["seconds"] for row in tries]),
        "detect": spread(noticing) if noticing else None,
        "lostSteps": spread([row["lostSteps"] for row in tries]),
        "phases": phases(tries),
        "tries": list(tries),
    }


def deletions(tries: Sequence[Row]) -> Figures:
    """After a deleted pod: also the imports of the pod that took its place, and the seconds beyond them."""
    imports = [row["importSeconds"] for row in tries]
    beyond = [(row["seconds"] - row["importSeconds"], row["index"] == 0) for row in tries]
    groups = {
        "beyondImports": [seconds for seconds, _ in beyond],
        "beyondImportsOfLeaders": [seconds for seconds, leads in beyond if leads],
        "beyondImportsOfFollowers": [seconds for seconds, leads in beyond if not leads],
    }
    spreads = {name: spread(values) for name, values in groups.items() if values}
    return {**recoveries(tries), "importSeconds": spread(imports), **spreads}


def leavings(tries: Sequence[Row]) -> Figures:
    """Pods told to leave."""
    return {
        "tries": len(tries),
        "verified": sum(row["verified"] for row in tries),
        "lostSteps": sum(row["lostSteps"] for row in tries),
        "rows": list(tries),
    }


def fallbacks(tries: Sequence[Row]) -> Figures:
    """Damaged newest checkpoints."""
    kinds = sorted({row["kind"] for row in tries})
    return {
        "tries": len(tries),
        "ok": sum(row["ok"] for row in tries),
        "kinds": {kind: sum(row["kind"] == kind for row in tries) for kind in kinds},
        "rows": list(tries),
    }


def ratio(figures: Figures) -> float | None:
    """How many times as long as ours the peer takes, by the medians; None without both."""
    ours, peer = figures.get("inPlace"), figures.get("torchrun")
    return round(peer["p50"] / ours["p50"], 2) if ours and peer else None


def look_up(figures: Figures, path: str) -> Any:
    """A figure by its path with dots; None when it was not measured."""
    found: Any = figures
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def enough(figures: Figures, part: str) -> bool:
    """Whether a part had as many tries, or as much state, as its goal speaks of."""
    if part == "asyncStallRatio":
        return bool((look_up(figures, "asyncSave.asynchronous.megabytes") or 0) >= STALL_MEGABYTES)
    if part not in TRIES:
        return True
    found = figures.get(part) or {}
    return bool(found.get("n", found.get("tries", 0)) >= TRIES[part])


def reached(figures: Figures) -> dict[str, bool | None]:
    """Each goal: reached, missed, or None when it was not measured often enough to say."""
    return {path: _reached(figures, path, goal) for path, goal in GOALS.items()}


def _reached(figures: Figures, path: str, goal: Any) -> bool | None:
    parts = ("inPlace", "torchrun") if path == "ratio" else (path.split(".")[0],)
    value = look_up(figures, path)
    if value is None or not all(enough(figures, part) for part in parts):
        return None
    if isinstance(goal, str):
        return bool(value == look_up(figures, f"{parts[0]}.tries"))
    return bool(value >= goal) if path in AT_LEAST else bool(value <= goal)
