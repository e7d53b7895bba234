"""The timeline: bars that fill their width whatever the numbers, spans that touch, and a golden text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from windlass.api.status import GoodputSeconds
from windlass.cli import timeline, view
from windlass.cli.page import plain
from windlass.core.observed import parse_status

GOLDEN = Path(__file__).with_name("golden")
CREATED = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
SHARES = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e9)), min_size=1, max_size=20)
SECONDS = st.integers(0, 4000)


def a_run() -> dict[str, Any]:
    return plain(yaml.safe_load((GOLDEN / "run.yaml").read_text()))


def at(seconds: float) -> str:
    return (CREATED + timedelta(seconds=seconds)).isoformat()


def story_of(**status: Any) -> timeline.Story | None:
    job = {"metadata": {"name": "a", "creationTimestamp": CREATED.isoformat()}, "status": status}
    return timeline.tell(job, parse_status(status))


def recovery(when: float, total: float, incarnation: int = 2) -> dict[str, Any]:
    return {
        "incarnation": incarnation,
        "rung": "InPlace",
        "class": "Crash",
        "at": at(when),
        "seconds": {"total": total},
    }


# --- cells ----------------------------------------------------------------------------------------


@given(SHARES, st.integers(1, 200))
def test_cells_fill_the_width_exactly(shares: list[float], width: int) -> None:
    counts = timeline.cells(shares, width)
    assert len(counts) == len(shares) and min(counts) >= 0
    assert sum(counts) == (width if sum(shares) > 0 else 0)
    assert all(count == 0 for count, share in zip(counts, shares, strict=True) if share == 0)


@given(SHARES, st.integers(20, 200))
def test_what_is_there_is_seen_where_there_is_room(shares: list[float], width: int) -> None:
    counts = timeline.cells(shares, width)
    assert all(count > 0 for count, share in zip(counts, shares, strict=True) if share > 0)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=8))
def test_cells_are_in_proportion(shares: list[float]) -> None:
    counts = timeline.cells(shares, 100_000)
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - share / sum(shares) * 100_000) <= 1


@pytest.mark.parametrize(
    ("shares", "width", "counts"),
    [
        ([1, 1], 4, [2, 2]),
        ([3, 1], 4, [3, 1]),
        ([0, 0], 4, [0, 0]),
        ([1000, 1], 4, [3, 1]),
        ([1, 1, 1], 4, [2, 1, 1]),
        ([1, 1, 1], 1, [1, 0, 0]),
    ],
)
def test_cells_of(shares: list[float], width: int, counts: list[int]) -> None:
    assert timeline.cells(shares, width) == counts


# --- spans ----------------------------------------------------------------------------------------


@st.composite
def statuses(draw: st.DrawFn) -> dict[str, Any]:
    """Statuses with any instants in any order, as clocks of several machines may leave them."""
    status: dict[str, Any] = {"goodput": {"sinceCreation": draw(SECONDS)}}
    for name in ("admittedAt", "startedAt", "finishedAt", "suspendedAt"):
        if draw(st.booleans()):
            status[name] = at(draw(st.integers(-60, 4000)))
    rows = draw(st.lists(st.tuples(st.integers(-60, 4000), SECONDS), max_size=10))
    status["recoveries"] = [recovery(when, took, number) for number, (when, took) in enumerate(rows, 2)]
    status["incarnation"] = len(rows) + 1
    return status


@given(statuses())
def test_spans_touch_and_fill_the_story(status: dict[str, Any]) -> None:
    story = story_of(**status)
    if story is None:
        return
    assert story.spans[0].begin == 0 and story.spans[-1].end == story.length
    for one, other in pairwise(story.spans):
        assert one.end == other.begin and one.begin < one.end and one.what != other.what
    assert all(0 <= when <= story.length for when, _ in story.recoveries)


@given(statuses(), st.integers(10, 120))
def test_every_bar_has_its_width(status: dict[str, Any], width: int) -> None:
    story = story_of(**status)
    if story is None:
        return
    for line in timeline.draw(story, parse_status(status), width):
        if "[" in line:
            assert line.index("]") - line.index("[") - 1 == width


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"progress": {"updatedAt": at(10)}}, ["waiting"]),
        ({"admittedAt": at(5), "progress": {"updatedAt": at(10)}}, ["waiting", "starting"]),
        (
            {"admittedAt": at(5), "startedAt": at(8), "progress": {"updatedAt": at(10)}},
            ["waiting", "starting", "running"],
        ),
        (
            {
                "admittedAt": at(0),
                "startedAt": at(0),
                "goodput": {"sinceCreation": 50},
                "recoveries": [recovery(10, 5)],
            },
            ["running", "recovering", "running"],
        ),
        (
            {
                "admittedAt": at(0),
                "startedAt": at(0),
                "goodput": {"sinceCreation": 50},
                "recoveries": [recovery(10, 0)],
            },
            ["running", "recovering"],
        ),
        (
            {"admittedAt": at(0), "startedAt": at(0), "finishedAt": at(50), "recoveries": [recovery(10, 0)]},
            ["running"],
        ),
        (
            {"admittedAt": at(0), "startedAt": at(0), "suspendedAt": at(9), "goodput": {"sinceCreation": 20}},
            ["running", "suspended"],
        ),
    ],
)
def test_what_it_was_doing(status: dict[str, Any], told: list[str]) -> None:
    story = story_of(**status)
    assert story is not None and [one.what for one in story.spans] == told


@pytest.mark.parametrize("stamp", [None, "yesterday", 7, ""])
def test_a_job_without_a_birthday_has_no_story(stamp: Any) -> None:
    job = {"metadata": {"name": "a", "creationTimestamp": stamp}}
    assert timeline.tell(job, parse_status({"goodput": {"sinceCreation": 9}})) is None
    assert view.describe(job).startswith("default/a")


def test_a_job_of_this_instant_has_no_story() -> None:
    assert story_of() is None


def test_every_part_of_goodput_has_its_own_letter() -> None:
    assert set(timeline.LETTERS) == set(GoodputSeconds.model_fields)
    letters = [*timeline.LETTERS.values(), *timeline.TRACK.values()]
    shared = {one for one in letters if letters.count(one) > 1}
    assert shared == {"s", "R", "z"}, "shared only where both bars mean the same"


def test_the_view_of_a_run_with_two_recoveries() -> None:
    said = view.describe(a_run()) + "\n"
    assert said == (GOLDEN / "status.txt").read_text()
