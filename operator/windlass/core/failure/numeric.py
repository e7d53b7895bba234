"""What follows a loss or gradient that went wrong: how far back, past which data, or a stop with advice.

The leader asks once a failure of class Numeric is judged, and again when it claims the incarnation that goes back.
Budgets and the breaker are those of `budget`, so that no run goes back for ever. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from windlass.api.contract import AcceptedCheckpoint, BudgetUse, Rollback
from windlass.api.guards import Guards
from windlass.api.meta import FailureClass, Reason
from windlass.api.status import Failure, SkippedData
from windlass.core.skipped_windows import Window, merged, window_of

PAUSED = (Reason.NON_FINITE, Reason.LOSS_SPIKE)
"""Reasons for which a guard pauses a run."""


@dataclass(frozen=True, slots=True)
class Detour:
    """Where an incarnation begins that goes back, and all windows that it leaves out."""

    accepted: tuple[AcceptedCheckpoint, ...]
    windows: tuple[Window, ...]
    skipped: SkippedData | None = None


def rollback_of(failure: Failure, guards: Guards, use: BudgetUse, step: int) -> Rollback | None:
    """How far to go back after a failure that was charged, which is in `use`; None when its guard does not go back.

    Each further one without a newer verified checkpoint goes one checkpoint further back.
    """
    guard = guards.of(failure.reason)
    if guard is None or guard.action != "Rollback":
        return None
    again = max(0, use.used.get(FailureClass.NUMERIC, 0) - 1)
    skip = guard.skip_steps
    if failure.reason == Reason.LOSS_SPIKE and skip:
        skip = max(skip, guards.loss_spike.patience)
    return Rollback(checkpoints=guard.checkpoints + again, step=step, skip_steps=skip)


def stops_with(failure: Failure, guards: Guards) -> str | None:
    """`Paused` or `Failed` when the guard of this failure stops the run without another try, else None."""
    guard = guards.of(failure.reason)
    if guard is None:
        return None
    return {"Pause": "Paused", "Fail": "Failed"}.get(guard.action)


def advice(failure: Failure, guards: Guards) -> str:
    """The next step for whoever reads of a run that its guard stopped."""
    field = "nonFinite" if failure.reason == Reason.NON_FINITE else "lossSpike"
    if stops_with(failure, guards) == "Paused":
        return (
            f"set guards.{field}.action to Rollback, or resume.from to the step of an older checkpoint; the run goes "
            "on once its spec changes (or was suspended and resumed)"
        )
    return f"create a new job with guards.{field}.action: Rollback, or with a lower training.learningRate"


def detour(
    wish: Rollback, accepted: Sequence[AcceptedCheckpoint], windows: Sequence[Window], global_batch_size: int
) -> Detour:
    """The checkpoints that stay when a run goes back (`accepted` is newest first), and the data it leaves out.

    With fewer checkpoints than asked for it is the oldest; without any, the beginning.
    """
    kept = tuple(accepted[min(wish.checkpoints, len(accepted)) - 1 :]) if accepted else ()
    resumed = kept[0].step if kept else 0
    window = window_of(
        wish.step,
        wish.skip_steps,
        resumed_step=resumed,
        global_batch_size=global_batch_size,
        windows=windows,
    )
    if window is None:
        return Detour(kept, merged(windows))
    steps = wish.step - max(wish.step - wish.skip_steps, resumed)
    skipped = SkippedData(first=window[0], last=window[1] - 1, steps=steps)
    return Detour(kept, merged([*windows, window]), skipped)
