"""Spec block `guards`: losses and gradients that go wrong, ranks that stand still, and what is done then.

Shared by FineTuneJob and PretrainJob. What counts as a spike is decided in core.failure.spike; how far back and past
which data a run goes in core.failure.numeric.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.meta import Reason
from windlass.api.rules import Between, Hint, Rule
from windlass.api.stall import Stall
from windlass.api.training import Decimal

BACK_HINT = Hint("1 is the newest verified checkpoint, 2 the one before")
SKIP_HINT = Hint("0 trains on the same data again, which helps against a passing fault of the hardware only")


class NonFinite(Model):
    """A loss or gradient that is no number any more (NaN or infinite), on any rank. Nothing of that step is applied."""

    action: Literal["Rollback", "Pause", "Fail"] = "Rollback"
    """Rollback goes back to a verified checkpoint and past the data of the step; Pause removes the pods and waits for
    a change of the spec; Fail ends the job. Example: Pause."""
    checkpoints: Annotated[int, Field(ge=1, le=100), BACK_HINT] = 1
    """Verified checkpoints to go back; the oldest there is if there are fewer. Another failure of this kind without a
    newer checkpoint goes one further back. Example: 2."""
    skip_steps: Annotated[int, Field(ge=0, le=100_000), SKIP_HINT] = 1
    """Steps whose data are skipped, up to the one that failed. Unit: steps. Example: 4."""


class LossSpike(Model):
    """A training loss far above its recent values.

    A loss is suspect above median + deviations x 1.4826 x MAD of the last `windowSteps` losses that were not, where
    MAD is the median distance from the median, at least one percent of the median. `patience` suspect losses in a row
    are a spike. It is judged before the step is applied, on all ranks alike, once a whole window is known.
    """

    action: Literal["Off", "Notify", "Rollback", "Pause", "Fail"] = "Notify"
    """Notify says so in a condition and an event, and goes on; Rollback goes back to a verified checkpoint and past
    the data of the spike; Pause removes the pods and waits for a change of the spec; Fail ends the job; Off does not
    look. Example: Rollback."""
    window_steps: Annotated[
        int, Field(ge=10, le=10_000), Hint("100 is usual; more for very noisy losses")
    ] = 100
    """Recent losses that a loss is compared with. Unit: steps. Example: 200."""
    deviations: Annotated[Decimal, Between(at_least="1", at_most="1000", hint="10 is usual")] = "10"
    """Robust standard deviations above the median that are still normal, 1 to 1000. Example: "6"."""
    patience: Annotated[int, Field(ge=1, le=1000), Hint("3 is usual; 1 acts on a single step")] = 3
    """Suspect losses in a row that make a spike. Unit: steps. Example: 5."""
    checkpoints: Annotated[int, Field(ge=1, le=100), BACK_HINT] = 2
    """Verified checkpoints to go back; the oldest there is if there are fewer. Another failure of this kind without a
    newer checkpoint goes one further back. Example: 3."""
    skip_steps: Annotated[int, Field(ge=0, le=100_000), SKIP_HINT] = 10
    """Steps whose data are skipped, up to the last one of the spike. Unit: steps. Example: 200."""


class Guards(Model):
    """What is watched while training goes on, and what is done about it. Wrong numbers are charged to
    recovery.budgets.numeric, stalls to recovery.budgets.stall."""

    non_finite: NonFinite = Field(default_factory=NonFinite)
    """A loss or gradient that is no number. Example: {action: Rollback, skipSteps: 2}."""
    loss_spike: LossSpike = Field(default_factory=LossSpike)
    """A loss far above its recent values. Example: {action: Rollback, checkpoints: 2, skipSteps: 100}."""

    stall: Stall = Field(default_factory=Stall)
    """Ranks that live and make no progress. Example: {action: Restart, limitSeconds: 600}."""

    def of(self, reason: str) -> NonFinite | LossSpike | None:
        """The guard that stops a run for this reason; None for what is no guard's."""
        if reason == Reason.NON_FINITE:
            return self.non_finite
        return self.loss_spike if reason == Reason.LOSS_SPIKE else None


def _kept(guard: str) -> Rule:
    def holds(value: Any, _: Any) -> bool:
        block = value["guards"][guard]
        return bool(block["action"] != "Rollback" or block["checkpoints"] <= value["checkpoint"]["keepLast"])

    return Rule(
        cel=(
            f"self.guards.{guard}.action != 'Rollback' || "
            f"self.guards.{guard}.checkpoints <= self.checkpoint.keepLast"
        ),
        holds=holds,
        wrong="goes back further than checkpoints are kept",
        got=f"{{self.guards.{guard}.checkpoints}} with checkpoint.keepLast={{self.checkpoint.keepLast}}",
        allowed="up to checkpoint.keepLast",
        hint="raise checkpoint.keepLast, or go back less far",
        path=f"guards.{guard}.checkpoints",
    )


GUARD_RULES: Final = (_kept("nonFinite"), _kept("lossSpike"))
"""Rules between guards and other blocks of a spec."""
