"""Budgets for a window of time: what counts, what is forgotten, and that no run fails for ever all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import NOW, a_job, a_pod, at, judge
from unit.core.test_ladder import a_judgement
from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass, Reason, Rung
from windlass.api.running import Budgets, Recovery
from windlass.core.failure.budget import Charge, Place, charge, limit
from windlass.core.failure.windows import EPOCH, WINDOWED, WINDOWS, counts, recent_with

Kind = FailureClass
HOUR, DAY = 3600, 86_400
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def fail(
    use: BudgetUse, kind: Kind, second: float, *, recovery: Recovery | None = None, verified: int = 0
) -> Charge:
    """Charge one failure of its own kind at this second."""
    judged = a_judgement(kind, f"{kind}-{second}", at=NOW + timedelta(seconds=second))
    return charge(use, judged, recovery or Recovery(), Place(verified, 1, "uid"))


def fail_every(seconds: float, times: int, kind: Kind, recovery: Recovery | None = None) -> Charge:
    """The charge of the last of so many failures, or of the one that ended the run."""
    use, made = BudgetUse(), Charge(BudgetUse())
    for number in range(times):
        made = fail(use, kind, number * seconds, recovery=recovery)
        use = made.use
        if made.stop is not None:
            break
    return made


# (class, seconds between failures, how many: whether the run still goes on)
PACES = [
    (Kind.INFRASTRUCTURE, HOUR, 10, True),
    (Kind.INFRASTRUCTURE, HOUR, 11, False),
    (Kind.INFRASTRUCTURE, DAY / 10, 30, True),
    (Kind.INFRASTRUCTURE, DAY, 100, True),
    (Kind.INFRASTRUCTURE, DAY, 101, False),
    (Kind.STORAGE, HOUR, 5, True),
    (Kind.STORAGE, HOUR, 6, False),
    (Kind.STORAGE, DAY / 5, 20, True),
    (Kind.STORAGE, DAY, 51, False),
    (Kind.CRASH, DAY, 5, True),
    (Kind.CRASH, DAY, 6, False),
    (Kind.OUT_OF_MEMORY, DAY, 3, False),
]


@pytest.mark.fault("F57")
@pytest.mark.parametrize(("kind", "pace", "times", "goes_on"), PACES)
def test_outages_far_apart_are_survived_and_a_row_of_them_is_not(
    kind: Kind, pace: float, times: int, goes_on: bool
) -> None:
    made = fail_every(pace, times, kind)
    assert (made.stop is None) is goes_on
    if not goes_on:
        assert made.stop == Reason.BUDGET_EXHAUSTED
        assert sum(made.use.used.values()) == times, "not one too early"


def test_message_says_the_window_where_that_is_why() -> None:
    short = fail_every(1, 11, Kind.INFRASTRUCTURE).message
    assert short.startswith(
        "11 failures of class Infrastructure without a newer verified checkpoint (budget 10 in 86400 s)"
    )
    long = fail_every(DAY, 101, Kind.INFRASTRUCTURE).message
    assert long.startswith(
        "101 failures of class Infrastructure without a newer verified checkpoint (budget 10)"
    )


def test_the_window_is_the_users() -> None:
    narrow = Recovery(budgets=Budgets(infrastructure=2, window_seconds=60))
    assert fail_every(31, 20, Kind.INFRASTRUCTURE, narrow).stop is None
    assert fail_every(29, 20, Kind.INFRASTRUCTURE, narrow).stop == Reason.BUDGET_EXHAUSTED


def test_what_is_forgotten_neither_climbs_nor_waits() -> None:
    made = fail_every(2 * DAY, 5, Kind.INFRASTRUCTURE)
    assert made.delay_seconds == 0.0
    assert made.use.used == {Kind.INFRASTRUCTURE: 5} and len(made.use.recent[Kind.INFRASTRUCTURE]) == 1
    assert fail_every(1, 5, Kind.INFRASTRUCTURE).rung is Rung.RECREATE_GANG


def test_a_newer_checkpoint_forgets_everything() -> None:
    before = fail_every(1, 10, Kind.INFRASTRUCTURE).use
    made = fail(before, Kind.INFRASTRUCTURE, 20, verified=20)
    assert made.stop is None
    assert made.use.recent == {Kind.INFRASTRUCTURE: [NOW + timedelta(seconds=20)]}


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_count_of_an_older_version_still_counts(kind: Kind) -> None:
    """It has no times: its failures count as if they had happened just now."""
    old = BudgetUse.model_validate({"used": {kind: 5}, "sinceStep": 0, "signature": "x"})
    made = fail(old, kind, 0)
    assert len(made.use.recent[kind]) == 6
    assert (made.stop is not None) is (kind is Kind.STORAGE)
    later = fail(made.use, kind, DAY)
    assert later.stop is None and len(later.use.recent[kind]) == 1


@pytest.mark.parametrize(
    ("used", "total", "ends"),
    [(10, 10, False), (11, 11, True), (1, 100, False), (1, 101, True), (0, 0, False)],
)
def test_limit_is_the_window_or_ten_windows(used: int, total: int, ends: bool) -> None:
    found = limit(a_judgement(Kind.INFRASTRUCTURE), Budgets(), used=used, same=1, total=total)
    assert (found is not None) is ends
    assert WINDOWS == 10


def test_a_failure_without_a_time_counts_with_those_before() -> None:
    assert recent_with(BudgetUse(), Kind.STORAGE, None, 60) == {Kind.STORAGE: [EPOCH]}
    known = BudgetUse(used={Kind.STORAGE: 1}, recent={Kind.STORAGE: [LONG_AGO]})
    assert recent_with(known, Kind.STORAGE, None, 60) == {Kind.STORAGE: [LONG_AGO, LONG_AGO]}


def test_only_windowed_classes_have_times() -> None:
    made = fail(fail(BudgetUse(), Kind.CRASH, 0).use, Kind.INFRASTRUCTURE, 1)
    assert set(made.use.recent) == {Kind.INFRASTRUCTURE}
    assert counts(made.use.used, made.use.recent) == {Kind.CRASH: 1, Kind.INFRASTRUCTURE: 1}


# --- histories -------------------------------------------------------------------------------------

FAILURES = st.lists(
    st.tuples(
        st.sampled_from([kind for kind in Kind if kind is not Kind.PREEMPTED]), st.integers(0, 3 * DAY)
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(FAILURES, st.integers(60, 2 * DAY))
def test_times_are_those_of_the_window_and_survive_being_written(
    failures: list[tuple[Kind, int]], window: int
) -> None:
    recovery = Recovery(
        budgets=Budgets(
            infrastructure=1000, storage=1000, crash=1000, out_of_memory=1000, window_seconds=window
        )
    )
    use, second = BudgetUse(), 0
    for kind, passed in failures:
        second += passed
        made = fail(use, kind, second, recovery=recovery)
        again = BudgetUse.model_validate_json(made.use.model_dump_json(by_alias=True))
        assert again == made.use
        now = NOW + timedelta(seconds=second)
        for each, times in made.use.recent.items():
            assert times == sorted(times) and len(times) <= made.use.used.get(each, 0)
            assert all(now - timedelta(seconds=window) < time <= now for time in times)
        if kind in WINDOWED:
            assert made.use.recent[kind][-1] == now
        if made.stop is not None:
            return
        use = made.use


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10 * DAY), min_size=60, max_size=60), st.integers(0, 5))
def test_no_pace_of_outages_goes_on_for_ever_without_progress(pauses: list[int], budget: int) -> None:
    recovery = Recovery(budgets=Budgets(infrastructure=budget))
    use, second = BudgetUse(), 0
    for number, passed in enumerate(pauses):
        second += passed
        made = fail(use, Kind.INFRASTRUCTURE, second, recovery=recovery)
        use = made.use
        if made.stop is not None:
            assert number + 1 <= budget * WINDOWS + 1
            assert number >= budget
            return
    raise AssertionError("it would fail for ever")


# --- the operator's own count ----------------------------------------------------------------------


def test_the_operators_count_keeps_its_times() -> None:
    job = a_job().on_attempt(1, 1, 2)
    first = judge(job, pods=(a_pod(0, 1), a_pod(1, 2, phase="Failed", reason="UnexpectedAdmissionError")))
    assert first.status is not None
    assert first.status["charges"]["recent"] == {"Infrastructure": ["2026-11-23T12:01:00Z"]}
    refused = a_pod(1, 3, phase="Failed", reason="UnexpectedAdmissionError", node="node-2")
    soon = judge(job.after(first), pods=(a_pod(0, 1), refused), now=at(120))
    assert soon.status is not None and len(soon.status["charges"]["recent"]["Infrastructure"]) == 2
    late = judge(job.after(first), pods=(a_pod(0, 1), refused), now=at(2 * DAY))
    assert late.status is not None and len(late.status["charges"]["recent"]["Infrastructure"]) == 1
    assert late.status["charges"]["used"] == {"Infrastructure": 2}
