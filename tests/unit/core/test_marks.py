"""Which loads that fail are the same failure again: those of one checkpoint, not of one after the other."""

from __future__ import annotations

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass, Reason
from windlass.api.running import Recovery
from windlass.api.status import Failure
from windlass.core.failure.budget import Charge, Place, charge
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End

FALL_BACK = "the run falls back to the next verified checkpoint by itself; check the volume for errors"


def load_failed(step: int, what: str = "its content is damaged", incarnation: int = 1) -> End:
    """As a rank reports it."""
    name = f"step-{step:08d}.i{incarnation}"
    failure = Failure(
        reason=Reason.CHECKPOINT_UNUSABLE,
        failure_class=FailureClass.STORAGE,
        message=f"CheckpointUnusable: checkpoint {name}: {what}. hint: {FALL_BACK}",
        hint=FALL_BACK,
        evidence=[f"{name}/__0_0.distcp: xxh3 is 0x1f, not 0x2e"],
    )
    return End(at=float(step), rank=0, exit_code=13, failure=failure)


def charges(*ends: End) -> list[Charge]:
    made, use = [], BudgetUse()
    for end in ends:
        place = Place(verified_step=0, at_step=0, seed="uid")
        made.append(charge(use, classify([end]), Recovery(), place))
        use = made[-1].use
    return made


def test_damaged_checkpoint_after_another_is_not_the_same_failure() -> None:
    """Each is poisoned after its second load; the third checkpoint may be good."""
    made = charges(*(load_failed(step) for step in (60, 60, 40, 40, 20)))
    assert [each.stop for each in made] == [None] * 5
    assert [each.use.signature_count for each in made] == [1, 2, 1, 2, 1]


def test_one_checkpoint_that_fails_for_ever_ends_the_run() -> None:
    made = charges(*(load_failed(60) for _ in range(3)))
    assert [each.stop for each in made] == [None, None, Reason.NO_PROGRESS]


def test_numbers_besides_the_name_change_nothing() -> None:
    made = charges(*(load_failed(60, f"could not load it: {n} of 9 keys are missing") for n in (1, 2, 3)))
    assert made[-1].stop == Reason.NO_PROGRESS


def test_name_counts_for_loads_only() -> None:
    """A save names a new directory at each try: it fails for the same reason all the same."""
    ends = [
        End(at=1.0, rank=0, exit_code=1, log_tail=(f"RuntimeError: step-{step:08d}.i{step}: no such group",))
        for step in (1, 2, 3)
    ]
    assert [each.use.signature_count for each in charges(*ends)] == [1, 2, 3]
