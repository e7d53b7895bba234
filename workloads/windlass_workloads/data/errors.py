"""The one error type of everything that judges what a user gave: model, data, settings.

Raised by data/ and train/, turned into a contract Failure by train/failures.py. It never carries credentials.
"""

from __future__ import annotations

from windlass.api.meta import FailureClass, Reason

EVIDENCE_LINES = 8


class WorkloadError(Exception):
    """What is wrong, with the reason for the condition and the next step for the reader."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        hint: str,
        evidence: tuple[str, ...] = (),
        failure_class: FailureClass = FailureClass.CONFIGURATION,
    ) -> None:
        super().__init__(f"{message} hint: {hint}")
        self.reason = reason
        self.message = message
        self.hint = hint
        self.evidence = evidence[:EVIDENCE_LINES]
        self.failure_class = failure_class


def first_line(error: BaseException) -> str:
    """The first line of an error of some library, at most 200 letters; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


class StopRequested(Exception):
    """SIGTERM arrived where nothing is to be saved; the task ends cleanly."""
