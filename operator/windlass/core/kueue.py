"""What Kueue is told on the pods of a run, and the names by which it is answered: its contract for plain pods.

Renderers and views use it; nothing here looks at the world. Several pods are one pod group of Kueue for each attempt
(docs/decisions/0019-queues.md says why), a single pod is a plain pod of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from windlass.api.jobs import TrainingJobSpec

PREFIX: Final = "kueue.x-k8s.io"
LABEL_QUEUE: Final = f"{PREFIX}/queue-name"
LABEL_GROUP: Final = f"{PREFIX}/pod-group-name"
ANNOTATION_COUNT: Final = f"{PREFIX}/pod-group-total-count"
ANNOTATION_RETRIABLE: Final = f"{PREFIX}/retriable-in-group"
ANNOTATION_ROLE: Final = f"{PREFIX}/role-hash"
GATE: Final = f"{PREFIX}/admission"
FINALIZER: Final = f"{PREFIX}/managed"
TERMINATION_TARGET: Final = "TerminationTarget"
"""The condition that Kueue sets on a pod before it deletes it."""
ROLE: Final = "member"


@dataclass(frozen=True, slots=True)
class Marks:
    """What a queue adds to a pod."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)


def is_grouped(spec: TrainingJobSpec) -> bool:
    """Whether the pods are counted as a group. One pod is not: Kueue lets a plain pod go as soon as it is deleted."""
    return spec.scheduling.queue is not None and spec.resources.nodes > 1


def group_name(run: str, uid: str, attempt: int) -> str:
    """The pod group of one attempt, and so the name of its Workload: at most 63 characters, no other run's."""
    return f"{run}-{uid[:8]}-{attempt}"


def marks(run: str, uid: str, spec: TrainingJobSpec, *, attempt: int) -> Marks:
    """What the pods of an attempt carry; nothing without a queue."""
    queue = spec.scheduling.queue
    if queue is None:
        return Marks()
    # Kueue's webhook adds this gate too. Ours keeps the pods back where that webhook is not there.
    gated = {"schedulingGates": [{"name": GATE}]}
    labels = {LABEL_QUEUE: queue.name}
    if not is_grouped(spec):
        return Marks(labels, {}, gated)
    annotations = {
        ANNOTATION_COUNT: str(spec.resources.nodes),
        # The group is over once none of its pods lives: then Kueue lets go of quota and pods by itself.
        ANNOTATION_RETRIABLE: "false",
        # Kueue counts pods by their shape: a replacement that avoids a node would be of another and never let through.
        ANNOTATION_ROLE: ROLE,
    }
    return Marks(labels | {LABEL_GROUP: group_name(run, uid, attempt)}, annotations, gated)
