"""What the gang's state machine is told and what it answers: the two closed sets of `gang`.

Made and carried out by `leader`. Plain values, so that a test or a log can show a whole history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from windlass.api.base import StatusModel
from windlass.api.contract import BudgetUse, Incarnation, IncarnationCause, Orders, Verdict
from windlass.api.status import Plan, RecoveryRecord
from windlass_workloads.agent.messages import Downward, Hello, Upward


class State(StrEnum):
    """What the seconds of a run are spent on (see timeline)."""

    STARTING = "Starting"
    LOADING = "Loading"
    TRAINING = "Training"
    VALIDATING = "Validating"
    REWORKED = "Reworked"
    RECOVERING = "Recovering"
    BACK_OFF = "BackOff"
    FINISHING = "Finishing"
    DOWN = "Down"


class Charged(StatusModel):
    """Budgets after a failure of this incarnation; they reach an incarnation file only after the back-off.

    With a `cause`, the leader that judged it gave its own pod up, and the next one goes on from there.
    """

    incarnation: int
    budgets: BudgetUse
    cause: IncarnationCause | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier leaders of the run left in the store."""

    last_at: float | None = None
    """When the last leader was last alive; Unix seconds."""
    left: Literal["", "Pod", "Whole"] = ""
    """How the last leader went: without a word, with its pod, or with the whole run (suspended)."""
    step: int = 0
    highest_step: int = 0
    prepared: str | None = None
    plan: Plan | None = None
    finished: Verdict | None = None
    charged: Charged | None = None
    recoveries: tuple[RecoveryRecord, ...] = ()

    def charged_in(self, incarnation: int) -> Charged | None:
        """What was charged in this incarnation and did not reach the next one's file."""
        return self.charged if self.charged is not None and self.charged.incarnation == incarnation else None


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """The leader has read the store and may lead."""

    newest: Incarnation | None
    ledger_step: int
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True)
class Claimed:
    """This leader owns a new incarnation."""

    record: Incarnation


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody else owns the newest incarnation."""


@dataclass(frozen=True, slots=True)
class Unclaimable:
    """No incarnation can be made: the wish of spec.resume cannot be met, or the store fails (`storage`)."""

    message: str
    storage: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """An agent has connected; the leader's own is a member as well."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Gone:
    """An agent's connection has ended or been silent for too long."""

    index: int
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a member."""

    index: int
    pod_uid: str
    message: Upward


@dataclass(frozen=True, slots=True)
class Ordered:
    """The operator's answer to a report."""

    orders: Orders


@dataclass(frozen=True, slots=True)
class TimeUp:
    """This pod must end now: its grace period is over, or it was told to leave for the second time."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Opened | Claimed | Refused | Unclaimable | Joined | Gone | Heard | Ordered | TimeUp | Tick


# --- commands ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Read the store again; answered by Opened, Refused or Unclaimable."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Make the next incarnation; answered by Claimed, Refused or Unclaimable."""

    cause: IncarnationCause | None
    budgets: BudgetUse
    prepared: str | None
    poisoned: tuple[str, ...] = ()
    details: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the agent of a pod."""

    pod_uid: str
    message: Downward


@dataclass(frozen=True, slots=True)
class Mark:
    """The run's seconds are spent on something else from now on."""

    state: State
    at: float
    incarnation: int
    left: Literal["", "Pod", "Whole"] = ""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Seconds of the present state that went into a checkpoint."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Remember:
    """Facts for later leaders, as rows of the timeline."""

    facts: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class KeepLog:
    """Keep the log's end of the first rank that failed, or the stacks of a rank of a gang that stands still."""

    incarnation: int
    rank: int
    lines: tuple[str, ...]
    what: Literal["log", "stacks"] = "log"


@dataclass(frozen=True, slots=True)
class End:
    """Write this verdict and exit."""

    verdict: Verdict


Command = Open | Claim | Tell | Mark | Stalled | Remember | KeepLog | End
