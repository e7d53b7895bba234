"""The leader's answers to failures of class Numeric: stop, or go back and past the data.

Pure; called by `course` and `claims`. The rules are windlass.core.failure.numeric's.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.api.contract import AcceptedCheckpoint, Incarnation, IncarnationCause, RunConfig, Verdict
from windlass.api.guards import Guards
from windlass.core.failure.classify import Judgement
from windlass.core.failure.numeric import Detour, advice, detour, stops_with
from windlass.core.skipped_windows import merged


def stop_of(judgement: Judgement, guards: Guards, *, step: int, reached: int) -> Verdict | None:
    """The verdict when a guard stops the run, at the newest verified `step` of `reached` steps; else None."""
    failure = judgement.failure()
    result = stops_with(failure, guards)
    if result is None:
        return None
    failure = failure.model_copy(update={"hint": advice(failure, guards)})
    lost = max(0, reached - step)
    return Verdict.model_validate({"result": result, "step": step, "lost_steps": lost, "failure": failure})


def way_of(
    cause: IncarnationCause | None,
    accepted: tuple[AcceptedCheckpoint, ...],
    newest: Incarnation | None,
    config: RunConfig,
    adopted: Sequence[tuple[int, int]] = (),
) -> Detour:
    """Which accepted checkpoints stay and which data are left out by the incarnation after `newest`.

    What was left out once stays so for the run's whole life, whatever checkpoint it goes on from; `adopted` is what the
    run had left out whose checkpoint is taken over.
    """
    windows = merged(newest.skipped_windows if newest is not None else adopted)
    if cause is None or cause.rollback is None:
        return Detour(accepted, windows)
    return detour(cause.rollback, accepted, windows, config.spec.units_per_step)
