"""Which checkpoint counts: by tables, and by the promise that nobody resumes from a replaced one's work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import AcceptedCheckpoint, Incarnation
from windlass.core.checkpoints.choose import (
    LATEST,
    NOTHING,
    RESUME_FROM,
    Candidate,
    Choice,
    choose,
    objection,
    order,
)

AT = datetime(2026, 11, 23, tzinfo=UTC)


def a(step: int, made: int = 1, digest: str = "", problem: str | None = None) -> Candidate:
    return Candidate(
        name=f"step-{step:08d}.i{made}",
        step=step,
        incarnation=made,
        digest=digest or f"d{step}.{made}",
        problem=problem,
    )


def vouched(*candidates: Candidate) -> list[AcceptedCheckpoint]:
    return [
        AcceptedCheckpoint(name=each.name, step=each.step, incarnation=each.incarnation, digest=each.digest)
        for each in candidates
    ]


def life(
    number: int, *accepted: Candidate, poisoned: Sequence[str] = (), wish: str | None = None
) -> Incarnation:
    return Incarnation(
        incarnation=number,
        attempt=1,
        ticket=number,
        owner_pod_uid="u",
        owner_pod="p",
        created_at=AT,
        accepted=vouched(*accepted),
        poisoned=list(poisoned),
        details={RESUME_FROM: wish} if wish is not None else {},
    )


OBJECTIONS: list[tuple[str, Candidate, Incarnation | None, tuple[str, ...], str | None]] = [
    ("made by the newest", a(20, 3), life(3), (), None),
    ("accepted by the newest", a(20, 1), life(3, a(20, 1)), (), None),
    ("of an older one, not accepted", a(40, 2), life(3, a(20, 1)), (), "incarnation 3 did not accept it"),
    ("of one that was never claimed", a(40, 4), life(3), (), "its incarnation 4 was never claimed"),
    ("nobody vouches", a(20, 1), None, (), "no incarnation vouches for it"),
    ("damaged", a(20, 3, problem="file is short"), life(3), (), "file is short"),
    ("damaged and nobody vouches", a(20, 3, problem="file is short"), None, (), "file is short"),
    (
        "poisoned by the newest",
        a(20, 1),
        life(3, a(20, 1), poisoned=[a(20, 1).name]),
        (),
        "poisoned: it failed to load before",
    ),
    ("poisoned just now", a(20, 3), life(3), (a(20, 3).name,), "poisoned: it failed to load before"),
    (
        "another content under an accepted name",
        a(20, 1, digest="other"),
        life(3, a(20, 1)),
        (),
        "its digest is not the accepted one",
    ),
]


@pytest.mark.fault("F54")
@pytest.mark.parametrize(
    ("name", "candidate", "newest", "poisoned", "text"), OBJECTIONS, ids=[row[0] for row in OBJECTIONS]
)
def test_what_counts_and_why_not(
    name: str, candidate: Candidate, newest: Incarnation | None, poisoned: tuple[str, ...], text: str | None
) -> None:
    assert objection(candidate, newest, poisoned) == text, name
    made = choose([candidate], newest, LATEST, poisoned=poisoned)
    assert (made.name == candidate.name) is (text is None)
    assert [each.reason for each in made.rejected] == ([] if text is None else [text])


def test_newest_is_the_highest_step_then_the_highest_incarnation() -> None:
    found = [a(20, 1), a(40, 1), a(40, 2), a(20, 3)]
    assert [each.name for each in sorted(found, key=order)] == [
        "step-00000020.i1",
        "step-00000020.i3",
        "step-00000040.i1",
        "step-00000040.i2",
    ]
    made = choose(found, life(3, a(20, 1), a(40, 1), a(40, 2)), LATEST)
    assert (made.name, made.step) == ("step-00000040.i2", 40)
    assert [each.name for each in made.accepted] == [
        "step-00000040.i2",
        "step-00000040.i1",
        "step-00000020.i3",
        "step-00000020.i1",
    ]


def test_nothing_there_is_a_fresh_start() -> None:
    made = choose([], None, LATEST)
    assert made == Choice()
    assert (made.name, made.step) == (None, 0)


@pytest.mark.fault("F53")
def test_damaged_newest_falls_back_to_the_one_before() -> None:
    found = [
        a(60, 1, problem="manifest is missing"),
        a(40, 1, problem="model.distcp: digest differs"),
        a(20, 1),
    ]
    made = choose(found, life(1), LATEST)
    assert made.step == 20
    assert [(each.name, each.reason) for each in made.rejected] == [
        ("step-00000060.i1", "manifest is missing"),
        ("step-00000040.i1", "model.distcp: digest differs"),
    ]


# --- resume.from -----------------------------------------------------------------------------------

FOUND = [a(20, 1), a(40, 1), a(60, 1)]


@pytest.mark.parametrize(
    ("wish", "step", "accepted"),
    [
        (LATEST, 60, [60, 40, 20]),
        (NOTHING, 0, []),
        ("40", 40, [40, 20]),
        ("60", 60, [60, 40, 20]),
        ("20", 20, [20]),
    ],
)
def test_wish_of_the_user_is_honoured(wish: str, step: int, accepted: list[int]) -> None:
    made = choose(FOUND, life(1), wish)
    assert (made.step, [each.step for each in made.accepted], made.problem) == (step, accepted, None)


@pytest.mark.parametrize(
    ("found", "wish", "text"),
    [
        (
            FOUND,
            "50",
            'spec.resume.from: no verified checkpoint of this step (got "50"); allowed Latest, None or one of: 20, 40, '
            "60. hint: status.checkpoints lists what can be used.",
        ),
        (
            [],
            "50",
            'spec.resume.from: no verified checkpoint of this step (got "50"); allowed Latest, None or one of: no '
            "step, there is none. hint: status.checkpoints lists what can be used.",
        ),
        (
            [a(20, 1), a(50, 1, problem="torn")],
            "50",
            'spec.resume.from: no verified checkpoint of this step (got "50"); allowed Latest, None or one of: 20. '
            "hint: status.checkpoints lists what can be used.",
        ),
    ],
)
def test_wish_that_cannot_be_met_starts_nothing(found: list[Candidate], wish: str, text: str) -> None:
    made = choose(found, life(1), wish)
    assert (made.problem, made.checkpoint, made.accepted) == (text, None, ())


@pytest.mark.parametrize("wish", ["40", NOTHING])
def test_wish_is_honoured_once(wish: str) -> None:
    """The next incarnations go on from what was reached since; else a run would begin anew for ever."""
    first = choose(FOUND, life(1), wish)
    kept = [each for each in FOUND if each.name in {one.name for one in first.accepted}]
    newest = life(2, *kept, wish=wish)
    later = choose([*FOUND, a(80, 2)], newest, wish)
    assert later.step == 80 and later.problem is None
    assert {each.step for each in later.accepted} == {80, *(each.step for each in kept)}


def test_another_wish_is_honoured_anew() -> None:
    newest = life(2, a(40, 1), a(20, 1), wish="40")
    assert choose([*FOUND, a(80, 2)], newest, "20").step == 20
    assert choose([*FOUND, a(80, 2)], newest, LATEST).step == 80


# --- what can never happen -------------------------------------------------------------------------

CANDIDATES = st.lists(
    st.builds(
        a,
        st.integers(1, 6).map(lambda n: n * 20),
        st.integers(1, 5),
        problem=st.sampled_from([None, None, "torn"]),
    ),
    max_size=10,
    unique_by=lambda each: each.name,
)


@st.composite
def lives(draw: st.DrawFn, found: list[Candidate]) -> Incarnation | None:
    if draw(st.integers(0, 5)) == 0:
        return None
    number = draw(st.integers(1, 5))
    accepted = [each for each in found if each.incarnation < number and draw(st.booleans())]
    poisoned = [each.name for each in found if draw(st.integers(0, 5)) == 0]
    return life(number, *accepted, poisoned=poisoned, wish=draw(st.sampled_from([None, "40", NOTHING])))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_only_vouched_for_whole_and_unpoisoned_ones_are_chosen(data: st.DataObject) -> None:
    found = data.draw(CANDIDATES)
    newest = data.draw(lives(found))
    wish = data.draw(st.sampled_from([LATEST, NOTHING, "40", "60"]))
    made = choose(found, newest, wish)
    assert made == choose(found[::-1], newest, wish), "listings come in any order"
    if newest is None:
        assert made.checkpoint is None
        return
    vouched_names = {each.name for each in newest.accepted}
    chosen = [made.checkpoint] if made.checkpoint is not None else []
    for each in [*chosen, *(one for one in found if one.name in {item.name for item in made.accepted})]:
        assert each.problem is None and each.name not in newest.poisoned
        assert each.incarnation == newest.incarnation or each.name in vouched_names
    if made.checkpoint is not None:
        assert made.name == made.accepted[0].name
        assert made.step == max(each.step for each in made.accepted)
    names = {each.name for each in made.accepted} | {each.name for each in made.rejected}
    assert names <= {each.name for each in found}
    assert not {each.name for each in made.accepted} & {each.name for each in made.rejected}


@pytest.mark.fault("F62")
@settings(max_examples=60, deadline=None)
@given(CANDIDATES, st.integers(1, 4))
def test_zombies_later_work_is_never_seen(found: list[Candidate], number: int) -> None:
    """A replaced leader may write what it likes after its successor began: the choice does not change."""
    mine = [each for each in found if each.incarnation <= number and each.problem is None]
    newest = life(number, *(each for each in mine if each.incarnation < number))
    before = choose(mine, newest, LATEST)
    zombie = [a(step, made) for step in (140, 160) for made in range(1, number)]
    after = choose([*mine, *zombie], newest, LATEST)
    assert (after.checkpoint, after.accepted) == (before.checkpoint, before.accepted)


@settings(max_examples=60, deadline=None)
@given(CANDIDATES)
def test_next_incarnation_sees_what_this_one_accepted(found: list[Candidate]) -> None:
    """From life to life nothing verified is lost and nothing else comes in."""
    current = life(3, *(each for each in found if each.incarnation < 3))
    made = choose(found, current, LATEST)
    successor = current.model_copy(update={"incarnation": 4, "accepted": list(made.accepted)})
    again = choose([each for each in found if each.incarnation < 4], successor, LATEST)
    assert again.accepted == made.accepted and again.checkpoint == made.checkpoint
