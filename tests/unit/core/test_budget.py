"""Budgets, the breaker, back-off and the ladder."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass, Reason, Rung
from windlass.api.running import Recovery
from windlass.api.status import FailedRank
from windlass.core.failure.budget import BACK_OFF_LIMIT_SECONDS, Charge, Place, charge, delay
from windlass.core.failure.classify import Judgement

Kind = FailureClass
RECOVERY = Recovery()
INP, POD, NODE, GANG = Rung.IN_PLACE, Rung.RECREATE_POD, Rung.OTHER_NODE, Rung.RECREATE_GANG


def a_judgement(kind: Kind = Kind.CRASH, **fields: object) -> Judgement:
    known: dict[str, object] = {
        "failure_class": kind,
        "reason": str(kind),
        "message": "it broke",
        "hint": "mend it",
        "first_failed": FailedRank(rank=1, node="node-1"),
        "evidence": ("ValueError: x",),
        "signature": "a",
    }
    return Judgement(**(known | fields))  # type: ignore[arg-type]


def place(verified: int = 0, step: int = 10, **fields: object) -> Place:
    return Place(verified_step=verified, at_step=step, seed="uid", **fields)  # type: ignore[arg-type]


def charge_often(times: int, kind: Kind, recovery: Recovery = RECOVERY, **fields: object) -> Charge:
    """The charge after so many different failures of one class without progress."""
    use, made = BudgetUse(), Charge(BudgetUse())
    for number in range(times):
        made = charge(use, a_judgement(kind, signature=f"s{number}", **fields), recovery, place())
        use = made.use
    return made


@pytest.mark.fault("F57")
@pytest.mark.parametrize(
    ("kind", "lasts", "reason"),
    [
        (Kind.CRASH, 2, Reason.NO_PROGRESS),
        (Kind.STORAGE, 5, Reason.BUDGET_EXHAUSTED),
        (Kind.STALL, 2, Reason.NO_PROGRESS),
        (Kind.INFRASTRUCTURE, 10, Reason.BUDGET_EXHAUSTED),
    ],
)
def test_an_outage_that_says_the_same_each_time_has_its_whole_budget(
    kind: Kind, lasts: int, reason: Reason
) -> None:
    use, stops = BudgetUse(), []
    for _ in range(lasts + 1):
        made = charge(use, a_judgement(kind), RECOVERY, place())
        use = made.use
        stops.append(made.stop)
    assert stops == [None] * lasts + [reason]


@pytest.mark.fault("F50")
@pytest.mark.parametrize(
    ("kind", "budget"),
    [(Kind.CRASH, 5), (Kind.INFRASTRUCTURE, 10), (Kind.OUT_OF_MEMORY, 2), (Kind.STORAGE, 5), (Kind.STALL, 5)],
)
def test_budget_lasts_exactly_as_often_as_it_says(kind: Kind, budget: int) -> None:
    assert charge_often(budget, kind).stop is None
    ended = charge_often(budget + 1, kind)
    assert ended.stop == Reason.BUDGET_EXHAUSTED
    assert ended.message.startswith(
        f"{budget + 1} failures of class {kind} without a newer verified checkpoint"
    )
    assert "hint: cure the cause" in ended.message


def test_configuration_has_one_retry_and_keeps_its_own_reason() -> None:
    first = charge(BudgetUse(), a_judgement(Kind.CONFIGURATION, reason="DataNotFound"), RECOVERY, place())
    second = charge(first.use, a_judgement(Kind.CONFIGURATION, reason="DataNotFound"), RECOVERY, place())
    assert (first.stop, first.rung) == (None, Rung.IN_PLACE)
    assert (second.stop, second.message) == ("DataNotFound", "it broke. hint: mend it")


@pytest.mark.fault("F27")
def test_preemption_costs_nothing() -> None:
    made = charge_often(50, Kind.PREEMPTED)
    assert made.stop is None and made.use.used == {} and made.delay_seconds == 0


@pytest.mark.fault("F52")
def test_same_failure_three_times_without_progress_ends_the_run() -> None:
    use = BudgetUse()
    for step in (10, 20):
        made = charge(use, a_judgement(), RECOVERY, place(step=step))
        assert made.stop is None
        use = made.use
    ended = charge(use, a_judgement(), RECOVERY, place(step=30))
    assert ended.stop == Reason.NO_PROGRESS
    assert ended.message.startswith("the same failure came 3 times")


def test_bare_signals_are_the_same_only_at_the_same_step() -> None:
    silent = a_judgement(evidence=(), signature="Crash/signal 9/")
    use = BudgetUse()
    for step in (10, 11, 12, 12):
        made = charge(use, silent, RECOVERY, place(step=step))
        assert made.stop is None
        use = made.use
    assert charge(use, silent, RECOVERY, place(step=12)).stop == Reason.NO_PROGRESS


def test_newer_checkpoint_makes_everything_new() -> None:
    use = charge_often(5, Kind.CRASH).use
    made = charge(use, a_judgement(), RECOVERY, place(verified=20))
    assert made.use == BudgetUse(
        used={Kind.CRASH: 1}, since_step=20, signature="a", signature_count=1, nodes={"node-1": 1}
    )
    assert made.delay_seconds == 0


def test_older_checkpoint_makes_nothing_new() -> None:
    use = BudgetUse(used={Kind.CRASH: 3}, since_step=40)
    assert charge(use, a_judgement(), RECOVERY, place(verified=20)).use.used == {Kind.CRASH: 4}


@pytest.mark.parametrize(
    ("kind", "fields", "memory_group", "rung"),
    [
        (Kind.CRASH, {}, False, Rung.IN_PLACE),
        (Kind.INFRASTRUCTURE, {}, False, Rung.IN_PLACE),
        (Kind.INFRASTRUCTURE, {"whole_pod": True}, False, Rung.RECREATE_POD),
        (Kind.OUT_OF_MEMORY, {}, False, Rung.IN_PLACE),
        (Kind.OUT_OF_MEMORY, {}, True, Rung.RECREATE_POD),
        (Kind.STORAGE, {}, False, Rung.IN_PLACE),
        (Kind.PREEMPTED, {}, False, Rung.RECREATE_POD),
    ],
)
def test_first_rung_by_class(kind: Kind, fields: dict[str, object], memory_group: bool, rung: Rung) -> None:
    made = charge(BudgetUse(), a_judgement(kind, **fields), RECOVERY, place(memory_group=memory_group))
    assert made.rung is rung


@pytest.mark.parametrize(
    ("kind", "fields", "rungs"),
    [
        (Kind.CRASH, {}, [INP, INP, POD, NODE, GANG]),
        (Kind.CRASH, {"whole_pod": True}, [POD, NODE, GANG, GANG, GANG]),
        # The second failure of the infrastructure on one node is no accident.
        (Kind.INFRASTRUCTURE, {}, [INP, NODE, NODE, NODE, GANG]),
        (Kind.INFRASTRUCTURE, {"whole_pod": True}, [POD, NODE, GANG, GANG, GANG]),
        (Kind.INFRASTRUCTURE, {"row": "hardware"}, [NODE, NODE, NODE, NODE, GANG]),
        (Kind.INFRASTRUCTURE, {"row": "node lost", "whole_pod": True}, [NODE, NODE, GANG, GANG, GANG]),
        # What the node has no part in, and what happened nobody knows where, moves to no other node.
        (Kind.STORAGE, {}, [INP, INP, POD, POD, GANG]),
        (Kind.OUT_OF_MEMORY, {"whole_pod": True}, [POD, POD]),
        (Kind.OUT_OF_MEMORY, {}, [INP, INP]),
        (Kind.CRASH, {"first_failed": FailedRank(rank=1)}, [INP, INP, POD, POD, GANG]),
    ],
)
def test_ladder_is_entered_by_class_and_climbed(
    kind: Kind, fields: dict[str, object], rungs: list[Rung]
) -> None:
    assert [charge_often(times + 1, kind, **fields).rung for times in range(len(rungs))] == rungs


def test_rungs_that_the_ladder_lacks_are_passed_over() -> None:
    recovery = Recovery(ladder=[Rung.IN_PLACE, Rung.RECREATE_GANG])
    assert charge_often(3, Kind.CRASH, recovery).rung is Rung.RECREATE_GANG
    assert charge_often(3, Kind.CRASH, Recovery(ladder=[Rung.IN_PLACE])).rung is Rung.IN_PLACE


def test_lost_pod_without_a_rung_for_it_ends_the_run() -> None:
    recovery = Recovery(ladder=[Rung.IN_PLACE])
    made = charge(BudgetUse(), a_judgement(Kind.INFRASTRUCTURE, whole_pod=True), recovery, place())
    assert made.stop == "Infrastructure"
    assert (
        made.message
        == "it broke; recovery.ladder has no rung for that. hint: add RecreateGang to recovery.ladder"
    )


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 3600), st.integers(0, 1000), st.text(max_size=20))
def test_delay_is_bounded_and_the_same_for_the_same_seed(base: float, failures: int, seed: str) -> None:
    made = delay(base, failures, seed)
    assert 0 <= made <= BACK_OFF_LIMIT_SECONDS * 1.2
    assert made == delay(base, failures, seed)
    assert (made == 0) == (failures <= 1 or base == 0)


KINDS = st.sampled_from(list(Kind))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(KINDS, st.text(alphabet="abc", max_size=2)), min_size=1, max_size=80))
def test_no_run_fails_for_ever_without_progress(failures: list[tuple[Kind, str]]) -> None:
    use, charged = BudgetUse(), 0
    for kind, signature in failures:
        made = charge(use, a_judgement(kind, signature=signature), RECOVERY, place())
        use = made.use
        charged += kind is not Kind.PREEMPTED
        if made.stop is not None:
            assert made.message and made.rung is None
            return
        assert made.rung is not None
    assert charged <= 5 + 10 + 2 + 5 + 1
