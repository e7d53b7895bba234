"""Kubernetes events: what changed between two states of a run.

Derived from status alone, so that each happens once per change and none is needed to understand a run.
The shell sends them after the status write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from windlass.api.meta import ConditionType, Reason
from windlass.api.status import JobStatus
from windlass.core.decision import Event
from windlass.core.status import messages
from windlass.core.status.conditions import find, is_true

EVENTS_PER_WRITE = 8
DEGRADATIONS = (
    ConditionType.TRACKING_DEGRADED,
    ConditionType.CHECKPOINT_DEGRADED,
    ConditionType.PROGRESS_DEGRADED,
    ConditionType.LOSS_DEGRADED,
)


def events_between(before: JobStatus, after: JobStatus) -> tuple[Event, ...]:
    """The events of one status write, most important first."""
    made = [
        *endings(before, after),
        *states(before, after),
        *degradations(before, after),
        *suspicions(before, after),
        *milestones(before, after),
    ]
    return tuple(made[:EVENTS_PER_WRITE])


def event(type: Literal["Normal", "Warning"], reason: Reason | str, message: str) -> Event:
    """An event with a message of allowed length."""
    return Event(type, Reason(reason), messages.clip(message))


def endings(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """Complete and Failed."""
    for kind, name in ((ConditionType.COMPLETE, "Normal"), (ConditionType.FAILED, "Warning")):
        found = find(after.conditions, kind)
        if found is not None and not is_true(before.conditions, kind):
            yield event("Normal" if name == "Normal" else "Warning", found.reason, found.message)


def states(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """A new reason of Ready. A stalled run is a warning."""
    old, new = find(before.conditions, ConditionType.READY), find(after.conditions, ConditionType.READY)
    if new is None or after.finished_at is not None:
        return
    if old is None or old.reason != new.reason:
        yield event(
            "Warning" if is_true(after.conditions, ConditionType.STALLED) else "Normal",
            new.reason,
            new.message,
        )


def degradations(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """Tracking, saving or the run's progress has become degraded, or so in another way."""
    for kind in DEGRADATIONS:
        old, found = find(before.conditions, kind), find(after.conditions, kind)
        if found is None or found.status != "True":
            continue
        turned = kind is ConditionType.PROGRESS_DEGRADED and old is not None and old.reason != found.reason
        if turned or not is_true(before.conditions, kind):
            yield event("Warning", found.reason, found.message)


def suspicions(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """Nodes that are avoided from now on, or avoided once more."""
    known = {item.name: item.count for item in before.suspect_nodes}
    for item in after.suspect_nodes:
        if item.count > known.get(item.name, 0):
            yield event("Warning", Reason.NODE_SUSPECTED, messages.node_suspected(item))


def milestones(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """Recoveries and committed checkpoints that were not there before."""
    known = {row.incarnation for row in before.recoveries if row.seconds.total > 0}
    for row in after.recoveries:
        if row.incarnation not in known and row.seconds.total > 0:
            text = messages.recovered(row)
            yield event("Normal", Reason.RECOVERED, text)
    names = {item.name for item in before.checkpoints}
    for item in after.checkpoints:
        if item.name not in names:
            yield event(
                "Normal", Reason.CHECKPOINT_COMMITTED, messages.checkpoint_committed(item.name, item.step)
            )
