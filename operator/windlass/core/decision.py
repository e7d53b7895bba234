"""What the operator will do next for one run: the only thing that the shell executes.

Made by `core.reconcile.decide`, carried out by the shell in the order of the fields. A Decision must
never need another look at the world to be carried out, except for the absences it asks to confirm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from windlass.api.contract import Orders
from windlass.api.meta import Reason

# A rendered Kubernetes object; its shape is Kubernetes' own.
Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one object, only if it still has this UID. `force` does not wait for the kubelet of a pod."""

    kind: str
    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set these annotations of one pod, only if it still has this UID; all other fields stay as they are."""

    name: str
    uid: str
    annotations: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event about the run."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One small step. Order: confirm, status, applies, creates, deletes, events, annotates, requeue.

    `status` is the whole new status in wire form, None when nothing changed. `creates` are pods, to be
    POSTed; 409 is success if the existing pod's owner is this run. `confirm_absent` names pods whose
    absence this step relies on: if a live read finds one, drop the step and observe again.
    """

    status: dict[str, Any] | None = None
    applies: tuple[Manifest, ...] = ()
    creates: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_seconds: float | None = None
    orders: Orders = field(default_factory=Orders)
    confirm_absent: tuple[str, ...] = ()
    annotates: tuple[Annotate, ...] = ()
    # Whether the new status differs from the stored one only in what a leader told: nothing follows from that.
    only_tells: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether this step writes nothing."""
        writes = self.applies or self.creates or self.deletes or self.events or self.annotates
        return self.status is None and not writes
