"""Folding the leader's report into status.

Reports replace each other and carry everything, so folding is one assignment; what matters is to refuse
a report of a pod that is no longer the leader, or one older than what is written. Never goes backwards. Only
what a leader leaves in its pod may lack something, which is completed first by what is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from windlass.api.contract import FEWEST_CHECKPOINTS, Report
from windlass.api.meta import ConditionType, FailureClass, Phase, Reason, Rung
from windlass.api.status import JobStatus, Plan, RecoveryRecord
from windlass.core.failure.evidence import STORAGE_FULL
from windlass.core.observed import PodView
from windlass.core.status import messages
from windlass.core.status.conditions import Aspect, find

RECOVERY_ROWS = 10
# What the operator learns from a pod and a leader cannot know: it sees only that the pod went away.
# What the cluster says of a lost pod, and the leader's guesses that it corrects. A pod that the leader itself let go
# looks preempted from outside; the leader knows why.
BETTER_KNOWN = {
    FailureClass.OUT_OF_MEMORY: tuple(
        each for each in FailureClass if each not in (FailureClass.OUT_OF_MEMORY, FailureClass.PREEMPTED)
    ),
    FailureClass.PREEMPTED: (FailureClass.INFRASTRUCTURE,),
}


def is_of_leader(report: Report, leader: PodView | None, status: JobStatus) -> bool:
    """Whether the report was sent by the pod that is the leader of the present attempt."""
    return (
        leader is not None
        and report.pod_uid == leader.uid
        and report.attempt == status.gang.attempt
        and report.ticket == leader.ticket
    )


def is_news(report: Report, status: JobStatus) -> bool:
    """Whether the report is at least as new as what status holds."""
    if report.incarnation != status.incarnation:
        return report.incarnation > status.incarnation
    if report.progress.step != status.progress.step:
        return report.progress.step > status.progress.step
    written = status.progress.updated_at
    return written is None or report.sent_at >= written


def fold(status: JobStatus, report: Report) -> JobStatus:
    """Status with everything that the report says. The caller has checked the sender."""
    phase = report.phase or report.progress.phase
    if not is_news(report, status):
        # A leader that has not claimed an incarnation yet can still say what it is doing.
        if report.incarnation == 0:
            waiting = status.progress.model_copy(update={"phase": phase, "updated_at": report.sent_at})
            return status.model_copy(update={"progress": waiting})
        return status
    counters = status.counters.model_copy(update={"restarts": max(status.counters.restarts, report.restarts)})
    progress = report.progress.model_copy(update={"phase": phase, "updated_at": report.sent_at})
    return status.model_copy(
        update={
            "incarnation": report.incarnation,
            "nodes": report.nodes or status.nodes,
            "progress": progress,
            "plan": with_warnings(report.plan, status.plan) if report.plan else status.plan,
            "checkpoints": report.checkpoints if report.incarnation > 0 else status.checkpoints,
            "resume": report.resume,
            "recoveries": merge_recoveries(status.recoveries, report.recoveries),
            "last_failure": report.failure or status.last_failure,
            "counters": counters,
            "output": report.output or status.output,
            "tracking": report.tracking or status.tracking,
        }
    )


def completed(left: Report, known: JobStatus) -> Report:
    """A report that was cut to fit, with what is known besides: lines of failures, and older checkpoints."""
    rows = {row.incarnation: row for row in known.recoveries}
    recoveries = [with_evidence(row, rows.get(row.incarnation)) for row in left.recoveries]
    failure = left.failure
    if failure is not None and known.last_failure is not None and not failure.evidence:
        bare = known.last_failure.model_copy(update={"evidence": []})
        is_same = (
            bare.message.startswith(failure.message)
            and bare.model_copy(update={"message": failure.message, "hint": failure.hint}) == failure
        )
        failure = known.last_failure if is_same else failure
    checkpoints = left.checkpoints
    if 0 < len(checkpoints) <= FEWEST_CHECKPOINTS and known.checkpoints[: len(checkpoints)] == checkpoints:
        checkpoints = known.checkpoints
    return left.model_copy(update={"recoveries": recoveries, "failure": failure, "checkpoints": checkpoints})


def with_known_numbers(left: Report, known: JobStatus) -> Report:
    """The report of a leader that ended, with numbers of the same life that it never learned, as one that never led."""
    if left.incarnation != known.incarnation or left.progress.step < known.progress.step:
        return left
    numbers = {name: value for name, value in left.progress if value is not None}
    return left.model_copy(update={"progress": known.progress.model_copy(update={"phase": None, **numbers})})


def with_evidence(row: RecoveryRecord, known: RecoveryRecord | None) -> RecoveryRecord:
    """The row with the lines that are known of the same failure."""
    if known is None or row.evidence or row.failure_class != known.failure_class:
        return row
    return row.model_copy(update={"evidence": known.evidence})


def with_warnings(plan: Plan, before: Plan) -> Plan:
    """The preflight's plan, with what the arithmetic plan knew besides."""
    known = {name: value for name, value in plan if value is not None and name != "warnings"}
    warnings = list(dict.fromkeys([*before.warnings, *plan.warnings]))[:32]
    return before.model_copy(update=known | {"warnings": warnings})


def merge_recoveries(
    ours: Sequence[RecoveryRecord], reported: Sequence[RecoveryRecord]
) -> list[RecoveryRecord]:
    """The leader's rows, and the operator's own for incarnations that have not begun.

    For one incarnation the leader's row has the seconds, but the operator's class wins where only the
    operator can know it.
    """
    merged = {row.incarnation: row for row in reported}
    pending: list[RecoveryRecord] = []
    newest = max(merged, default=0)
    for row in ours:
        told = merged.get(row.incarnation)
        if told is None:
            if row.incarnation > newest:
                pending.append(row)
            else:
                merged[row.incarnation] = row
        elif told.failure_class in BETTER_KNOWN.get(row.failure_class, ()):
            known = ("failure_class", "first_failed", "exit_code", "signal", "evidence")
            merged[row.incarnation] = told.model_copy(update={name: getattr(row, name) for name in known})
        if told is not None and (told.rung, row.rung) == (Rung.RECREATE_POD, Rung.OTHER_NODE):
            # Where the new pod may be placed is the operator's affair; a leader sees only that it is another.
            merged[row.incarnation] = merged[row.incarnation].model_copy(update={"rung": row.rung})
    pending.sort(key=lambda row: row.incarnation)
    return [*(merged[key] for key in sorted(merged)), *pending][-RECOVERY_ROWS:]


def degradations(status: JobStatus, report: Report) -> Iterable[Aspect]:
    """Conditions about what goes on beside training: saving, tracking, a loss spike, the chosen precision."""
    yield from _degraded(
        status, ConditionType.TRACKING_DEGRADED, Reason.TRACKING_UNREACHABLE, report.tracking_error
    )
    yield from _degraded(status, ConditionType.LOSS_DEGRADED, Reason.LOSS_SPIKE, report.loss_spike)
    full = report.save_error is not None and STORAGE_FULL.search(report.save_error)
    reason = Reason.STORAGE_FULL if full else Reason.SAVE_FAILED
    if report.save_error is None:
        reason = Reason.NO_CHECKPOINTS
    yield from _degraded(
        status, ConditionType.CHECKPOINT_DEGRADED, reason, report.save_error or report.unsaved
    )
    # A run that stands still is worse news than one that is slow.
    slow = Reason.STALL_SUSPECTED if report.stall is not None else Reason.STRAGGLER_DETECTED
    yield from _degraded(status, ConditionType.PROGRESS_DEGRADED, slow, report.stall or report.straggler)
    if report.plan is not None and report.plan.precision is not None:
        text = messages.precision_chosen(report.plan.precision, report.plan.precision_reason)
        yield Aspect(ConditionType.PRECISION_CHOSEN, "True", Reason.AS_EXPECTED, text)


def _degraded(status: JobStatus, type: ConditionType, reason: Reason, error: str | None) -> Iterable[Aspect]:
    if error is not None:
        yield Aspect(type, "True", reason, messages.degraded(reason, error))
    elif find(status.conditions, type) is not None:
        yield Aspect(type, "False", Reason.AS_EXPECTED)


def reason_of(phase: Phase | None, restarted: bool) -> Reason:
    """The word for a phase, as the REASON column shows it."""
    if phase in (Phase.TRAIN, Phase.VALIDATE, Phase.SAVE):
        return Reason.TRAINING
    if phase is Phase.EXPORT:
        return Reason.EXPORTING
    if phase is Phase.PREPARE:
        return Reason.PREPARING
    return Reason.RECOVERING if restarted else Reason.STARTING
