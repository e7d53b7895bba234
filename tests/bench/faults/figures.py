"""From rows of single faults to the figures of faults.json. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.record import spread

Row = Mapping[str, Any]

LEAST_SINGLES, LEAST_DOUBLES, LEAST_OF_A_CLASS = 200, 20, 10
DETECT_SECONDS = 1.0


def spreads(pairs: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """The spread of the values of each name, by name."""
    values: dict[str, list[float]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: spread(values[name]) for name in sorted(values)}


def by_kind(rows: Sequence[Row], value: Callable[[Row], float | None]) -> dict[str, Any]:
    """The spread of a value by kind of fault."""
    found = [(" + ".join(row["kinds"]), value(row)) for row in rows]
    return spreads((name, each) for name, each in found if each is not None)


def recoveries(rows: Sequence[Row]) -> list[Row]:
    """The rows that the run itself wrote about its recoveries."""
    return [each for row in rows for each in row.get("recoveries", [])]


def phases(rows: Sequence[Row]) -> dict[str, Any]:
    """The spread of the seconds of each phase, by rung."""
    found = recoveries(rows)
    rungs = sorted({str(each["rung"]) for each in found})
    return {
        rung: spreads(
            (name, seconds)
            for each in found
            if each["rung"] == rung
            for name, seconds in each["seconds"].items()
        )
        for rung in rungs
    }


def figures(singles: Sequence[Row], doubles: Sequence[Row]) -> dict[str, Any]:
    """Everything that is counted and measured."""
    rows = [*singles, *doubles]
    broken = [{"kinds": row["kinds"], "broken": row["broken"]} for row in rows if row.get("broken")]
    classes = [str(each["class"]) for each in recoveries(rows)]
    return {
        "singles": len(singles),
        "doubles": len(doubles),
        "stuck": sum("stuck" in row for row in rows),
        "lostCheckpoints": sum(text.startswith("lost") for each in broken for text in each["broken"]),
        "brokenPromises": broken,
        "incarnations": sum(row.get("incarnations", 0) for row in rows),
        "classes": {name: classes.count(name) for name in sorted(set(classes))},
        "kinds": {name: sum(row["kinds"] == [name] for row in singles) for name in names_of(singles)},
        "secondsByKind": by_kind(singles, lambda row: row.get("seconds")),
        "secondsOfDoubles": by_kind(
            [{**row, "kinds": ["double"]} for row in doubles], lambda r: r.get("seconds")
        ),
        "detectByKind": by_kind(singles, lambda row: row.get("detect")),
        "lostStepsByKind": by_kind(singles, lambda row: row.get("lostSteps")),
        "phasesByRung": phases(rows),
    }


def names_of(rows: Sequence[Row]) -> list[str]:
    """Kinds of the rows, sorted."""
    return sorted({name for row in rows for name in row["kinds"]})


def compare(losses: Sequence[Row], reference: Mapping[int, str]) -> dict[str, Any]:
    """The losses of the disturbed run beside those of the undisturbed one, step by step, bit by bit.

    A step that was done again must give the same loss again.
    """
    known = [row for row in losses if row["step"] in reference]
    different = sorted({int(row["step"]) for row in known if reference[row["step"]] != row["loss"]})
    steps = {row["step"] for row in known}
    return {
        "steps": len(steps),
        "doneAgain": len(known) - len(steps),
        "highestStep": max(steps, default=0),
        "missing": sorted(set(range(1, max(steps, default=0) + 1)) - steps)[:10],
        "beyondTheReference": len({row["step"] for row in losses} - steps),
        "different": different[:10],
        "equal": bool(steps) and not different,
    }


def reached(found: Mapping[str, Any]) -> dict[str, bool | None]:
    """Each goal: reached, missed, or None when too little was done to say."""
    enough = found["singles"] >= LEAST_SINGLES and found["doubles"] >= LEAST_DOUBLES
    curve = found.get("lossCurve")
    detect = found["detectByKind"].get("rank-killed")
    seen = min(found["classes"].values(), default=0)
    return {
        "no run stuck": found["stuck"] == 0 if enough or found["stuck"] else None,
        "no verified checkpoint lost": found["lostCheckpoints"] == 0
        if enough or found["lostCheckpoints"]
        else None,
        "no promise broken": not found["brokenPromises"] if enough or found["brokenPromises"] else None,
        "loss curve equal": None if curve is None else curve["equal"] and not curve["missing"],
        "each class seen at least 10 times": seen >= LEAST_OF_A_CLASS if enough else None,
        "a killed rank noticed within 1 s (p95)": None if detect is None else detect["p95"] <= DETECT_SECONDS,
    }
