"""Measures one recovery, from the fault to the first new step begun, phase by phase.

Pure; fed by `gang` with times of events (Unix seconds). Phases that a rank did not tell of count as
zero, and the slowest rank counts in all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from windlass.api.contract import IncarnationCause
from windlass.api.meta import Phase, Rung
from windlass.api.status import RecoveryRecord, RecoverySeconds


@dataclass(slots=True)
class RankTimes:
    """When the ranks of an incarnation entered its first phases, by rank."""

    load: dict[int, float] = field(default_factory=dict)
    train: dict[int, float] = field(default_factory=dict)
    forward: dict[int, float] = field(default_factory=dict)

    def entered(self, rank: int, phase: Phase, at: float) -> None:
        """A rank entered a phase; only the first time counts."""
        if phase is Phase.LOAD:
            self.load.setdefault(rank, at)
        elif phase is Phase.TRAIN:
            self.train.setdefault(rank, at)

    def began(self, rank: int, at: float) -> None:
        """A rank entered the forward pass of its first step."""
        self.forward.setdefault(rank, at)


@dataclass(slots=True)
class RecoveryClock:
    """The times of one recovery that is under way, and why it began."""

    cause: IncarnationCause
    fault_at: float
    known_at: float
    stopped_at: float = 0.0
    back_off_seconds: float = 0.0
    claimed_at: float = 0.0
    launched_at: float = 0.0

    def moved_to(self, rung: Rung) -> None:
        """More had to be replaced than was thought at first."""
        self.cause = self.cause.model_copy(update={"rung": rung})

    def record(
        self, *, incarnation: int, resumed_step: int, times: RankTimes, ended_at: float
    ) -> RecoveryRecord:
        """The row for status.recoveries; `ended_at` is when the slowest rank began its first step."""
        return RecoveryRecord(
            incarnation=incarnation,
            rung=self.cause.rung,
            failure_class=self.cause.failure_class,
            first_failed=self.cause.first_failed,
            exit_code=self.cause.exit_code,
            signal=self.cause.signal,
            evidence=self.cause.evidence[-8:],
            from_step=self.cause.from_step,
            resumed_step=resumed_step,
            lost_steps=max(0, self.cause.from_step - resumed_step),
            seconds=self._seconds(times, ended_at),
            at=datetime.fromtimestamp(self.fault_at, UTC),
        )

    def _seconds(self, times: RankTimes, ended_at: float) -> RecoverySeconds:
        known = max(self.fault_at, self.known_at)
        stopped = max(known, self.stopped_at)
        claimed = max(stopped, self.claimed_at - self.back_off_seconds)
        launched = max(self.claimed_at, self.launched_at)
        end = max(launched, ended_at)
        loading = min(end, max([launched, *times.load.values()]))
        training = min(end, max([loading, *times.train.values()]))
        parts = RecoverySeconds(
            detect=known - self.fault_at,
            stop=stopped - known,
            decide=claimed - stopped,
            place=launched - max(self.claimed_at, stopped),
            rendezvous=loading - launched,
            load=training - loading,
            first_step=end - training,
            total=end - self.fault_at,
        )
        return parts.model_copy(
            update={name: round(max(0.0, value), 4) for name, value in parts.model_dump().items()}
        )
