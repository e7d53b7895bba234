"""Measures one recovery, from the fault to the first new step begun, phase by phase.

Pure; fed by `gang` with times of events (Unix seconds). Phases that a rank did not tell of count as
zero, and the slowest rank counts in all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from windlass.api.contract import IncarnationCause
from windlass.api.meta import Phase, Rung
from windlass.api.status import RecoveryRecord, RecoverySeconds, SkippedData


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
    skipped: SkippedData | None = None

    def claimed(self, at: float, resumed_step: int) -> None:
        """The next incarnation is there. A checkpoint to resume from proves that its step was reached."""
        self.claimed_at = at
        if resumed_step > self.cause.from_step:
            self.cause = self.cause.model_copy(update={"from_step": resumed_step})

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
            skipped=self.skipped,
            seconds=self._seconds(times, ended_at),
            at=datetime.fromtimestamp(self.fault_at, UTC),
        )

    def _seconds(self, times: RankTimes, ended_at: float) -> RecoverySeconds:
        end = max(self.fault_at, ended_at)

        def after(before: float, at: float, missing: float) -> float:
            """A point in time, in order and not after the end."""
            return min(end, max(before, at if at else missing))

        # A recovery that was cut short spent the rest of its time in the phase that it was in.
        known = after(self.fault_at, self.known_at, self.fault_at)
        stopped = after(known, self.stopped_at, end)
        decided = after(stopped, self.claimed_at - self.back_off_seconds if self.claimed_at else 0.0, end)
        claimed = after(decided, self.claimed_at, end)
        launched = after(claimed, self.launched_at, end)
        loading = after(launched, max(times.load.values(), default=0.0), launched)
        training = after(loading, max(times.train.values(), default=0.0), loading)
        return RecoverySeconds(
            detect=round(known - self.fault_at, 4),
            stop=round(stopped - known, 4),
            decide=round(decided - stopped, 4),
            place=round(launched - claimed, 4),
            rendezvous=round(loading - launched, 4),
            load=round(training - loading, 4),
            first_step=round(end - training, 4),
            total=round(end - self.fault_at, 4),
        )
