"""Cost equals price times measured seconds, whatever pods come and go and whenever it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import CREATED, SETTINGS, a_job, a_pod, at
from windlass.api.status import Cost, GoodputSeconds, JobStatus, Progress
from windlass.core.cost import (
    Moment,
    PriceList,
    charge,
    exact,
    lost_seconds,
    plain,
    pod_rate,
    price,
    shown,
)
from windlass.core.observed import Observed, PodView
from windlass.core.reconcile import decide, seconds_left

PRICES = PriceList(
    "EUR", {"cpu": Decimal("0.03"), "memoryGiB": Decimal("0.004"), "nvidia.com/gpu": Decimal("2.5")}
)
REQUESTS = (("cpu", "4"), ("memory", "16Gi"), ("nvidia.com/gpu", "2"))
RATE = Decimal("5.184")
NOTHING = GoodputSeconds()


def pod(uid: str, since: float, until: float | None = None, requests: object = REQUESTS) -> PodView:
    return PodView(
        name=uid,
        uid=uid,
        index=0,
        ticket=1,
        attempt=1,
        phase="Running" if until is None else "Succeeded",
        scheduled_at=at(since),
        started_at=at(since + 1),
        finished_at=at(until) if until is not None else None,
        requests=requests,  # type: ignore[arg-type]
    )


def charged(
    before: Cost | None, seconds: float, pods: Iterable[PodView], lost: GoodputSeconds = NOTHING
) -> Cost:
    found = charge(PRICES, before, Moment(now=at(seconds), pods=tuple(pods), seconds=lost))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("requests", "rate"),
    [
        ((), "0"),
        ((("cpu", "4"),), "0.12"),
        ((("cpu", "500m"),), "0.015"),
        ((("memory", "16Gi"),), "0.064"),
        ((("memory", "512Mi"),), "0.002"),
        ((("nvidia.com/gpu", "8"),), "20.0"),
        ((("amd.com/gpu", "8"), ("ephemeral-storage", "10Gi")), "0"),
        (REQUESTS, "5.184"),
    ],
)
def test_an_hour_of_a_pod_is_the_price_of_what_it_asks_for(requests: object, rate: str) -> None:
    assert pod_rate(requests, PRICES.per_hour) == Decimal(rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("prices", [None, PriceList("EUR", {})])
def test_without_prices_nothing_is_told(prices: PriceList | None) -> None:
    assert charge(prices, None, Moment(at(10), (pod("a", 0),), NOTHING)) is None


def test_one_hour_of_one_pod_costs_its_rate() -> None:
    found = charged(None, 3700, [pod("a", 100)])
    assert (found.total, found.rate_per_hour, found.pod_seconds) == ("5.184", "5.184", 3600)
    assert (found.currency, found.basis) == (
        "EUR",
        {"cpu": "0.03", "memoryGiB": "0.004", "nvidia.com/gpu": "2.5"},
    )


def test_a_pod_that_waits_for_a_node_costs_nothing() -> None:
    waiting = replace(pod("a", 0), scheduled_at=None)
    assert charged(None, 3600, [waiting]).total == "0"


def test_a_pod_costs_until_its_container_ended_however_long_it_stays() -> None:
    ended = [pod("a", 0, until=1800)]
    first = charged(None, 1801, ended)
    later = charged(first, 90_000, ended)
    gone = charged(later, 90_001, [])
    assert [each.total for each in (first, later, gone)] == ["2.592"] * 3
    assert [each.rate_per_hour for each in (first, later, gone)] == ["0", "0", "0"]


def test_a_pod_that_vanished_under_the_operators_eyes_is_charged_to_the_end() -> None:
    gone = charged(charged(None, 1790, [pod("a", 0)]), 1800, [])
    assert (gone.total, gone.held, gone.settled_seconds) == ("2.592", [], 1800)


@pytest.mark.parametrize(
    ("since", "until", "total"),
    [
        (None, 9000, "12.96"),
        (at(1800), 9000, "12.96"),
        (at(600), 9000, "12.96"),
        (at(1801), 9000, "2.592"),
        (at(8999), 9000, "2.592"),
        (at(1870), 1875, "2.7"),
        (at(1870), 1876, "2.592"),
    ],
    ids=["unknown", "just", "long", "later", "only now", "taken over", "taken over late"],
)
def test_a_pod_that_went_while_nobody_watched_is_charged_as_far_as_it_was_measured(
    since: datetime | None, until: float, total: str
) -> None:
    before = charged(None, 1800, [pod("a", 0)])
    gone = charge(PRICES, before, Moment(at(until), (), NOTHING, watched_since=since))
    assert gone is not None and gone.total == total


def test_a_late_stamp_corrects_what_was_measured() -> None:
    running = charged(None, 1000, [pod("a", 0)])
    assert charged(running, 1001, [pod("a", 0, until=900)]).pod_seconds == 900


def test_a_clock_behind_takes_nothing_back() -> None:
    running = charged(None, 1000, [pod("a", 0)])
    assert charged(running, 400, [pod("a", 0)]).pod_seconds == 1000
    assert charged(None, 50, [pod("a", 100)]).total == "0"


def test_a_job_keeps_the_list_that_it_began_with() -> None:
    first = charged(None, 3600, [pod("a", 0)])
    dearer = PriceList("USD", {"cpu": Decimal(100)})
    second = charge(dearer, first, Moment(at(7200), (pod("a", 0), pod("b", 3600)), NOTHING))
    without = charge(None, first, Moment(at(7200), (pod("a", 0), pod("b", 3600)), NOTHING))
    assert second == without
    assert second is not None and (second.currency, second.total) == ("EUR", "15.552")


LOST = GoodputSeconds(recovering=30, reworked=60, back_off=10, training=5000, starting=70)


def test_what_failures_cost_is_the_gangs_rate_for_those_seconds() -> None:
    found = charged(None, 3600, [pod("a", 0), pod("b", 0)], LOST)
    assert found.wasted == shown(2 * RATE * 100 / 3600)
    assert lost_seconds(LOST) == 100


def test_the_gangs_rate_is_remembered_while_a_pod_is_missing() -> None:
    both = charged(None, 3600, [pod("a", 0), pod("b", 0)])
    one = charged(both, 3601, [pod("a", 0)], LOST)
    assert (one.rate_per_hour, one.gang_rate_per_hour) == ("5.184", "10.368")
    assert one.wasted == shown(2 * RATE * 100 / 3600)


def test_no_more_is_lost_than_was_spent() -> None:
    found = charged(None, 10, [pod("a", 0)], GoodputSeconds(back_off=9999))
    assert found.wasted == found.total != "0"


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "0"), ("100", "100"), ("1.500000", "1.5"), ("0E-6", "0"), ("1E+3", "1000")]
)
def test_amounts_are_plain_decimals(amount: str, text: str) -> None:
    assert plain(Decimal(amount)) == text


LIFE = st.tuples(st.integers(0, 4000), st.integers(1, 4000), st.sampled_from(["1", "500m", "7", "0.25"]))


@settings(max_examples=200, deadline=None)
@given(
    lives=st.lists(LIFE, min_size=1, max_size=6),
    looks=st.lists(st.integers(0, 9000), max_size=12),
    stay=st.integers(0, 500),
)
def test_cost_is_price_times_seconds_however_often_it_is_looked_at(
    lives: list[tuple[int, int, str]], looks: list[int], stay: int
) -> None:
    """Pods are there from their start until `stay` seconds after their end, which somebody looks at."""
    ends = [start + length for start, length, _ in lives]
    moments = sorted({*looks, *ends, max(ends) + stay + 1})
    found: Cost | None = None
    for moment in moments:
        there = [
            pod(
                f"pod-{number}",
                start,
                start + length if moment >= start + length else None,
                (("cpu", cores),),
            )
            for number, (start, length, cores) in enumerate(lives)
            if start <= moment <= start + length + stay
        ]
        found = charged(found, moment, there)
    assert found is not None
    cores = {"1": Fraction(1), "500m": Fraction(1, 2), "7": Fraction(7), "0.25": Fraction(1, 4)}
    owed = sum((Fraction(3, 100) * cores[asked] * length / 3600 for _, length, asked in lives), Fraction(0))
    assert abs(Fraction(found.total) - owed) <= Fraction(1, 2_000_000)
    assert found.pod_seconds == sum(length for _, length, _ in lives)
    assert found.held == []


@given(st.floats(0, 1e9))
def test_seconds_are_exact_to_the_microsecond(seconds: float) -> None:
    assert abs(exact(seconds) - Decimal(seconds)) <= Decimal("0.0000005")
    assert exact(seconds) == exact(float(exact(seconds)))


def test_decide_writes_the_account_with_status() -> None:
    job = a_job().on_attempt(1, 1).build()
    held = replace(a_pod(0, 1), scheduled_at=at(0), requests=REQUESTS)
    priced = replace(SETTINGS, prices=PRICES)
    seen = Observed(pods=(held,))
    written = decide(job, seen, CREATED + timedelta(seconds=3600), priced).status
    assert written is not None
    assert (written["cost"]["total"], written["cost"]["currency"]) == ("5.184", "EUR")
    unpriced = decide(job, seen, CREATED + timedelta(seconds=3600), SETTINGS).status
    assert unpriced is not None and "cost" not in unpriced


def test_money_alone_is_no_reason_to_write() -> None:
    priced = replace(SETTINGS, prices=PRICES)
    job = a_job().on_attempt(1, 1)
    held = replace(a_pod(0, 1), scheduled_at=at(0), requests=REQUESTS)
    seen = Observed(pods=(held,))
    settled = job
    for _ in range(5):
        decision = decide(settled.build(), seen, at(3600), priced)
        if decision.status is None:
            break
        settled = settled.after(decision)
    assert decide(settled.build(), seen, at(3700), priced).status is None


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (
            {"cpu": "500m", "memory": "16Gi", "nvidia.com/gpu": "2"},
            (("cpu", "500m"), ("memory", "16Gi"), ("nvidia.com/gpu", "2")),
        ),
        ({"cpu": 2}, (("cpu", "2"),)),
        ({"memory": "1e9", "cpu": "1"}, (("cpu", "1"),)),
        (None, ()),
    ],
)
def test_what_a_pod_asks_for_is_read_from_its_only_container(asked: object, read: object) -> None:
    resources = {"requests": asked} if asked is not None else None
    body = {
        "metadata": {"name": "triage-0-1", "uid": "u"},
        "spec": {"containers": [{"name": "agent", "resources": resources}]},
    }
    assert PodView.from_wire(body).requests == read


def test_a_pod_without_containers_asks_for_nothing() -> None:
    assert PodView.from_wire({"metadata": {"name": "triage-0-1", "uid": "u"}}).requests == ()


# --- what the whole run will cost ------------------------------------------------------------------


def foreseen(
    left: tuple[float, float] | None, pods: Iterable[PodView], before: Cost | None = None, now: float = 3600
) -> tuple[str | None, str | None]:
    found = charge(PRICES, before, Moment(now=at(now), pods=tuple(pods), seconds=NOTHING, left=left))
    assert found is not None
    return found.expected_low, found.expected_high


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (None, (None, None)),
        ((0, 0), ("5.184", "5.184")),
        ((3600, 3600), ("10.368", "10.368")),
        ((1800, 7200), ("7.776", "15.552")),
    ],
)
def test_the_whole_run_costs_what_it_has_and_the_rate_for_what_is_left(
    left: tuple[float, float] | None, expected: tuple[str | None, str | None]
) -> None:
    assert foreseen(left, [pod("a", 0)]) == expected


@pytest.mark.parametrize("pods", [[], [pod("a", 0, until=1800)]])
def test_nothing_is_foreseen_while_no_pod_holds_anything(pods: list[PodView]) -> None:
    assert foreseen((60, 90), pods) == (None, None)


def test_with_a_pod_missing_the_upper_end_is_for_the_whole_gang() -> None:
    both = charged(None, 3600, [pod("a", 0), pod("b", 0)])
    low, high = foreseen((3600, 3600), [pod("a", 0)], both, now=3600)
    assert (low, high) == (shown(3 * RATE), shown(4 * RATE))


@settings(deadline=None)
@given(st.floats(0, 1e7), st.floats(0, 1e7), st.floats(1, 1e6))
def test_what_is_foreseen_is_ordered_and_never_below_what_it_has_cost(
    some: float, more: float, now: float
) -> None:
    left = (min(some, more), max(some, more))
    found = charge(PRICES, None, Moment(at(now), (pod("a", 0),), NOTHING, left))
    assert found is not None and found.expected_low is not None and found.expected_high is not None
    assert Decimal(found.total) <= Decimal(found.expected_low) <= Decimal(found.expected_high)


PROGRESS = Progress(step=5, eta_seconds=90, eta_low_seconds=60, eta_high_seconds=120)


@pytest.mark.parametrize(
    ("status", "left"),
    [
        (JobStatus(progress=PROGRESS), (60, 120)),
        (JobStatus(), None),
        (JobStatus(progress=Progress(eta_seconds=90)), None),
        (JobStatus(progress=PROGRESS, finished_at=at(10)), None),
    ],
)
def test_only_a_run_with_steps_ahead_has_a_band(status: JobStatus, left: tuple[float, float] | None) -> None:
    assert seconds_left(status) == left


@pytest.mark.parametrize("value", [1, 1.5, None, "", "a", "1,5", "-1", " 1", ["1"]])
def test_a_price_is_a_decimal_in_quotes(value: object) -> None:
    with pytest.raises(ValueError, match="no decimal in quotes"):
        price(value)


@pytest.mark.parametrize(
    ("value", "amount"), [("0", 0), ("2.50", Decimal("2.5")), ("0.004", Decimal("0.004"))]
)
def test_prices_are_exact(value: str, amount: object) -> None:
    assert price(value) == amount
