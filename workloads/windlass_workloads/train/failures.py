"""Turns whatever ended a rank into a Failure with reason, class, hint and evidence, and an exit code.

Called by tasks only. Looks at types and error numbers first, at texts only where torch offers nothing better.
"""

from __future__ import annotations

import errno
import traceback
from datetime import UTC, datetime
from typing import Final

from windlass.api.meta import EXIT_CODES, ExitCode, FailureClass, Reason
from windlass.api.status import Failure
from windlass.core.failure.evidence import CASCADE
from windlass_workloads.checkpoint.errors import (
    CheckpointUnusable,
    Fenced,
    SaveError,
    StoreUnusable,
    is_full,
    is_out_of_memory,
)
from windlass_workloads.data.errors import EVIDENCE_LINES, WorkloadError

MESSAGE_LENGTH: Final = 2000
LINE_LENGTH: Final = 300
STORAGE_ERRORS: Final = {errno.EIO, errno.ESTALE, errno.EROFS, errno.EDQUOT, errno.ENOSPC, errno.ENOTCONN}


class GuardTripped(RuntimeError):
    """A guard has stopped a step; nothing of it was applied on any rank. `samples` lists those of the step."""

    reason = Reason.NON_FINITE
    hint = ""

    def __init__(self, text: str, *, step: int | None = None, samples: str = "") -> None:
        super().__init__(text)
        self.step = step
        self.samples = samples


class NotFinite(GuardTripped):
    """Loss or gradients are not numbers any more."""

    hint = (
        "look for broken rows among the samples of the step; if it comes back with other samples, create a job with a "
        "lower training.learningRate or training.gradientClip, or with training.precision FP32 if it is BF16."
    )


class LossSpiked(GuardTripped):
    """The loss is far above what it was."""

    reason = Reason.LOSS_SPIKE
    hint = (
        "look for odd rows among the samples of the step; if it comes back with other samples, create a job with a "
        "lower training.learningRate or a longer training.scheduler.warmup."
    )


def failure_of(error: BaseException) -> tuple[Failure, ExitCode]:
    """The failure to report for an exception, and the rank's exit code."""
    if isinstance(error, Fenced):
        return _make(error, Reason.INFRASTRUCTURE, FailureClass.INFRASTRUCTURE, _fenced_hint())[
            0
        ], ExitCode.FENCED
    if isinstance(error, WorkloadError):
        failure = Failure(
            reason=error.reason,
            failure_class=error.failure_class,
            message=error.message[:MESSAGE_LENGTH],
            hint=error.hint,
            evidence=[line[:LINE_LENGTH] for line in error.evidence],
            at=datetime.now(UTC),
        )
        return failure, EXIT_CODES[error.failure_class]
    if isinstance(error, GuardTripped):
        return _tripped(error)
    failure, code = _make(error, *_judge(error))
    if isinstance(error, CheckpointUnusable) and error.evidence:
        # Which file is damaged is worth more than where that was noticed.
        failure = failure.model_copy(update={"evidence": [line[:LINE_LENGTH] for line in error.evidence]})
    return failure, code


def _tripped(error: GuardTripped) -> tuple[Failure, ExitCode]:
    where = [f"samples of step {error.step} in the prepared data: {error.samples}"] if error.samples else []
    failure = Failure(
        reason=error.reason,
        failure_class=FailureClass.NUMERIC,
        message=str(error)[:MESSAGE_LENGTH],
        hint=error.hint,
        evidence=[str(error)[:LINE_LENGTH], *(line[:LINE_LENGTH] for line in where)],
        at=datetime.now(UTC),
    )
    return failure, EXIT_CODES[FailureClass.NUMERIC]


def _fenced_hint() -> str:
    return "another leader has taken over; nothing is to be done."


def _judge(error: BaseException) -> tuple[Reason, FailureClass, str]:
    """Reason, class and next step for an error that is not the user's."""
    if isinstance(error, CheckpointUnusable):
        return Reason.CHECKPOINT_UNUSABLE, FailureClass.STORAGE, error.hint
    if is_full(error) or getattr(error, "full", False):
        return Reason.STORAGE_FULL, FailureClass.STORAGE, "enlarge the claim or lower checkpoint.keepLast."
    if isinstance(error, (SaveError, StoreUnusable)) or getattr(error, "errno", None) in STORAGE_ERRORS:
        return Reason.STORAGE, FailureClass.STORAGE, "check the volume behind checkpoint.store."
    text = f"{type(error).__name__} {error}"
    if is_out_of_memory(error):
        hint = (
            "lower training.microBatchSize or data.sequenceLength, or set training.activationCheckpointing."
        )
        return Reason.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY, getattr(error, "hint", hint)
    if CASCADE.search(text):
        return (
            Reason.INFRASTRUCTURE,
            FailureClass.INFRASTRUCTURE,
            "another rank went first; look at its failure.",
        )
    return (
        Reason.CRASH,
        FailureClass.CRASH,
        "see the evidence, or windlass logs --rank for the whole traceback.",
    )


def _make(
    error: BaseException, reason: Reason, failure_class: FailureClass, hint: str
) -> tuple[Failure, ExitCode]:
    lines = [line for part in traceback.format_exception(error) for line in part.splitlines() if line.strip()]
    if isinstance(error, CheckpointUnusable) and error.evidence:
        # Which files, and why: worth more than where in our code that was noticed.
        lines = list(error.evidence)
    failure = Failure(
        reason=reason,
        failure_class=failure_class,
        message=f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH],
        hint=hint,
        evidence=[line.strip()[:LINE_LENGTH] for line in lines[-EVIDENCE_LINES:]],
        at=datetime.now(UTC),
    )
    return failure, EXIT_CODES[failure_class]
