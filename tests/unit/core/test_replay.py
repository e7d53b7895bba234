"""Goodput against an independent replay: a run is simulated second by second, and counted by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import CREATED, at
from windlass.api.contract import Timeline
from windlass.api.status import Goodput, GoodputSeconds
from windlass.core.goodput import BEFORE_START, OF_AGENTS, Clock, Purse, account, first_spans

# A phase of a life: what it is counted as by whoever is there to count.
BY_AGENTS = (
    *(
        "starting",
        "loading",
        "training",
        "validating",
        "checkpoint_stall",
        "recovering",
        "reworked",
        "back_off",
    ),
)


@dataclass
class Life:
    """The seconds of a run, one label for each."""

    seconds: list[str] = field(default_factory=list)

    def live(self, label: str, seconds: int) -> Life:
        self.seconds += [label] * seconds
        return self

    def total(self, *labels: str) -> int:
        return sum(self.seconds.count(label) for label in labels)


def measured(life: Life) -> Goodput:
    """What the operator makes of such a life, with an account at each change of state, as it writes them."""
    last, changes = Goodput(), range(1, len(life.seconds))
    begun = life.total(*BEFORE_START)
    for end in [each for each in changes if life.seconds[each] != life.seconds[each - 1]]:
        if end > begun:
            last = accounted(Life(life.seconds[:end]), last)
    return accounted(life, last)


def accounted(life: Life, before: Goodput) -> Goodput:
    """One account of the stamps and the agents' own account as of now."""
    queued, scheduling, pulling = (life.total(name) for name in BEFORE_START)
    admitted = at(queued)
    scheduled = at(queued + scheduling)
    started = at(queued + scheduling + pulling)
    agents = {name: float(life.total(name)) for name in OF_AGENTS if name != "starting"}
    # The first second of starting is the container's, before any agent can count.
    boot = min(life.total("starting"), 1)
    timeline = Timeline(
        started_at=started + timedelta(seconds=boot),
        until=at(len(life.seconds)),
        starting=life.total("starting") - boot,
        down=float(life.total("suspended")),
        **agents,
    )
    clock = Clock(
        created_at=CREATED,
        until=at(len(life.seconds)),
        admitted_at=admitted,
        scheduled_at=scheduled,
        started_at=started,
        suspended_seconds=life.total("suspended"),
    )
    return account(clock, timeline, before)


def parts(goodput: Goodput) -> dict[str, float]:
    return {name: value for name, value in goodput.seconds if value}


SMOOTH = Life().live("queued", 3).live("scheduling", 4).live("pulling", 20).live("starting", 12)
SMOOTH.live("loading", 5).live("training", 100).live("finishing", 6)
ROUGH = Life().live("queued", 1).live("scheduling", 2).live("pulling", 3).live("starting", 10)
ROUGH.live("loading", 4).live("training", 50).live("recovering", 3).live("reworked", 7)
ROUGH.live("training", 40).live("checkpoint_stall", 2).live("back_off", 10).live("recovering", 5)
ROUGH.live("training", 30)
PAUSED = Life().live("queued", 1).live("scheduling", 1).live("pulling", 1).live("starting", 5)
PAUSED.live("training", 40).live("suspended", 60).live("training", 20)
LIVES = {"smooth": SMOOTH, "rough": ROUGH, "paused": PAUSED}


@pytest.mark.parametrize("name", LIVES)
def test_account_is_that_of_the_replay(name: str) -> None:
    life = LIVES[name]
    assert parts(measured(life)) == {key: float(count) for key, count in Counter(life.seconds).items()}


@pytest.mark.parametrize("name", LIVES)
def test_ratio_is_new_steps_over_the_time_since_admission(name: str) -> None:
    life = LIVES[name]
    since = len(life.seconds) - life.total("queued", "suspended")
    found = measured(life)
    assert found.since_admission == since
    assert found.since_creation == len(life.seconds)
    assert found.ratio == pytest.approx(life.total("training") / since, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*(st.integers(0, 30) for _ in BEFORE_START)),
    st.lists(st.tuples(st.sampled_from(BY_AGENTS), st.integers(1, 50)), min_size=1, max_size=12),
)
def test_any_life_is_accounted_for_to_the_second(
    waiting: tuple[int, ...], phases: list[tuple[str, int]]
) -> None:
    life = Life()
    for name, seconds in zip(BEFORE_START, waiting, strict=True):
        life.live(name, seconds)
    life.live("starting", 2)
    for name, seconds in phases:
        life.live(name, seconds)
    found = measured(life)
    expected = Counter(life.seconds)
    for name, value in found.seconds:
        assert value == pytest.approx(expected.get(name, 0), abs=1e-6), name


# --- the pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "asked", "taken", "rest"),
    [(10, 4, 4, 6), (10, 40, 10, 0), (10, -4, 0, 10), (0, 5, 0, 0), (10, 0, 0, 10), (10, 10, 10, 0)],
)
def test_nobody_takes_more_than_is_left(left: float, asked: float, taken: float, rest: float) -> None:
    purse = Purse(left)
    assert (purse.take(asked), purse.left) == (taken, rest)


@pytest.mark.parametrize(
    ("clock", "spans"),
    [
        ({}, {}),
        ({"admitted_at": at(5)}, {"queued": 5}),
        ({"admitted_at": at(5), "scheduled_at": at(9)}, {"queued": 5, "scheduling": 4}),
        (
            {"admitted_at": at(5), "scheduled_at": at(9), "started_at": at(30)},
            {"queued": 5, "scheduling": 4, "pulling": 21},
        ),
        ({"scheduled_at": at(9), "started_at": at(30)}, {}),
        ({"admitted_at": at(5), "started_at": at(30)}, {"queued": 5}),
        ({"admitted_at": at(-5)}, {"queued": 0}),
        (
            {"admitted_at": at(9), "scheduled_at": at(5), "started_at": at(12)},
            {"queued": 9, "scheduling": 0, "pulling": 3},
        ),
        ({"admitted_at": at(50), "suspended_seconds": 30}, {"queued": 20}),
        ({"admitted_at": at(10), "suspended_seconds": 30}, {"queued": 0}),
    ],
    ids=str,
)
def test_spans_by_the_stamps_of_a_pod(clock: dict[str, object], spans: dict[str, float]) -> None:
    made = Clock(created_at=CREATED, until=at(99), **clock)  # type: ignore[arg-type]
    assert first_spans(made) == spans


def test_parts_before_the_start_stay_as_they_were_once_known() -> None:
    """A recreated leader has stamps of its own; they say nothing about the first one."""
    before = Goodput(seconds=GoodputSeconds(queued=5, scheduling=6, pulling=7))
    timeline = Timeline(started_at=at(20), until=at(100), training=60)
    clock = Clock(
        created_at=CREATED,
        until=at(100),
        admitted_at=at(1),
        scheduled_at=at(80),
        started_at=at(18),
        was_started=True,
    )
    found = account(clock, timeline, before)
    assert (found.seconds.queued, found.seconds.scheduling, found.seconds.pulling) == (5, 6, 7)


def test_a_pull_is_no_recovery_while_followers_still_pull() -> None:
    """The leader reports as soon as it runs; the gang has started when all pods do."""
    pulled = Goodput(seconds=GoodputSeconds(queued=1, scheduling=2, pulling=60))
    clock = Clock(created_at=CREATED, until=at(65), admitted_at=at(1), scheduled_at=at(3))
    first = account(clock, Timeline(started_at=at(63), until=at(65), starting=2), pulled)
    assert (first.seconds.pulling, first.seconds.starting, first.seconds.recovering) == (60, 2, 0)
    started = replace(clock, until=at(130), started_at=at(120))
    second = account(started, Timeline(started_at=at(63), until=at(130), starting=57, training=10), first)
    assert (second.seconds.scheduling, second.seconds.pulling, second.seconds.recovering) == (2, 60, 0)
    later = replace(started, until=at(230), was_started=True)
    third = account(later, Timeline(started_at=at(63), until=at(230), starting=57, training=110), second)
    assert (third.seconds.scheduling, third.seconds.pulling, third.seconds.recovering) == (2, 60, 0)


def test_a_second_wait_for_a_queue_before_an_unseen_start_is_no_wait_for_a_node() -> None:
    """Admitted at 10, back in the queue for 40 seconds, placed at 100."""
    clock = Clock(
        created_at=CREATED,
        until=at(200),
        admitted_at=at(10),
        scheduled_at=at(100),
        started_at=at(105),
        queued_seconds=50,
        finished=True,
    )
    timeline = Timeline(started_at=at(105), until=at(200), training=95)
    seconds = account(clock, timeline, Goodput()).seconds
    assert (seconds.queued, seconds.scheduling, seconds.pulling, seconds.recovering) == (50, 50, 5, 0)


def test_a_pause_before_an_unseen_start_is_no_wait_for_a_node() -> None:
    """Suspended from 10 to 3610 while its pods were pending; then it ran and ended with nobody there."""
    clock = Clock(
        created_at=CREATED,
        until=at(3640),
        admitted_at=at(1),
        scheduled_at=at(3612),
        started_at=at(3615),
        suspended_seconds=3600,
        finished=True,
    )
    timeline = Timeline(started_at=at(3616), until=at(3640), starting=4, training=20)
    stale = Goodput(seconds=GoodputSeconds(queued=1, scheduling=9, suspended=3600))
    for before in (stale, Goodput()):
        seconds = account(clock, timeline, before).seconds
        assert (seconds.suspended, seconds.training, seconds.recovering) == (3600, 20, 0)


def test_steps_lost_so_far_are_kept() -> None:
    clock = Clock(created_at=CREATED, until=at(10))
    assert account(clock, None, Goodput(lost_steps=12)).lost_steps == 12


def test_later_accounts_of_one_life_only_grow() -> None:
    """Each write is an account of its own; seconds once given to new steps are never taken back."""
    life, last = Life(), Goodput()
    life.live("queued", 2).live("scheduling", 2).live("pulling", 2).live("starting", 5)
    for name, seconds in [
        ("training", 30),
        ("recovering", 4),
        ("training", 20),
        ("suspended", 15),
        ("training", 9),
    ]:
        life.live(name, seconds)
        found = measured(life)
        assert all(value >= getattr(last.seconds, part) for part, value in found.seconds)
        assert found.since_creation > last.since_creation
        last = found
