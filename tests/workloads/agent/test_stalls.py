"""When a gang counts as standing still: limits, who is waited for, clocks that jump, and no false alarm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import RankEvent
from windlass.api.meta import Phase
from windlass.api.stall import Stall
from windlass_workloads.agent.stalls import (
    FIRST_STEP,
    LOCKSTEP,
    LOOSE_EXPORT_SECONDS,
    LOOSE_SECONDS,
    STEP_FLOOR_SECONDS,
    STEPS,
    STEPS_NEEDED,
    Expectations,
    Late,
    Limit,
    Watch,
)

TWENTY = Stall(limit_seconds=20, phase_limit_seconds=60)


def watch(ranks: int = 2, wish: Stall = TWENTY, step: int = 0) -> Watch:
    one = Watch.over(Expectations(wish), range(ranks), step)
    one.tick(1000.0)
    return one


def say(one: Watch, kind: str, *ranks: int, **fields: Any) -> None:
    for rank in ranks or sorted(one.tracks):
        one.hear(RankEvent.model_validate({"type": kind, "at": 5.0, "rank": rank, **fields}))


def phase(one: Watch, name: Phase, *ranks: int) -> None:
    say(one, "Phase", *ranks, phase=name)


def step(one: Watch, number: int, *ranks: int, seconds: float | None = 0.1) -> None:
    say(one, "Step", *ranks, step=number, seconds=seconds)


def live(one: Watch, seconds: float) -> None:
    """Time passes, in ticks that a living leader makes."""
    now = 1000.0 + one.time if one._ticked is None else one._ticked
    for _ in range(round(seconds * 2)):
        now += 0.5
        one.tick(now)
        one.late()


def training(ranks: int = 2, wish: Stall = TWENTY) -> Watch:
    """A gang that has finished its first step."""
    one = watch(ranks, wish)
    for name in (Phase.RENDEZVOUS, Phase.LOAD, Phase.TRAIN):
        phase(one, name)
    say(one, "Forward", step=1)
    step(one, 1)
    return one


# --- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "span", "limit"),
    [
        (TWENTY, STEPS, Limit(20.0, known=True)),
        (TWENTY, FIRST_STEP, Limit(60.0, known=True)),
        (TWENTY, Phase.EXPORT, Limit(60.0, known=True)),
        (Stall(), STEPS, Limit(LOOSE_SECONDS, known=False)),
        (Stall(), FIRST_STEP, Limit(LOOSE_SECONDS, known=False)),
        (Stall(), Phase.SAVE, Limit(LOOSE_SECONDS, known=False)),
        (Stall(), Phase.EXPORT, Limit(LOOSE_EXPORT_SECONDS, known=False)),
        (Stall(limit_seconds=20), Phase.SAVE, Limit(LOOSE_SECONDS, known=False)),
        (Stall(phase_limit_seconds=60), STEPS, Limit(LOOSE_SECONDS, known=False)),
    ],
)
def test_a_wish_holds_and_else_limits_are_loose_and_assumed(wish: Stall, span: str, limit: Limit) -> None:
    assert Expectations(wish).limit(span) == limit


@pytest.mark.parametrize(
    ("steps", "limit"),
    [
        ([1.0] * (STEPS_NEEDED - 1), Limit(LOOSE_SECONDS, known=False)),
        ([1.0] * STEPS_NEEDED, Limit(STEP_FLOOR_SECONDS, known=True)),
        ([60.0] * STEPS_NEEDED, Limit(600.0, known=True)),
        # One step of twenty may be slow without being what is expected.
        ([60.0] * 19 + [9999.0], Limit(600.0, known=True)),
        ([60.0] * 18 + [90.0] * 2, Limit(900.0, known=True)),
        ([9999.0] * 20 + [40.0] * 600, Limit(400.0, known=True)),
    ],
    ids=["too few", "floor", "ten times", "an outlier", "the slow twentieth", "old steps are forgotten"],
)
def test_a_step_may_take_ten_times_the_95th_percentile_and_at_least_five_minutes(
    steps: list[float], limit: Limit
) -> None:
    expectations = Expectations(Stall())
    for seconds in steps:
        expectations.stepped(seconds)
    assert expectations.limit(STEPS) == limit


@pytest.mark.parametrize(("taken", "seconds"), [(3.0, 3600.0), (359.0, 3600.0), (600.0, 6000.0)])
def test_a_phase_that_was_passed_is_known_and_never_held_to_less_than_an_hour(
    taken: float, seconds: float
) -> None:
    expectations = Expectations(Stall())
    expectations.passed(Phase.SAVE, 1.0)
    expectations.passed(Phase.SAVE, taken)
    expectations.passed(Phase.SAVE, 2.0)
    assert expectations.limit(Phase.SAVE) == Limit(seconds, known=True)
    assert expectations.limit(Phase.LOAD) == Limit(LOOSE_SECONDS, known=False)


def test_what_one_incarnation_has_shown_holds_for_the_next_but_its_open_phase_does_not() -> None:
    expectations = Expectations(Stall())
    first = Watch.over(expectations, range(2), 0)
    first.tick(0.0)
    for name in (Phase.RENDEZVOUS, Phase.LOAD, Phase.TRAIN):
        phase(first, name)
    for number in range(1, 2 + STEPS_NEEDED):
        step(first, number)
    phase(first, Phase.SAVE)
    live(first, 5000.0)
    assert first.late() is not None
    second = Watch.over(expectations, range(2), 21)
    second.tick(9999.0)
    assert second.late() is None
    assert expectations.limit(STEPS) == Limit(STEP_FLOOR_SECONDS, known=True)
    assert not expectations.limit(Phase.SAVE).known, "it was never passed"
    assert expectations.limit(Phase.LOAD).known


def test_the_first_step_is_not_learned_from() -> None:
    one = training(wish=Stall())
    for number in range(2, 2 + STEPS_NEEDED):
        step(one, number, seconds=50.0)
    assert one.expectations.limit(STEPS) == Limit(500.0, known=True)
    again = Watch.over(one.expectations, range(2), 21)
    step(again, 22, seconds=7777.0)
    assert one.expectations.limit(STEPS) == Limit(500.0, known=True)


# --- who is late --------------------------------------------------------------------------------------------


def late_of(one: Watch) -> Late:
    found = one.late()
    assert found is not None
    return found


def test_a_gang_that_stands_is_late_when_its_limit_has_passed_and_not_before() -> None:
    one = training()
    live(one, 20.0)
    assert one.late() is None
    live(one, 1.0)
    found = late_of(one)
    assert (found.span, found.limit, found.step) == (STEPS, Limit(20.0, known=True), 1)
    assert 20.0 < found.seconds <= 21.0
    assert found.since == pytest.approx(1000.0, abs=0.5)
    assert found.behind == ()


def test_any_sign_of_the_last_rank_begins_the_count_anew() -> None:
    one = training()
    for number in range(2, 12):
        live(one, 15.0)
        step(one, number)
        assert one.late() is None
    live(one, 15.0)
    phase(one, Phase.VALIDATE)
    live(one, 45.0)
    say(one, "Validation", 0, step=11, loss=1.0)
    phase(one, Phase.TRAIN)
    live(one, 15.0)
    assert one.late() is None


def test_ranks_that_others_have_got_past_are_named() -> None:
    one = training(4)
    step(one, 2, 0, 1, 3)
    live(one, 21.0)
    assert late_of(one).behind == (2,)


@pytest.mark.parametrize("behind", [0, 1])
def test_who_waits_for_a_slow_save_is_not_late(behind: int) -> None:
    one = training()
    phase(one, Phase.SAVE)
    phase(one, Phase.TRAIN, 1 - behind)
    live(one, 55.0)
    assert one.late() is None, "one rank still saves, as it may"
    live(one, 6.0)
    found = late_of(one)
    assert (found.span, found.behind) == (Phase.SAVE, (behind,))


def test_who_stopped_before_a_save_is_late_by_the_limit_of_steps() -> None:
    one = training()
    phase(one, Phase.SAVE, 0)
    live(one, 21.0)
    found = late_of(one)
    assert (found.span, found.behind) == (STEPS, (1,))


def test_the_oldest_sign_is_told_with_how_much_older_it_is() -> None:
    one = training(3)
    step(one, 2, 1)
    live(one, 2.0)
    step(one, 2, 0)
    live(one, 1.0)
    step(one, 2, 2)
    live(one, 25.0)
    found = late_of(one)
    assert (found.behind, found.oldest) == ((), 1)
    assert found.ahead_seconds == pytest.approx(2.0)


def test_the_last_to_arrive_at_a_place_begins_the_count() -> None:
    one = training()
    step(one, 2, 0)
    live(one, 19.0)
    step(one, 2, 1)
    live(one, 19.0)
    assert one.late() is None, "the gang moved 19 seconds ago"


def test_who_waited_long_at_a_place_is_not_late_when_the_last_has_just_come_and_gone_on() -> None:
    one = training()
    step(one, 2, 0)
    live(one, 19.0)
    step(one, 2, 1)
    live(one, 1.0)
    phase(one, Phase.SAVE, 1)
    live(one, 18.0)
    assert one.late() is None, "the gang came to step 2 19 seconds ago"
    live(one, 2.0)
    assert late_of(one).behind == (0,)


@pytest.mark.parametrize("silent", ["from the start", "of its steps"])
def test_a_rank_that_never_tells_of_steps_is_not_waited_for(silent: str) -> None:
    one = watch(2, Stall(limit_seconds=20, phase_limit_seconds=5))
    for name in (Phase.RENDEZVOUS, Phase.LOAD, Phase.TRAIN):
        phase(one, name, *((0,) if silent == "from the start" else (0, 1)))
    for number in range(1, LOCKSTEP + 2):
        step(one, number, 0)
    live(one, 15.0)
    assert one.late() is None
    live(one, 6.0)
    assert late_of(one).behind == ()


def test_a_rank_that_is_done_is_waited_for_no_longer() -> None:
    one = training()
    for rank in (0, 1):
        phase(one, Phase.EXPORT, rank)
    say(one, "Done", 0, step=1)
    live(one, 59.0)
    assert one.late() is None
    live(one, 2.0)
    assert late_of(one).oldest == 1
    say(one, "Done", 1, step=1)
    assert one.late() is None and one.frontier is None


@pytest.mark.parametrize(
    "kind",
    ["Checkpoint", "SaveFailed", "Tracking", "Plan"],
)
def test_words_of_other_threads_are_no_progress(kind: str) -> None:
    one = training()
    live(one, 19.0)
    before = one.frontier
    say(one, kind, step=1)
    assert one.frontier == before
    live(one, 2.0)
    assert one.late() is not None


@pytest.mark.parametrize("number", [1, 0, None])
def test_a_step_that_was_told_before_is_no_progress(number: int | None) -> None:
    one = training()
    live(one, 19.0)
    step(one, number)  # type: ignore[arg-type]
    live(one, 2.0)
    assert one.late() is not None


def test_dropped_rows_of_steps_do_not_make_a_rank_late() -> None:
    one = training()
    for number in range(2, 40):
        live(one, 1.0)
        step(one, number, 0)
        if number % 9 == 0:
            step(one, number, 1)
        assert one.late() is None


def test_ranks_that_are_not_watched_are_no_matter() -> None:
    one = training()
    step(one, 9, 7)
    say(one, "Done", 7)
    assert one.frontier == (1, 0)


# --- clocks -------------------------------------------------------------------------------------------------


@pytest.mark.fault("F40")
@pytest.mark.parametrize("jumps", [[86_400.0], [-86_400.0], [3600.0, -3600.0], [1e9, 1e9]])
def test_a_clock_that_jumps_or_a_leader_that_was_frozen_makes_nobody_late(jumps: list[float]) -> None:
    one = training()
    now = 1000.0
    for jump in jumps:
        now += jump
        one.tick(now)
    assert one.late() is None
    assert one.time <= len(jumps)
    for _ in range(50):
        now += 0.5
        one.tick(now)
    assert one.late() is not None, "time goes on from there"


@given(st.lists(st.floats(-1e6, 1e6), max_size=60))
@settings(max_examples=100, deadline=None)
def test_time_never_runs_backwards_nor_faster_than_ticks(times: list[float]) -> None:
    one = watch()
    before = one.time
    for now in times:
        one.tick(now)
        assert before <= one.time <= before + 1.0
        before = one.time


# --- no false alarm -----------------------------------------------------------------------------------------

Moment = tuple[float, str, int, dict[str, Any]]


def half_an_hour(ranks: int) -> Iterator[Moment]:
    """A run as it should be: 30 minutes with a compile, validations, saves of growing length and an export."""
    at = 0.0
    for name, seconds in ((Phase.RENDEZVOUS, 4.0), (Phase.LOAD, 95.0), (Phase.TRAIN, 1.0)):
        for rank in range(ranks):
            yield at + 0.2 * rank, "Phase", rank, {"phase": name}
        at += seconds
    for rank in range(ranks):
        yield at + 0.1 * rank, "Forward", rank, {"step": 1}
    at += 240.0  # the first step compiles
    number = 0
    while at < 1500.0:
        number += 1
        seconds = 2.0 + (number % 7) * 0.4 + (25.0 if number % 60 == 0 else 0.0)
        at += seconds
        for rank in range(ranks):
            yield at + 0.01 * rank, "Step", rank, {"step": number, "seconds": seconds}
        every = ((40, Phase.VALIDATE, 45.0), (50, Phase.SAVE, 20.0 + number / 2))
        for period, name, taken in every:
            if number % period == 0:
                for rank in range(ranks):
                    yield at + 0.1 + 0.01 * rank, "Phase", rank, {"phase": name}
                at += taken
                for rank in range(ranks):
                    yield at + 0.3 * rank, "Phase", rank, {"phase": Phase.TRAIN}
                at += 2.0
    for rank in range(ranks):
        yield at + 1.0, "Phase", rank, {"phase": Phase.EXPORT}
    at = max(at + 200.0, 1800.0)
    for rank in range(ranks):
        yield at, "Done", rank, {"step": number}


def play(moments: Iterable[Moment], ranks: int, wish: Stall, *, after: float = 0.0) -> list[Late]:
    """Plays a history in ticks of half a second; everything that would have been an alarm."""
    one = watch(ranks, wish)
    ordered = sorted(moments, key=lambda moment: moment[0])
    end, alarms, now = ordered[-1][0] + after, list[Late](), 0.0
    while now <= end:
        one.tick(1000.0 + now)
        while ordered and ordered[0][0] <= now:
            _, kind, rank, fields = ordered.pop(0)
            say(one, kind, rank, **fields)
        found = one.late()
        if found is not None:
            alarms.append(found)
        now += 0.5
    return alarms


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("wish", [Stall(), Stall(limit_seconds=60)], ids=["learned", "given"])
def test_half_an_hour_with_all_phases_gives_no_alarm(ranks: int, wish: Stall) -> None:
    moments = list(half_an_hour(ranks))
    assert max(at for at, *_ in moments) >= 1800.0
    assert {fields["phase"] for _, _, _, fields in moments if "phase" in fields} == {
        *(Phase.RENDEZVOUS, Phase.LOAD, Phase.TRAIN, Phase.VALIDATE, Phase.SAVE, Phase.EXPORT)
    }
    assert play(moments, ranks, wish) == []


@pytest.mark.parametrize("stopped", [450.0, 900.0, 1400.0])
def test_the_same_half_hour_with_a_rank_that_stops_gives_an_alarm_within_the_limit(stopped: float) -> None:
    moments = [moment for moment in half_an_hour(4) if moment[0] < stopped]
    alarms = play(moments, 4, Stall(), after=STEP_FLOOR_SECONDS + 60.0)
    assert alarms and alarms[0].limit.known
    assert alarms[0].seconds <= STEP_FLOOR_SECONDS + 1.0


DURATIONS = st.floats(0.05, 19.0)


@st.composite
def well_behaved(draw: st.DrawFn) -> tuple[int, list[Moment]]:
    """Any run whose steps keep to 20 s and whose other phases keep to 60 s, on ranks that come when they like."""
    ranks = draw(st.integers(1, 4))
    at, moments = 0.0, list[Moment]()

    def all_say(kind: str, within: float, **fields: Any) -> None:
        """Each rank arrives within this time; the last of them decides when the next may begin."""
        nonlocal at
        shares = draw(st.lists(st.floats(0.3, 1.0), min_size=ranks, max_size=ranks))
        moments.extend((at + within * share, kind, rank, fields) for rank, share in enumerate(shares))
        at += within * max(shares)

    for name in (Phase.RENDEZVOUS, Phase.LOAD, Phase.TRAIN):
        all_say("Phase", draw(st.floats(0.1, 58.0)), phase=name)
    number = 0
    all_say("Step", draw(st.floats(0.1, 58.0)), step=1, seconds=1.0)
    for kind in draw(st.lists(st.sampled_from(["step", "save", "validate"]), max_size=12)):
        if kind == "step":
            number += 1
            all_say("Step", draw(DURATIONS), step=number + 1, seconds=1.0)
        else:
            all_say("Phase", draw(DURATIONS), phase=Phase.SAVE if kind == "save" else Phase.VALIDATE)
            all_say("Phase", draw(st.floats(0.1, 58.0)), phase=Phase.TRAIN)
    all_say("Phase", draw(DURATIONS), phase=Phase.EXPORT)
    all_say("Done", draw(st.floats(0.1, 58.0)), step=number + 1)
    return ranks, moments


@given(well_behaved())
@settings(max_examples=60, deadline=None)
def test_no_run_that_keeps_to_its_limits_gives_an_alarm(history: tuple[int, list[Moment]]) -> None:
    ranks, moments = history
    assert play(moments, ranks, TWENTY) == []


@given(well_behaved(), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_any_run_that_stops_for_good_gives_an_alarm(history: tuple[int, list[Moment]], share: float) -> None:
    ranks, moments = history
    ordered = sorted(moments, key=lambda moment: moment[0])
    kept = [moment for moment in ordered[: max(1, int(share * len(ordered)))] if moment[1] != "Done"]
    assert play(kept, ranks, TWENTY, after=62.0) != []
