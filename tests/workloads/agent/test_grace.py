"""A grace period that is too short for a step and a save is told before it costs anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.api.contract import RankEvent
from windlass.api.status import CheckpointRecord, Plan
from windlass_workloads.agent.grace import grace_warning
from windlass_workloads.agent.view import View


@pytest.mark.parametrize(
    ("grace", "step", "save", "enough"),
    [
        (120, 10.0, 20.0, None),
        (120, 95.0, 20.0, None),
        (120, 95.1, 20.0, 180),
        (30, 2.0, 24.0, 50),
        (5, 0.0, 0.1, 10),
        (5, 0.0, 0.0, None),
    ],
)
def test_what_is_too_short_and_what_would_do(
    grace: int, step: float, save: float, enough: int | None
) -> None:
    text = grace_warning(grace, step_seconds=step, save_seconds=save)
    assert (text is None) is (enough is None)
    if text is not None:
        assert text.startswith(
            "spec.recovery.terminationGracePeriodSeconds: a pod that is told to leave has no time"
        )
        assert f"(got {grace}; a step takes {step:.0f} s and a save {save:.0f} s)" in text
        assert text.endswith(f"hint: set it to {enough} or more")


@given(st.integers(5, 86_400), st.floats(0, 10_000), st.floats(0, 10_000))
def test_what_it_advises_is_long_enough(grace: int, step: float, save: float) -> None:
    text = grace_warning(grace, step_seconds=step, save_seconds=save)
    if text is not None:
        advised = int(text.rpartition("set it to ")[2].split()[0])
        assert advised > grace and grace_warning(advised, step_seconds=step, save_seconds=save) is None


def saved(step: int, *, stall: float = 1.0, write: float = 30.0) -> RankEvent:
    record = CheckpointRecord(step=step, incarnation=1, name=f"step-{step:08d}.i1", digest="d")
    return RankEvent(
        type="Checkpoint", at=10.0, step=step, checkpoint=record, stall_seconds=stall, write_seconds=write
    )


def stepped(step: int, seconds: float) -> RankEvent:
    return RankEvent(type="Step", at=10.0, step=step, loss=1.0, tokens=10, seconds=seconds)


def warnings(view: View) -> list[str]:
    return view.plan.warnings if view.plan is not None else []


def test_first_save_that_shows_it_warns_once_among_the_plans_other_warnings() -> None:
    view = View(plan=Plan(total_steps=9, warnings=["odd"]), grace_seconds=30)
    view.hear(stepped(1, 2.0))
    view.hear(saved(1, write=3.0))
    assert warnings(view) == ["odd"]
    view.hear(saved(2))
    assert warnings(view)[0] == "odd" and "a save 31 s" in warnings(view)[1]
    view.hear(saved(3, write=99.0))
    assert len(warnings(view)) == 2 and view.plan is not None and view.plan.total_steps == 9


def test_a_blocking_save_counts_once() -> None:
    view = View(grace_seconds=60)
    view.hear(saved(1, stall=30.0, write=30.0))
    assert warnings(view) == []
    view.hear(saved(2, stall=60.0, write=60.0))
    assert "a save 60 s" in warnings(view)[0]


def test_save_of_another_rank_and_a_long_period_warn_of_nothing() -> None:
    view = View(grace_seconds=60)
    view.hear(saved(1))
    assert warnings(view) == []
    view.hear(saved(2, write=400.0).model_copy(update={"rank": 1}))
    assert warnings(view) == []


def test_without_a_period_nothing_is_judged() -> None:
    view = View()
    view.hear(saved(1, write=9999.0))
    assert warnings(view) == []
