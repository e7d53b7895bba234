"""Where the seconds went: parts sum to the whole, whatever the clocks say."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import CREATED, at
from windlass.api.contract import Timeline
from windlass.api.status import Goodput, GoodputSeconds
from windlass.core.goodput import OF_AGENTS, Clock, account

EDGES = {"created_at": CREATED, "admitted_at": at(10), "scheduled_at": at(12), "started_at": at(20)}


def seconds(goodput: Goodput) -> dict[str, float]:
    return {name: value for name, value in goodput.seconds if value}


def total(goodput: Goodput) -> float:
    return sum(value for _, value in goodput.seconds)


@pytest.mark.parametrize(
    ("known", "until", "expected"),
    [
        (0, 8, {"queued": 8}),
        (1, 11, {"queued": 10, "scheduling": 1}),
        (2, 15, {"queued": 10, "scheduling": 2, "pulling": 3}),
        (3, 26, {"queued": 10, "scheduling": 2, "pulling": 8, "starting": 6}),
    ],
)
def test_before_the_first_agent_time_is_split_by_the_pods_stamps(
    known: int, until: float, expected: dict[str, float]
) -> None:
    names = ("admitted_at", "scheduled_at", "started_at")[:known]
    clock = Clock(created_at=CREATED, until=at(until), **{name: EDGES[name] for name in names})
    assert seconds(account(clock, None, Goodput())) == expected


def test_suspended_before_the_start_is_not_queued() -> None:
    clock = Clock(created_at=CREATED, until=at(50), admitted_at=at(40), suspended_seconds=30)
    assert seconds(account(clock, None, Goodput())) == {"suspended": 30, "queued": 10, "scheduling": 10}


BEFORE = Goodput(seconds=GoodputSeconds(queued=10, scheduling=2, pulling=8, starting=5))


def test_time_without_a_leader_is_split_by_who_counted_it() -> None:
    timeline = Timeline(
        started_at=at(21), until=at(200), starting=9, loading=10, training=60, recovering=20, down=80
    )
    clock = Clock(**EDGES, until=at(200), suspended_seconds=50, back_off_seconds=10)
    found = account(clock, timeline, BEFORE)
    assert seconds(found) == {
        "queued": 10,
        "scheduling": 2,
        "pulling": 8,
        "starting": 10,
        "loading": 10,
        "training": 60,
        "recovering": 40,
        "back_off": 10,
        "suspended": 50,
    }
    assert found.since_creation == 200
    assert found.since_admission == 140
    assert found.ratio == pytest.approx(60 / 140, abs=1e-4)


@pytest.mark.parametrize(("finished", "part"), [(True, "finishing"), (False, "recovering")])
def test_time_since_the_last_word_is_the_end_or_a_recovery(finished: bool, part: str) -> None:
    timeline = Timeline(started_at=at(20), until=at(90), training=70)
    found = account(Clock(**EDGES, until=at(100), finished=finished), timeline, BEFORE)
    assert seconds(found) == {"queued": 10, "scheduling": 2, "pulling": 8, "training": 70, part: 10}


def test_nothing_is_nothing() -> None:
    found = account(Clock(created_at=CREATED, until=CREATED), None, Goodput())
    assert (found.ratio, found.since_creation, seconds(found)) == (None, 0, {})


AMOUNT = st.floats(0, 1e5)
OFFSET = st.floats(-1e4, 1e5)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_parts_sum_to_wall_time_whatever_the_clocks_say(data: st.DataObject) -> None:
    def instant() -> object:
        return CREATED + timedelta(seconds=data.draw(OFFSET))

    def maybe() -> object:
        return instant() if data.draw(st.booleans()) else None

    timeline = None
    if data.draw(st.booleans()):
        parts = {name: data.draw(AMOUNT) for name in OF_AGENTS}
        timeline = Timeline(started_at=instant(), until=instant(), down=data.draw(AMOUNT), **parts)  # type: ignore[arg-type]
    before = Goodput(seconds=GoodputSeconds(queued=data.draw(AMOUNT), scheduling=data.draw(AMOUNT)))
    clock = Clock(
        created_at=CREATED,
        until=instant(),  # type: ignore[arg-type]
        admitted_at=maybe(),  # type: ignore[arg-type]
        scheduled_at=maybe(),  # type: ignore[arg-type]
        started_at=maybe(),  # type: ignore[arg-type]
        suspended_seconds=data.draw(AMOUNT),
        back_off_seconds=data.draw(AMOUNT),
        finished=data.draw(st.booleans()),
    )
    found = account(clock, timeline, before)
    assert total(found) == pytest.approx(found.since_creation, abs=1e-6)
    assert all(value >= 0 for _, value in found.seconds)
    assert found.ratio is None or 0 <= found.ratio <= 1
    assert 0 <= found.since_admission <= found.since_creation


@pytest.mark.parametrize(
    ("queued", "until", "expected"),
    [
        (None, 26, {"queued": 10, "scheduling": 2, "pulling": 8, "starting": 6}),
        (10, 26, {"queued": 10, "scheduling": 2, "pulling": 8, "starting": 6}),
        # Admitted at 10, evicted, queued from 30 to 70, placed again at 72, started at 80.
        (50, 86, {"queued": 50, "scheduling": 22, "pulling": 8, "starting": 6}),
    ],
)
def test_waits_for_a_queue_are_one_part_however_many_there_were(
    queued: float | None, until: float, expected: dict[str, float]
) -> None:
    later = 0 if queued in (None, 10) else 60
    edges = EDGES | {"scheduled_at": at(12 + later), "started_at": at(20 + later)}
    clock = Clock(**edges, until=at(until), queued_seconds=queued)
    assert seconds(account(clock, None, Goodput())) == expected


def test_a_wait_between_two_leaders_is_queued_and_not_recovering() -> None:
    timeline = Timeline(started_at=at(21), until=at(200), starting=9, training=60, recovering=20)
    plain = account(Clock(**EDGES, until=at(200)), timeline, BEFORE)
    queued = account(Clock(**EDGES, until=at(200), queued_seconds=70), timeline, BEFORE)
    assert queued.seconds.queued - plain.seconds.queued == 60
    assert plain.seconds.recovering - queued.seconds.recovering == 60
    assert total(queued) == total(plain) == 200
    assert queued.since_admission == plain.since_admission - 60
    assert queued.ratio is not None and plain.ratio is not None and queued.ratio > plain.ratio
