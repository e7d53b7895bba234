"""The fault benchmark's arithmetic: how kinds are dealt, what is counted, and when a goal counts as reached."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.faults import campaign, chain_tasks, figures
from bench.faults.kinds import KINDS

SECONDS = {"detect": 0.1, "stop": 0.2, "total": 0.3}


def row(*kinds: str, **more: Any) -> dict[str, Any]:
    return {"kinds": list(kinds), "broken": [], "took": 1.0, **more}


def recovery(rung: str = "InPlace", name: str = "Crash", **seconds: float) -> dict[str, Any]:
    return {"class": name, "rung": rung, "seconds": {**SECONDS, **seconds}}


@given(st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=9, unique=True), st.integers(0, 60))
def test_kinds_are_dealt_evenly_and_the_seed_decides(names: list[str], count: int) -> None:
    dealt = campaign.deal(names, count, random.Random(7))
    times = Counter(dict.fromkeys(names, 0))
    times.update(dealt)
    assert len(dealt) == count and set(times) == set(names)
    assert max(times.values()) - min(times.values()) <= 1
    assert campaign.deal(names, count, random.Random(7)) == dealt


def test_every_kind_says_what_it_does_and_names_its_classes() -> None:
    for name, kind in KINDS.items():
        assert kind.what.endswith("."), name
        assert (kind.classes == frozenset()) == (not kind.restarts or name == "all-leave"), name
        assert kind.charges == 0 or kind.classes, name
    assert {*campaign.FIRST, *campaign.SECOND} <= set(KINDS)
    assert all(KINDS[name].restarts for name in campaign.FIRST), "only a recovery can be disturbed"
    assert not any(KINDS[name].needs_volume or KINDS[name].needs_guard for name in campaign.SECOND)


def test_seconds_are_told_by_phase_and_rung_and_by_kind() -> None:
    singles = [
        row("rank-killed", seconds=1.0, detect=0.01, lostSteps=3, incarnations=1, recoveries=[recovery()]),
        row(
            "rank-killed",
            seconds=3.0,
            detect=0.03,
            lostSteps=5,
            incarnations=1,
            recoveries=[recovery(stop=0.4)],
        ),
        row(
            "leader-killed",
            seconds=9.0,
            incarnations=1,
            recoveries=[recovery("RecreatePod", "Infrastructure")],
        ),
        row("disk-full", incarnations=0, recoveries=[]),
    ]
    doubles = [
        row("leader-killed", "rank-killed", seconds=20.0, incarnations=2, recoveries=[recovery(), recovery()])
    ]
    found = figures.figures(singles, doubles)
    assert (found["singles"], found["doubles"], found["incarnations"], found["stuck"]) == (4, 1, 5, 0)
    assert found["classes"] == {"Crash": 4, "Infrastructure": 1}
    assert found["kinds"] == {"disk-full": 1, "leader-killed": 1, "rank-killed": 2}
    assert found["secondsByKind"]["rank-killed"] == {
        "n": 2,
        "p50": 2.0,
        "p95": 3.0,
        "minimum": 1.0,
        "maximum": 3.0,
    }
    assert "disk-full" not in found["secondsByKind"]
    assert found["secondsOfDoubles"]["double"]["p50"] == 20.0
    assert found["phasesByRung"]["InPlace"]["stop"]["maximum"] == 0.4
    assert found["phasesByRung"]["InPlace"]["total"]["n"] == 4
    assert found["phasesByRung"]["RecreatePod"]["detect"]["n"] == 1


def test_what_is_broken_stuck_or_lost_is_counted_and_kept() -> None:
    rows = [
        row(
            "rank-killed", broken=["P1: processes of nobody: [7]", "lost: incarnation 3 resumed from nothing"]
        ),
        row("disk-full", stuck="waited 90 s"),
        row("rank-exits"),
    ]
    found = figures.figures(rows, [])
    assert (found["stuck"], found["lostCheckpoints"]) == (1, 1)
    assert [each["kinds"] for each in found["brokenPromises"]] == [["rank-killed"]]
    answers = figures.reached(found)
    assert [
        answers[name] for name in ("no run stuck", "no verified checkpoint lost", "no promise broken")
    ] == [
        False,
        False,
        False,
    ], "one is enough to miss a goal"
    assert answers["loss curve equal"] is None


@pytest.mark.parametrize(
    ("singles", "doubles", "reached"), [(200, 20, True), (199, 20, None), (200, 19, None), (0, 0, None)]
)
def test_a_goal_is_reached_only_after_enough_faults(singles: int, doubles: int, reached: bool | None) -> None:
    rows = [row("rank-killed", detect=0.5, recoveries=[recovery()]) for _ in range(singles)]
    found = figures.figures(rows, [row("rank-killed", "rank-killed") for _ in range(doubles)])
    answers = figures.reached(found)
    assert answers["no run stuck"] is answers["no verified checkpoint lost"] is reached
    assert answers["each class seen at least 10 times"] is reached
    assert answers["a killed rank noticed within 1 s (p95)"] is (True if singles else None)


@pytest.mark.parametrize(
    ("losses", "equal", "missing", "again"),
    [
        ([(1, "a"), (2, "b"), (3, "c")], True, [], 0),
        ([(1, "a"), (2, "b"), (2, "b"), (3, "c")], True, [], 1),
        ([(1, "a"), (2, "b"), (2, "x"), (3, "c")], False, [], 1),
        ([(1, "a"), (3, "c")], True, [2], 0),
        ([], False, [], 0),
    ],
)
def test_losses_are_compared_step_by_step_also_those_done_again(
    losses: list[tuple[int, str]], equal: bool, missing: list[int], again: int
) -> None:
    rows = [{"step": step, "loss": loss} for step, loss in losses]
    found = figures.compare(rows, {1: "a", 2: "b", 3: "c"})
    assert (found["equal"], found["missing"], found["doneAgain"]) == (equal, missing, again)


def test_steps_that_the_reference_lacks_are_counted_and_not_compared() -> None:
    found = figures.compare([{"step": 1, "loss": "a"}, {"step": 9, "loss": "z"}], {1: "a"})
    assert (found["equal"], found["beyondTheReference"]) == (True, 1)


def test_a_chain_of_digests_shows_a_wrong_state_in_every_later_step() -> None:
    right = chain_tasks.undisturbed(20)
    assert len(set(right.values())) == 20 and list(right) == list(range(1, 21))
    state = chain_tasks.after(chain_tasks.SEED, 1)
    wrong = state[:-1] + ("0" if state[-1] != "0" else "1")
    for step in range(2, 21):
        wrong = chain_tasks.after(wrong, step)
        assert chain_tasks.loss_of(wrong).hex() != right[step]
