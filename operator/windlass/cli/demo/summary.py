"""The demo's numbers: what is written to build/demo.json and the table that the user sees.

Pure. Everything comes from the job's status, the scores and measured seconds; nothing is filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windlass.cli.view import duration
from windlass.core.observed import parse_status

Score = dict[str, Any]
PROMISED = ("goodput", "mlflowRunId", "registeredModel", "checkpointDigest", "trainSeconds")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the demo measured itself; seconds by step."""

    base: Score
    tuned: Score
    losses: list[float]
    seconds: dict[str, float]
    setup_seconds: float
    faults: bool


def document(job: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """The content of demo.json."""
    status = parse_status(job.get("status") or {})
    base, tuned = measured.base["whole"], measured.tuned["whole"]
    output, tracking = status.output, status.tracking
    train_seconds = None
    if status.started_at is not None and status.finished_at is not None:
        train_seconds = round((status.finished_at - status.started_at).total_seconds(), 1)
    return {
        "baseAccuracy": base["accuracy"],
        "baseInterval": [base["low"], base["high"]],
        "tunedAccuracy": tuned["accuracy"],
        "tunedInterval": [tuned["low"], tuned["high"]],
        "heldOut": tuned["total"],
        "recoveries": [row.to_wire() for row in status.recoveries],
        "goodput": status.goodput.ratio,
        "goodputSeconds": status.goodput.seconds.to_wire(),
        "lostSteps": status.goodput.lost_steps,
        "steps": status.progress.step,
        "checkpointEverySteps": job["spec"]["checkpoint"].get("everySteps"),
        "lossFirst": measured.losses[0] if measured.losses else None,
        "lossLast": measured.losses[-1] if measured.losses else status.progress.loss,
        "mlflowRunId": tracking.run_id if tracking else None,
        "mlflowUrl": tracking.url if tracking else None,
        "registeredModel": f"{output.registered_model}/{output.model_version}"
        if output and output.registered_model
        else None,
        "output": output.uri if output else None,
        "checkpointDigest": status.checkpoints[0].digest if status.checkpoints else None,
        "setupSeconds": round(measured.setup_seconds, 1),
        "trainSeconds": train_seconds,
        "stepSeconds": measured.seconds,
        "scores": {"base": measured.base, "tuned": measured.tuned},
    }


def shortcomings(result: dict[str, Any], *, faults: bool) -> list[str]:
    """What the demo promises and this run did not show; empty when all is well."""
    found = []
    if result["tunedInterval"][0] <= result["baseInterval"][1]:
        found.append("the tuned model's interval is not above the base model's")
    found += [f"{key} was not measured" for key in PROMISED if result[key] is None]
    rungs = {row["rung"] for row in result["recoveries"]}
    if faults and not {"InPlace", "RecreatePod"} <= rungs:
        found.append(
            f"expected an InPlace and a RecreatePod recovery (got {', '.join(sorted(rungs)) or 'none'})"
        )
    most = (result["checkpointEverySteps"] or 0) + 1
    found += [
        f"{row['rung']} lost {row['lostSteps']} steps (allowed: one checkpoint interval + 1 = {most})"
        for row in result["recoveries"]
        if row.get("lostSteps", 0) > most
    ]
    return found


def table(result: dict[str, Any]) -> str:
    """The summary for a reader."""
    lines = ["", "== result", accuracy_line("base, 3 shots", result["scores"]["base"])]
    lines.append(accuracy_line("tuned", result["scores"]["tuned"]))
    fields = result["scores"]["tuned"].get("fields") or {}
    majority = result["scores"]["tuned"].get("majority") or {}
    lines += [
        f"    {name:<12} {value['accuracy']:6.1%}   (always the commonest: {majority.get(name, 0):.1%})"
        for name, value in fields.items()
    ]
    if result["lossFirst"] is not None and result["lossLast"] is not None:
        lines.append(f"loss            {result['lossFirst']:.3f} -> {result['lossLast']:.3f}")
    lines.append(f"steps           {result['steps']}, lost and done again: {result['lostSteps']}")
    lines += [recovery_line(row) for row in result["recoveries"]]
    if result["goodput"] is not None:
        lines.append(
            f"goodput         {result['goodput']:.1%} of the time since admission went into new steps"
        )
    lines.append(
        f"training        {duration(result['trainSeconds'])}, set up in {duration(result['setupSeconds'])}"
    )
    for name, key in (("model", "registeredModel"), ("output", "output"), ("MLflow run", "mlflowUrl")):
        lines.append(f"{name:<15} {result[key] or '-'}")
    return "\n".join(lines)


def accuracy_line(name: str, score: Score) -> str:
    """Exact match with its interval."""
    whole = score["whole"]
    return (
        f"{name:<15} {whole['accuracy']:6.1%} of {whole['total']} held-out answers right "
        f"(95 %: {whole['low']:.1%} to {whole['high']:.1%})"
    )


def recovery_line(row: dict[str, Any]) -> str:
    """One recovery with its seconds by phase."""
    seconds = dict(row["seconds"])
    total = seconds.pop("total", 0.0)
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    return (
        f"{row['rung']:<15} step {row['fromStep']} -> {row['resumedStep']}, {row['lostSteps']} lost, "
        f"{total:.1f} s ({parts})"
    )
