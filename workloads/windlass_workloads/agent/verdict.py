"""The termination message: how an agent ended, for the operator and for whoever reads the pod.

Written as soon as there is a verdict, before anything is cleaned up. Kubernetes keeps 4096 bytes, so
a leader's last report is cut first, then evidence, and hints last.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from windlass.api.contract import Report, TerminationMessage, Verdict
from windlass.api.meta import EXIT_CODES, ExitCode, Reason
from windlass.api.status import Failure
from windlass.core.status.progress import FEWEST_CHECKPOINTS

MAXIMUM_BYTES: Final = 4096
SHORT_TEXT: Final = 400
TEXTS: Final = (
    "save_error",
    "unsaved",
    "stall",
    "straggler",
    "loss_spike",
    "tracking_error",
)


def exit_code(verdict: Verdict) -> ExitCode:
    """The exit code that goes with a verdict."""
    if verdict.result == "Succeeded":
        return ExitCode.SUCCESS
    if verdict.result in ("Preempted", "Paused"):
        return ExitCode.PREEMPTED
    if verdict.result == "Fenced":
        return ExitCode.FENCED
    if verdict.failure is None:
        return ExitCode.INTERNAL
    if verdict.failure.reason in (Reason.BUDGET_EXHAUSTED, Reason.NO_PROGRESS):
        return ExitCode.BUDGET
    return EXIT_CODES[verdict.failure.failure_class]


def with_report(verdict: Verdict, report: Report) -> TerminationMessage:
    """A leader's verdict with what it would have reported, without what nobody needs once it has ended."""
    rest = report.model_copy(update={"members": [], "verdict": None})
    if report.failure == verdict.failure:
        rest = rest.model_copy(update={"failure": None})
    return TerminationMessage.model_validate(dict(verdict) | {"report": rest})


def shorter_report(report: Report) -> Report | None:
    """The report without the part that is missed least, None when only its sums are left.

    The plan was told at the start, and totals count every restart: rows go from the oldest on.
    """
    if report.plan is not None:
        return report.model_copy(update={"plan": None})
    texts = {name: text[:SHORT_TEXT] for name in TEXTS if (text := getattr(report, name)) is not None}
    if report.failure is not None:
        texts["failure"] = shorter_failure(report.failure)
    if any(getattr(report, name) != text for name, text in texts.items()):
        return report.model_copy(update=texts)
    rows = report.recoveries
    for number, row in enumerate(rows):
        if row.evidence:
            bare = row.model_copy(update={"evidence": []})
            return report.model_copy(update={"recoveries": [*rows[:number], bare, *rows[number + 1 :]]})
    if report.failure is not None and report.failure.evidence:
        return report.model_copy(update={"failure": report.failure.model_copy(update={"evidence": []})})
    if len(report.checkpoints) > FEWEST_CHECKPOINTS:
        return report.model_copy(update={"checkpoints": report.checkpoints[:-1]})
    if rows:
        return report.model_copy(update={"recoveries": rows[1:]})
    sums = report.model_copy(
        update={"failure": None, "checkpoints": report.checkpoints[:1], **dict.fromkeys(TEXTS)}
    )
    return sums if sums != report else None


def shorter_failure(failure: Failure) -> Failure:
    """The failure with short texts and all its lines."""
    return failure.model_copy(
        update={"message": failure.message[:SHORT_TEXT], "hint": failure.hint[:SHORT_TEXT]}
    )


def encode(verdict: Verdict) -> bytes:
    """The verdict as JSON of at most 4096 bytes; what is missed least goes first when it is too long."""
    while True:
        data = verdict.model_dump_json(by_alias=True, exclude_none=True).encode()
        if len(data) <= MAXIMUM_BYTES:
            return data
        shorter = shorter_message(verdict)
        if shorter is None:
            return data[:MAXIMUM_BYTES]
        verdict = shorter


def shorter_message(verdict: Verdict) -> Verdict | None:
    """The message without the part of it that is missed least: of the report first, of which its sums go last."""
    failure, suspicion = verdict.failure, verdict.suspicion
    report = verdict.report if isinstance(verdict, TerminationMessage) else None
    shorter = shorter_report(report) if report is not None else None
    if shorter is not None:
        return verdict.model_copy(update={"report": shorter, "is_cut": True})
    if suspicion is not None and suspicion.evidence:
        fewer = suspicion.model_copy(update={"evidence": suspicion.evidence[1:]})
        return verdict.model_copy(update={"suspicion": fewer})
    if failure is not None and failure.evidence:
        fewer_lines = failure.model_copy(update={"evidence": failure.evidence[1:]})
        return verdict.model_copy(update={"failure": fewer_lines})
    if report is not None:
        return verdict.model_copy(update={"report": None})
    if failure is None:
        return None
    # Letters may take up to six bytes each: halve until it fits.
    length = min(SHORT_TEXT, max(len(failure.message), len(failure.hint)) // 2)
    short = failure.model_copy(update={"message": failure.message[:length], "hint": failure.hint[:length]})
    return verdict.model_copy(update={"failure": short}) if short != failure else None


def write(path: Path, verdict: Verdict) -> None:
    """Writes the termination message; a read-only or missing file must not change how the pod ends."""
    with contextlib.suppress(OSError):
        path.write_bytes(encode(verdict))
