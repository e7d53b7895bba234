"""Failures that end a run, in the words that a user reads.

Pure; called by `gang`. What single ranks and pods die of is worded in windlass.core.failure.
"""

from __future__ import annotations

from datetime import UTC, datetime

from windlass.api.meta import FailureClass, Phase, Reason
from windlass.api.status import FailedRank, Failure
from windlass.core.failure.budget import Charge
from windlass.core.failure.classify import Judgement
from windlass_workloads.agent.stacks import Finding
from windlass_workloads.agent.stalls import FIRST_STEP, STEPS, Late

SPANS = {
    Phase.RENDEZVOUS: "the rendezvous",
    Phase.LOAD: "loading",
    FIRST_STEP: "the first step",
    Phase.VALIDATE: "validation",
    Phase.SAVE: "a save",
    Phase.EXPORT: "the export",
}
"""What a phase is called in a sentence."""


def gave_up(judgement: Judgement, cost: Charge, now: float) -> Failure:
    """The last failure, when its budget or the breaker says that there is no further try."""
    message, _, hint = cost.message.partition(". hint: ")
    update = {
        "reason": str(cost.stop),
        "message": message or judgement.message,
        "hint": hint or judgement.hint,
        "at": datetime.fromtimestamp(now, UTC),
    }
    return judgement.failure().model_copy(update=update)


def stopped_by_order(reason: str) -> Failure:
    """The operator ordered the run to stop; its reason (a deadline, say) is the failure's."""
    return Failure(
        reason=reason or str(Reason.DEADLINE_EXCEEDED),
        failure_class=FailureClass.PREEMPTED,
        message="the operator ordered the run to stop",
        hint="status.conditions of the job says why; verified checkpoints are kept",
    )


def unclaimable(message: str, storage: bool) -> Failure:
    """No incarnation can be made: the store is unusable, or spec.resume.from names what is not there."""
    text, _, hint = message.partition(" hint: ")
    return Failure(
        reason=str(Reason.STORAGE if storage else Reason.CONFIGURATION),
        failure_class=FailureClass.STORAGE if storage else FailureClass.CONFIGURATION,
        message=text,
        hint=hint,
    )


def stalled(late: Late, finding: Finding, place: FailedRank, since: float) -> Failure:
    """Ranks that live and make no progress; `since` is when they last made some, in Unix seconds."""
    if late.span == STEPS:
        what = f"no step was finished for more than {late.limit.seconds:.0f} s, the last was {late.step}"
    else:
        what = f"{SPANS.get(late.span, late.span)} took more than {late.limit.seconds:.0f} s"
    hint = "the stacks of all ranks are in the store, in logs/incarnation-*-rank-*.stacks.log"
    if late.span in (Phase.SAVE, Phase.LOAD):
        hint = f"look at the volume behind checkpoint.store; {hint}"
    return Failure(
        reason=str(Reason.STALL),
        failure_class=FailureClass.STALL,
        message=f"{what}: {finding.why}",
        hint=hint,
        first_failed=place,
        evidence=list(finding.evidence),
        at=datetime.fromtimestamp(since, UTC),
    )
