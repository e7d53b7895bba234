"""Budgets and the ladder over whole histories: what can never happen, whatever fails in whichever order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass, Reason, Rung
from windlass.api.running import Budgets, Recovery
from windlass.api.status import FailedRank, Failure
from windlass.core.failure.budget import (
    BACK_OFF_LIMIT_SECONDS,
    CONFIGURATION_RETRIES,
    RUNGS,
    SAME_FAILURE_LIMIT,
    TRIES,
    Charge,
    Place,
    after_progress,
    budget_of,
    charge,
    delay,
    lies_outside,
    limit,
    next_rung,
    same_mark,
)
from windlass.core.failure.classify import Judgement, classify
from windlass.core.failure.evidence import End

Kind = FailureClass
IN_PLACE, POD, NODE, GANG = RUNGS
LADDERS = [list(rungs) for size in (1, 2, 3, 4) for rungs in itertools.combinations(RUNGS, size)]


def a_judgement(kind: Kind = Kind.CRASH, signature: str = "s", **fields: object) -> Judgement:
    known: dict[str, object] = {
        "failure_class": kind,
        "reason": str(kind),
        "message": "it broke",
        "hint": "mend it",
        "first_failed": FailedRank(rank=1, node="node-1"),
        "evidence": ("ValueError: x",),
        "signature": signature,
    }
    return Judgement(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "budget"),
    [
        (Kind.CRASH, 3),
        (Kind.INFRASTRUCTURE, 4),
        (Kind.OUT_OF_MEMORY, 5),
        (Kind.STORAGE, 6),
        (Kind.STALL, 7),
        (Kind.NUMERIC, 8),
        (Kind.CONFIGURATION, CONFIGURATION_RETRIES),
        (Kind.PREEMPTED, None),
    ],
)
def test_each_class_has_its_own_budget(kind: Kind, budget: int | None) -> None:
    budgets = Budgets(crash=3, infrastructure=4, out_of_memory=5, storage=6, stall=7, numeric=8)
    assert budget_of(kind, budgets) == budget


# (class, used with this one, same failures in a row, how it ends)
LIMITS = [
    (Kind.CRASH, 5, 1, None),
    (Kind.CRASH, 6, 1, Reason.BUDGET_EXHAUSTED),
    (Kind.CRASH, 3, 3, Reason.NO_PROGRESS),
    (Kind.CRASH, 6, 6, Reason.BUDGET_EXHAUSTED),
    (Kind.OUT_OF_MEMORY, 2, 2, None),
    (Kind.OUT_OF_MEMORY, 3, 1, Reason.BUDGET_EXHAUSTED),
    (Kind.INFRASTRUCTURE, 10, 2, None),
    (Kind.INFRASTRUCTURE, 11, 1, Reason.BUDGET_EXHAUSTED),
    (Kind.STALL, 5, 2, None),
    (Kind.STALL, 6, 1, Reason.BUDGET_EXHAUSTED),
    (Kind.STALL, 3, 3, Reason.NO_PROGRESS),
    (Kind.STORAGE, 5, 2, None),
    (Kind.STORAGE, 6, 2, Reason.BUDGET_EXHAUSTED),
    (Kind.NUMERIC, 3, 2, None),
    (Kind.NUMERIC, 3, 3, Reason.NO_PROGRESS),
    (Kind.NUMERIC, 4, 1, Reason.BUDGET_EXHAUSTED),
    (Kind.CONFIGURATION, 1, 1, None),
    (Kind.CONFIGURATION, 2, 1, "Configuration"),
    (Kind.CONFIGURATION, 2, 9, "Configuration"),
]


@pytest.mark.parametrize(("kind", "used", "same", "ends"), LIMITS)
def test_where_the_tries_end(kind: Kind, used: int, same: int, ends: str | None) -> None:
    found = limit(a_judgement(kind), Budgets(), used=used, same=same)
    assert (found[0] if found else None) == ends
    if found is not None:
        assert ". hint: " in found[1]


@pytest.mark.parametrize("kind", list(Kind))
def test_budget_of_nothing_ends_at_once_but_for_preemption(kind: Kind) -> None:
    nothing = Recovery(
        budgets=Budgets(crash=0, infrastructure=0, out_of_memory=0, storage=0, stall=0, numeric=0)
    )
    made = charge(BudgetUse(), a_judgement(kind), nothing, Place(0, 1, "u"))
    assert (made.stop is None) is (kind in (Kind.PREEMPTED, Kind.CONFIGURATION))


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: "+".join(ladder))
@pytest.mark.parametrize("gone", [False, True], ids=["rank", "whole pod"])
def test_ladder_is_climbed_and_never_left(ladder: list[Rung], gone: bool) -> None:
    judgement = a_judgement(Kind.CRASH, whole_pod=gone)
    rungs = [next_rung(ladder, judgement, used, memory_group=False) for used in range(1, 12)]
    possible = [rung for rung in RUNGS[1 if gone else 0 :] if rung in ladder]
    if not possible:
        assert set(rungs) == {None}
        return
    heights = [RUNGS.index(rung) for rung in rungs if rung is not None]
    assert len(heights) == len(rungs)
    assert heights == sorted(heights), "never down again"
    assert set(rungs) <= set(possible)
    assert rungs[0] == possible[0] and rungs[-1] == possible[-1]


@pytest.mark.parametrize(
    ("used", "rung"),
    [(1, IN_PLACE), (2, IN_PLACE), (3, POD), (4, NODE), (5, GANG), (6, GANG), (50, GANG)],
)
def test_each_rung_has_its_tries(used: int, rung: Rung) -> None:
    assert TRIES == {IN_PLACE: 2, POD: 1, NODE: 1}
    assert next_rung(list(RUNGS), a_judgement(), used, memory_group=False) is rung


@pytest.mark.parametrize(
    ("memory_group", "whole_pod", "rung"),
    [(False, False, IN_PLACE), (True, False, POD), (False, True, POD), (True, True, POD)],
)
def test_memory_kills_a_whole_pod_where_the_kernel_says_so(
    memory_group: bool, whole_pod: bool, rung: Rung
) -> None:
    judgement = a_judgement(Kind.OUT_OF_MEMORY, whole_pod=whole_pod)
    assert next_rung(list(RUNGS), judgement, 1, memory_group=memory_group) is rung


@pytest.mark.parametrize(
    ("evidence", "one", "other", "same"),
    [
        (("ValueError",), 10, 20, True),
        ((), 10, 20, False),
        ((), 10, 10, True),
    ],
    ids=["words", "bare at other steps", "bare at one step"],
)
def test_what_counts_as_the_same_failure(evidence: tuple[str, ...], one: int, other: int, same: bool) -> None:
    judgement = a_judgement(evidence=evidence)
    assert (same_mark(judgement, one) == same_mark(judgement, other)) is same


@pytest.mark.parametrize(
    ("since", "verified", "kept"),
    [(0, 0, True), (0, 20, False), (40, 20, True), (40, 40, True), (40, 60, False)],
)
def test_only_a_newer_verified_checkpoint_is_progress(since: int, verified: int, kept: bool) -> None:
    use = BudgetUse(used={Kind.CRASH: 3}, since_step=since, signature="s", signature_count=2)
    after = after_progress(use, verified)
    assert (after == use) is kept
    if not kept:
        assert after == BudgetUse(since_step=verified)


@pytest.mark.parametrize(
    ("failures", "low", "high"),
    [
        (0, 0, 0),
        (1, 0, 0),
        (2, 8, 12),
        (3, 16, 24),
        (4, 32, 48),
        (7, 240, 360),
        (8, 240, 360),
        (10**6, 240, 360),
    ],
)
def test_pauses_double_up_to_five_minutes(failures: int, low: float, high: float) -> None:
    pauses = {delay(10, failures, f"seed-{n}") for n in range(20)}
    assert all(low <= pause <= high for pause in pauses)
    assert len(pauses) == (20 if high else 1), "gangs that fail together do not come back together"


def test_no_pause_is_asked_for_with_zero() -> None:
    assert {delay(0, failures, "s") for failures in range(50)} == {0.0}


# --- histories -------------------------------------------------------------------------------------


@dataclass
class History:
    """A run that fails, and now and then gets on."""

    recovery: Recovery
    use: BudgetUse = field(default_factory=BudgetUse)
    verified: int = 0
    made: list[Charge] = field(default_factory=list)

    def fail(self, judgement: Judgement, at_step: int = 0) -> Charge:
        made = charge(self.use, judgement, self.recovery, Place(self.verified, at_step, "uid"))
        self.use = made.use
        self.made.append(made)
        return made


def as_classified(kind: Kind, words: str, **fields: object) -> Judgement:
    """Its signature begins with the class, so that failures of two classes are never the same one."""
    return a_judgement(kind, f"{kind}/{kind}/exit 1/{words}", **fields)


FAILS = st.builds(
    as_classified,
    st.sampled_from(list(Kind)),
    st.sampled_from(["a", "b", "c"]),
    whole_pod=st.booleans(),
    evidence=st.sampled_from([(), ("line",)]),
)
RECOVERIES = st.builds(
    Recovery,
    ladder=st.sampled_from(LADDERS),
    budgets=st.builds(
        Budgets,
        crash=st.integers(0, 6),
        infrastructure=st.integers(0, 6),
        out_of_memory=st.integers(0, 6),
        storage=st.integers(0, 6),
        numeric=st.integers(0, 6),
    ),
    back_off_seconds=st.integers(0, 60),
)


@settings(max_examples=120, deadline=None)
@given(RECOVERIES, st.lists(FAILS, min_size=1, max_size=40))
def test_no_history_without_progress_outlasts_its_budgets(
    recovery: Recovery, failures: list[Judgement]
) -> None:
    history, charged = History(recovery), 0
    budgets = recovery.budgets
    most = sum(getattr(budgets, name) for name in type(budgets).model_fields) + 1
    for judgement in failures:
        made = history.fail(judgement)
        if made.stop is not None:
            assert made.message and made.rung is None and made.delay_seconds == 0
            return
        charged += judgement.failure_class is not Kind.PREEMPTED
        assert charged <= most
        assert made.rung in recovery.ladder or judgement.failure_class is Kind.PREEMPTED


def test_failures_of_two_classes_never_have_one_signature() -> None:
    ends = {kind: End(at=1.0, exit_code=1, failure=told_of(kind)) for kind in Kind}
    signatures = {classify([end]).signature for end in ends.values()}
    assert len(signatures) == len(Kind)


def told_of(kind: Kind) -> Failure:
    return Failure(reason=str(kind), failure_class=kind, message="the same words")


@settings(max_examples=120, deadline=None)
@given(RECOVERIES, st.lists(FAILS | st.integers(1, 50), min_size=1, max_size=40))
def test_counts_are_never_negative_never_above_budget_and_begin_anew_with_progress(
    recovery: Recovery, steps: list[Judgement | int]
) -> None:
    history = History(recovery)
    for step in steps:
        if isinstance(step, int):
            history.verified += step
            continue
        before = history.use
        made = history.fail(step)
        if history.verified > before.since_step:
            assert made.use.since_step == history.verified
            assert sum(made.use.used.values()) <= 1
        assert all(count >= 0 for count in made.use.used.values())
        assert made.use.since_step >= before.since_step
        for kind, count in made.use.used.items():
            budget = budget_of(kind, recovery.budgets)
            assert budget is None or count <= budget + (made.stop is not None)
        assert 0 <= made.delay_seconds <= BACK_OFF_LIMIT_SECONDS * 1.2
        if made.stop is not None:
            return
        assert made.use.signature_count < SAME_FAILURE_LIMIT or lies_outside(step)


@settings(max_examples=60, deadline=None)
@given(st.lists(FAILS, min_size=1, max_size=20))
def test_one_failure_between_checkpoints_never_ends_a_run(failures: list[Judgement]) -> None:
    """What gets on between any two failures may go on for ever: budgets are for standing still."""
    history = History(Recovery())
    for judgement in failures:
        history.verified += 20
        assert history.fail(judgement).stop is None


@settings(max_examples=60, deadline=None)
@given(RECOVERIES, st.lists(FAILS, max_size=15))
def test_count_survives_being_written_and_read(recovery: Recovery, failures: list[Judgement]) -> None:
    """The count lives in a file that the next leader reads: nothing of it may be lost on the way."""
    history = History(recovery)
    for judgement in failures:
        history.fail(judgement)
        text = history.use.model_dump_json(by_alias=True)
        history.use = BudgetUse.model_validate_json(text)
    again = History(recovery)
    for judgement in failures:
        again.fail(judgement)
    assert again.use == history.use
    assert [made.stop for made in again.made] == [made.stop for made in history.made]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60))
def test_preemptions_never_cost_wait_or_end(times: int) -> None:
    history = History(
        Recovery(budgets=Budgets(crash=0, infrastructure=0, out_of_memory=0, storage=0, stall=0, numeric=0))
    )
    for _ in range(times):
        made = history.fail(a_judgement(Kind.PREEMPTED))
        assert (made.stop, made.delay_seconds, made.use) == (None, 0.0, BudgetUse())
