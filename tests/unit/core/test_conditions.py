"""Conditions after kstatus: which truth each state has, and how they are merged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import at
from windlass.api.meta import ConditionType, Reason
from windlass.api.status import Condition
from windlass.core.status import conditions
from windlass.core.status.conditions import MESSAGE_LIMIT, ORDER, Aspect, find, is_true, merge

T = ConditionType
FOUR = (T.READY, T.RECONCILING, T.STALLED, T.RUNNING)

# One row per state: (shape, truths of Ready, Reconciling, Stalled, Running; the one that it adds).
STATES: list[tuple[str, Callable[[], tuple[Aspect, ...]], str, tuple[str, str] | None]] = [
    ("working", lambda: conditions.working(Reason.STARTING, "m"), "False True False False", None),
    ("training", lambda: conditions.training(Reason.TRAINING, "m"), "False False False True", None),
    (
        "unheard",
        lambda: conditions.unheard(Reason.REPORTS_MISSING, "m"),
        "False False False Unknown",
        None,
    ),
    ("stalled", lambda: conditions.stalled(Reason.CLAIM_NOT_FOUND, "m"), "False False True False", None),
    (
        "suspended",
        lambda: conditions.suspended("m"),
        "False False False False",
        ("Suspended", "Suspended"),
    ),
    ("complete", lambda: conditions.complete("m"), "True False False False", ("Complete", "Completed")),
    (
        "failed",
        lambda: conditions.failed(Reason.CRASH, "m"),
        "False False True False",
        ("Failed", "Crash"),
    ),
]


@pytest.mark.parametrize(("name", "shape", "truths", "extra"), STATES, ids=[row[0] for row in STATES])
def test_each_state_sets_all_four_conditions(
    name: str, shape: Callable[[], tuple[Aspect, ...]], truths: str, extra: tuple[str, str] | None
) -> None:
    aspects = shape()
    assert tuple(one.type for one in aspects[:4]) == FOUR, name
    assert " ".join(one.status for one in aspects[:4]) == truths
    if extra is None:
        assert len(aspects) == 4
    else:
        (own,) = aspects[4:]
        assert (own.type, own.reason, own.status, own.message) == (*extra, "True", "m")


@pytest.mark.parametrize(("name", "shape", "truths", "extra"), STATES, ids=[row[0] for row in STATES])
def test_what_is_false_has_nothing_to_say_but_ready(
    name: str, shape: Callable[[], tuple[Aspect, ...]], truths: str, extra: object
) -> None:
    for one in shape():
        if one.type is T.READY or one.status != "False":
            assert one.message == "m", name
        elif one.type is T.RUNNING:
            assert one.reason == shape()[0].reason and one.message == ""
        else:
            assert (one.reason, one.message) == (Reason.AS_EXPECTED, "")


@pytest.mark.parametrize(("name", "shape", "truths", "extra"), STATES, ids=[row[0] for row in STATES])
def test_kstatus_reads_one_story(
    name: str, shape: Callable[[], tuple[Aspect, ...]], truths: str, extra: object
) -> None:
    """Tools take Stalled for failed and Reconciling for in progress: never both, never beside Ready."""
    truth = {one.type: one.status == "True" for one in shape()}
    assert sum(truth[each] for each in (T.READY, T.RECONCILING, T.STALLED)) <= 1
    assert not (truth[T.RUNNING] and truth[T.STALLED])
    assert name  # the row's name is its state


def test_time_of_a_condition_moves_with_its_status_alone() -> None:
    first = merge([], conditions.working(Reason.STARTING, "one"), now=at(1), generation=1)
    second = merge(first, conditions.working(Reason.RECOVERING, "two"), now=at(9), generation=2)
    third = merge(second, conditions.training(Reason.TRAINING, "three"), now=at(20), generation=2)
    times = {each.type: each.last_transition_time for each in second}
    assert set(times.values()) == {at(1)}
    moved = {each.type for each in third if each.last_transition_time == at(20)}
    assert moved == {"Reconciling", "Running"}
    assert find(third, T.READY).message == "three"  # type: ignore[union-attr]


def test_generation_is_that_of_the_last_judgement() -> None:
    first = merge([], conditions.working(Reason.STARTING, ""), now=at(1), generation=1)
    degraded = [Aspect(T.TRACKING_DEGRADED, "True", Reason.TRACKING_UNREACHABLE, "x")]
    second = merge(first, degraded, now=at(2), generation=5)
    generations = {each.type: each.observed_generation for each in second}
    assert generations == {
        "Ready": 1,
        "Reconciling": 1,
        "Stalled": 1,
        "Running": 1,
        "TrackingDegraded": 5,
    }


def test_message_is_cut_where_the_schema_would_refuse_it() -> None:
    (made,) = merge([], [Aspect(T.READY, "False", Reason.CRASH, "x" * 5000)], now=at(1), generation=1)
    assert len(made.message) == MESSAGE_LIMIT


def test_condition_of_another_controller_stays_at_the_end() -> None:
    foreign = Condition(type="QuotaReserved", status="True", reason="Admitted", last_transition_time=at(0))
    made = merge([foreign], conditions.training(Reason.TRAINING, "m"), now=at(1), generation=1)
    assert made[-1] == foreign
    assert [each.type for each in made] == ["Ready", "Reconciling", "Stalled", "Running", "QuotaReserved"]


@pytest.mark.parametrize(
    ("stored", "asked", "true"),
    [
        ((), T.READY, False),
        ((("Ready", "True"),), T.READY, True),
        ((("Ready", "False"),), T.READY, False),
        ((("Ready", "Unknown"),), T.READY, False),
        ((("Complete", "True"),), T.READY, False),
    ],
)
def test_absent_false_and_unknown_are_not_true(
    stored: tuple[tuple[str, str], ...], asked: ConditionType, true: bool
) -> None:
    made = [
        Condition(type=type, status=status, reason="R", last_transition_time=at(0))  # type: ignore[arg-type]
        for type, status in stored
    ]
    assert is_true(made, asked) is true


ASPECTS = st.builds(
    Aspect,
    st.sampled_from(list(T)),
    st.sampled_from(["True", "False", "Unknown"]),
    st.sampled_from(list(Reason)),
    st.text(max_size=20),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(ASPECTS, max_size=6), max_size=6))
def test_any_history_keeps_one_condition_of_a_type_in_order(history: list[list[Aspect]]) -> None:
    made: list[Condition] = []
    now = at(0)
    changed: dict[str, datetime] = {}
    truth: dict[str, str] = {}
    for aspects in history:
        now += timedelta(seconds=1)
        for one in aspects:
            if truth.get(one.type) != one.status:
                changed[one.type] = now
            truth[one.type] = one.status
        before = {each.type: each for each in made}
        made = merge(made, aspects, now=now, generation=1)
        assert {each.type for each in made} == set(before) | {one.type for one in aspects}
    types = [each.type for each in made]
    assert types == [type for type in ORDER if type in types]
    assert {each.type: each.status for each in made} == truth
    for each in made:
        # A type that was set twice in one step may end as it began; its time then need not move.
        assert each.last_transition_time <= changed[each.type]


@settings(max_examples=40, deadline=None)
@given(st.lists(ASPECTS, max_size=6))
def test_merging_the_same_again_changes_nothing(aspects: list[Aspect]) -> None:
    last = {one.type: one for one in aspects}
    once = merge([], last.values(), now=at(1), generation=3)
    assert merge(once, last.values(), now=at(50), generation=3) == once
