"""The recovery benchmark's arithmetic: which rows make a try, and when a goal counts as reached."""

from __future__ import annotations

from typing import Any

import pytest

from bench.record import percentile
from bench.recovery import figures


@pytest.mark.parametrize(
    ("count", "share", "place"),
    [(20, 0.95, 19), (21, 0.95, 20), (40, 0.95, 38), (5, 0.95, 5), (1, 0.95, 1), (4, 0.5, 2), (3, 0.0, 1)],
)
def test_a_percentile_is_a_value_by_the_nearest_rank(count: int, share: float, place: int) -> None:
    assert percentile(list(range(count, 0, -1)), share) == place


@pytest.mark.parametrize(
    ("count", "blocks", "dealt"), [(21, 3, [7, 7, 7]), (5, 3, [2, 2, 1]), (1, 3, [1, 0, 0])]
)
def test_tries_are_dealt_evenly(count: int, blocks: int, dealt: list[int]) -> None:
    assert figures.deal(count, blocks) == dealt


def forward(incarnation: int, rank: int, at: float, step: int = 4) -> dict[str, Any]:
    return {"incarnation": incarnation, "rank": rank, "step": step, "at": at}


def test_a_gang_began_when_its_slowest_rank_did() -> None:
    rows = [forward(3, 0, 10.0), forward(3, 1, 10.5), forward(4, 1, 20.2), forward(4, 0, 20.9, step=4)]
    assert figures.gang_began(rows, after=3, world=2) == (4, 4, 20.9)


def test_an_incarnation_that_was_never_whole_does_not_end_the_clock() -> None:
    rows = [forward(4, 1, 20.0), forward(5, 0, 31.0), forward(5, 1, 30.0)]
    assert figures.gang_began(rows, after=3, world=2) == (5, 4, 31.0)
    assert figures.gang_began(rows[:1], after=3, world=2) is None


def test_the_peer_began_when_both_ranks_said_so_after_the_kill() -> None:
    rows = [
        {"rank": rank, "step": step, "at": at} for rank, step, at in ((0, 1, 1.0), (1, 1, 1.1), (1, 5, 9.0))
    ]
    assert figures.peer_began(rows, after=5.0, world=2) is None
    rows.append({"rank": 0, "step": 5, "at": 9.5})
    assert figures.peer_began(rows, after=5.0, world=2) == (5, 9.5)


def test_noticing_is_counted_from_the_kill_itself() -> None:
    record = {"at": "2026-01-02T03:04:05.250000Z", "seconds": {"detect": 0.5}}
    killed_at = figures.moment("2026-01-02T03:04:05.000000Z")
    assert figures.noticed(record, killed_at) == pytest.approx(0.75)


def a_try(seconds: float, **more: Any) -> dict[str, Any]:
    return {"seconds": seconds, "detect": 0.1, "lostSteps": 1, "phases": {"load": seconds / 2}} | more


def test_deletes_of_leaders_and_followers_are_told_apart() -> None:
    tries = [a_try(15.0, importSeconds=8.0, index=1), a_try(18.0, importSeconds=8.0, index=0, detect=None)]
    made = figures.deletions(tries)
    assert (made["beyondImportsOfFollowers"]["p95"], made["beyondImportsOfLeaders"]["p95"]) == (7.0, 10.0)
    assert (made["beyondImports"]["n"], made["detect"]["n"]) == (2, 1)
    assert figures.deletions(tries[1:])["detect"] is None


def all_parts(in_place: float = 2.0, peer: float = 18.0) -> dict[str, Any]:
    made: dict[str, Any] = {
        "inPlace": figures.recoveries([a_try(in_place)] * 20),
        "torchrun": {"n": 5, "p50": peer},
        "podDelete": figures.deletions([a_try(15.0, importSeconds=8.0, index=1)] * 5),
        "asyncStallRatio": 0.03,
        "asyncSave": {"asynchronous": {"megabytes": 1000.2}},
        "sigterm": figures.leavings([{"verified": True, "lostSteps": 0}] * 20),
        "fallback": figures.fallbacks([{"kind": "torn manifest", "ok": True}] * 20),
        "gangOfEight": figures.recoveries([a_try(4.9)] * 20),
        "shrink": {**figures.recoveries([a_try(9.9)] * 5), "growLostSteps": 0},
    }
    made["ratio"] = figures.ratio(made)
    return made


def test_good_figures_reach_every_goal() -> None:
    made = all_parts()
    assert made["ratio"] == 9.0
    assert made["inPlace"]["phases"] == {"load": 1.0}
    assert made["podDelete"]["beyondImports"]["p95"] == 7.0
    assert set(figures.reached(made).values()) == {True}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"inPlace": {"n": 20, "p50": 2.0, "p95": 3.1, "detect": {"p95": 0.1}}}, "inPlace.p95"),
        ({"ratio": 7.9}, "ratio"),
        (
            {"podDelete": figures.deletions([a_try(15.0, importSeconds=6.9, index=1)] * 5)},
            "podDelete.beyondImports.p95",
        ),
        ({"asyncStallRatio": 0.11}, "asyncStallRatio"),
        ({"sigterm": {"tries": 20, "verified": 19, "lostSteps": 0}}, "sigterm.verified"),
        ({"sigterm": {"tries": 20, "verified": 20, "lostSteps": 1}}, "sigterm.lostSteps"),
        ({"fallback": {"tries": 20, "ok": 19}}, "fallback.ok"),
        ({"gangOfEight": figures.recoveries([a_try(5.1)] * 20)}, "gangOfEight.p95"),
        ({"shrink": {**figures.recoveries([a_try(10.1)] * 5), "growLostSteps": 0}}, "shrink.p95"),
        ({"shrink": {**figures.recoveries([a_try(1.0)] * 5), "growLostSteps": 2}}, "shrink.growLostSteps"),
    ],
)
def test_a_figure_beside_its_goal_is_said_to_miss_it(changes: dict[str, Any], missed: str) -> None:
    answers = figures.reached({**all_parts(), **changes})
    assert [name for name, answer in answers.items() if answer is not True] == [missed]
    assert answers[missed] is False


@pytest.mark.parametrize("part", ["inPlace", "podDelete", "sigterm", "fallback", "gangOfEight", "shrink"])
def test_too_few_tries_reach_nothing(part: str) -> None:
    made = all_parts()
    few = {"n": 4, "tries": 4} if part not in ("sigterm", "fallback") else {"tries": 4}
    answers = figures.reached({**made, part: {**made[part], **few}})
    unsaid = [name for name, answer in answers.items() if answer is None]
    assert unsaid == [
        name for name in figures.GOALS if name.startswith(part) or (part, name) == ("inPlace", "ratio")
    ]


def test_a_stall_on_little_state_reaches_nothing() -> None:
    made = {**all_parts(), "asyncSave": {"asynchronous": {"megabytes": 60.0}}}
    assert figures.reached(made)["asyncStallRatio"] is None


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert figures.ratio({}) is None
    assert set(figures.reached({}).values()) == {None}
