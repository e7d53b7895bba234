"""Conditions after kstatus: what kubectl, Helm and Argo CD read.

Judges describe the state of a run with one of the shapes below; each sets every condition it speaks
of. A condition's lastTransitionTime moves only with its status, as in every Kubernetes API.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from windlass.api.meta import ConditionType, Reason
from windlass.api.status import Condition

Truth = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 4096
ORDER = tuple(ConditionType)


@dataclass(frozen=True, slots=True)
class Aspect:
    """One condition to be set."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: str = ""


def find(conditions: Iterable[Condition], type: ConditionType) -> Condition | None:
    """The condition of this type, or None."""
    return next((item for item in conditions if item.type == type), None)


def is_true(conditions: Iterable[Condition], type: ConditionType) -> bool:
    """Whether the condition is there and true."""
    found = find(conditions, type)
    return found is not None and found.status == "True"


def merge(
    conditions: Sequence[Condition], aspects: Iterable[Aspect], *, now: datetime, generation: int
) -> list[Condition]:
    """The conditions with the aspects set, in the order of ConditionType; others stay as they are."""
    merged = {item.type: item for item in conditions}
    for aspect in aspects:
        before = merged.get(aspect.type)
        moved = before is None or before.status != aspect.status
        merged[aspect.type] = Condition(
            type=aspect.type,
            status=aspect.status,
            reason=aspect.reason,
            message=aspect.message[:MESSAGE_LIMIT],
            last_transition_time=now if before is None or moved else before.last_transition_time,
            observed_generation=generation,
        )
    known = [merged.pop(type) for type in ORDER if type in merged]
    return known + list(merged.values())


def working(reason: Reason, message: str) -> tuple[Aspect, ...]:
    """The operator or the agents are on the way to training."""
    return shape(reason, message, reconciling="True")


def training(reason: Reason, message: str) -> tuple[Aspect, ...]:
    """The gang is at work. Ready stays false: the result is not there yet."""
    return shape(reason, message, running="True")


def unheard(reason: Reason, message: str) -> tuple[Aspect, ...]:
    """Pods run, but nobody has heard of them for a while."""
    return shape(reason, message, running="Unknown")


def stalled(reason: Reason, message: str) -> tuple[Aspect, ...]:
    """Somebody has to do something; the operator goes on by itself once it is done."""
    return shape(reason, message, stalled="True")


def suspended(message: str) -> tuple[Aspect, ...]:
    """No pods, as the spec wishes."""
    reason = Reason.SUSPENDED
    return (*shape(reason, message), Aspect(ConditionType.SUSPENDED, "True", reason, message))


def paused(reason: Reason, message: str) -> tuple[Aspect, ...]:
    """No pods, since a guard stopped the run; somebody has to decide how it goes on."""
    return (*shape(reason, message, stalled="True"), Aspect(ConditionType.SUSPENDED, "True", reason, message))


def complete(message: str) -> tuple[Aspect, ...]:
    """The result is there, for good."""
    reason = Reason.COMPLETED
    return (*shape(reason, message, ready="True"), Aspect(ConditionType.COMPLETE, "True", reason, message))


def failed(reason: Reason, message: str) -> tuple[Aspect, ...]:
    """The run has ended without a result, for good."""
    return (*shape(reason, message, stalled="True"), Aspect(ConditionType.FAILED, "True", reason, message))


def shape(
    reason: Reason,
    message: str,
    *,
    ready: Truth = "False",
    reconciling: Truth = "False",
    stalled: Truth = "False",
    running: Truth = "False",
) -> tuple[Aspect, ...]:
    """The four conditions that every state sets; reason and message go to Ready and to what stands out."""
    truths = {
        ConditionType.READY: ready,
        ConditionType.RECONCILING: reconciling,
        ConditionType.STALLED: stalled,
        ConditionType.RUNNING: running,
    }
    return tuple(
        Aspect(type, truth, reason, message)
        if type is ConditionType.READY or truth != "False"
        else Aspect(type, truth, quiet_reason(type, reason))
        for type, truth in truths.items()
    )


def quiet_reason(type: ConditionType, reason: Reason) -> Reason:
    """The reason of a condition that is false: Running says why not, the others have nothing to report."""
    return reason if type is ConditionType.RUNNING else Reason.AS_EXPECTED
