"""Old checkpoints go, in two steps, behind the fence; what is needed stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.checkpoints.choose import Candidate
from windlass_workloads.checkpoint import choose, incarnations
from windlass_workloads.checkpoint.errors import Fenced
from windlass_workloads.checkpoint.retention import purge, retain, superfluous
from windlass_workloads.checkpoint.store import RunStore
from workloads.checkpoint.support import commit, incarnation


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    return store


def clock() -> float:
    return 1000.0


def test_the_newest_stay(store: RunStore) -> None:
    names = [commit(store, step, 1) for step in (10, 20, 30, 40)]
    assert retain(store, incarnation=1, keep_last=2, clock=clock) == names[:2]
    assert store.list_checkpoints() == [names[3], names[2]]
    assert store.names("trash") == [f"1000~{names[0]}", f"1000~{names[1]}"]


@pytest.mark.fault("F61")
def test_the_one_resumed_from_is_never_deleted(store: RunStore) -> None:
    names = [commit(store, step, 1) for step in (10, 20, 30)]
    choice = choose.choose(store, incarnations.newest(store), "Latest")
    assert incarnations.claim(store, incarnation(2, accepted=list(choice.accepted), resume=names[1]))
    newer = [commit(store, step, 2) for step in (40, 50)]
    assert retain(store, incarnation=2, keep_last=2, clock=clock) == [names[0], names[2]]
    assert set(store.list_checkpoints()) == {*newer, names[1]}


def test_a_save_in_progress_stays_and_what_a_dead_one_left_goes(store: RunStore) -> None:
    store.make("step-00000010.i1")
    assert incarnations.claim(store, incarnation(2))
    store.make("step-00000020.i2")
    assert retain(store, incarnation=2, keep_last=2, clock=clock) == ["step-00000010.i1"]
    assert store.list_checkpoints() == ["step-00000020.i2"]


def test_what_a_zombie_committed_goes(store: RunStore) -> None:
    assert incarnations.claim(store, incarnation(2))
    store.make("step-00000030.i1")
    kept = commit(store, 20, 2)
    assert retain(store, incarnation=2, keep_last=2, clock=clock) == ["step-00000030.i1"]
    assert store.list_checkpoints() == [kept]


def test_a_poisoned_one_goes(store: RunStore) -> None:
    kept, bad = commit(store, 10, 1), commit(store, 20, 1)
    choice = choose.choose(store, incarnations.newest(store), "Latest", poisoned={bad})
    incarnations.claim(store, incarnation(2, accepted=list(choice.accepted), poisoned=[bad], resume=kept))
    assert retain(store, incarnation=2, keep_last=2, clock=clock) == [bad]


def test_a_replaced_leader_deletes_nothing(store: RunStore) -> None:
    names = [commit(store, step, 1) for step in (10, 20, 30)]
    store.make("trash/5~step-00000005.i1")
    incarnations.claim(store, incarnation(2))
    with pytest.raises(
        Fenced, match="incarnation 1 may not delete checkpoints, incarnation 2 has taken over"
    ):
        retain(store, incarnation=1, keep_last=1, clock=clock)
    with pytest.raises(Fenced, match=r"may not purge 5~step-00000005\.i1"):
        purge(store, incarnation=1, clock=clock)
    assert set(store.list_checkpoints()) == set(names)
    assert store.names("trash") == ["5~step-00000005.i1"]


def test_who_never_claimed_deletes_nothing(store: RunStore) -> None:
    commit(store, 10, 1)
    commit(store, 20, 1)
    assert retain(store, incarnation=7, keep_last=1, clock=clock) == []


def test_a_takeover_in_the_middle_stops_the_deleting(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [commit(store, step, 1) for step in (10, 20, 30)]
    move = store.move

    def move_then_takeover(source: str, target: str) -> bool:
        moved = move(source, target)
        incarnations.claim(RunStore(store.root), incarnation(2))
        return moved

    monkeypatch.setattr(store, "move", move_then_takeover)
    with pytest.raises(Fenced, match=r"may not delete step-00000020\.i1"):
        retain(store, incarnation=1, keep_last=1, clock=clock)
    assert store.list_checkpoints() == [names[2], names[1]]


def test_the_trash_is_emptied_after_the_delay(store: RunStore) -> None:
    for entry in ("100~step-00000010.i1", "950~step-00000020.i1", "strange"):
        (store.make(f"trash/{entry}") / "file").write_bytes(b"x")
    assert purge(store, incarnation=1, delay_seconds=600, clock=clock) == ["100~step-00000010.i1"]
    assert store.names("trash") == ["950~step-00000020.i1", "strange"]


def test_one_name_can_be_discarded_twice_in_a_second(store: RunStore) -> None:
    from windlass_workloads.checkpoint.trash import discard, restore

    for content in (b"first", b"second"):
        (store.make("step-00000010.i1") / "file").write_bytes(content)
        assert discard(store, "step-00000010.i1", now=7.5)
    assert len(store.names("trash")) == 2
    assert restore(store, "step-00000010.i1")
    assert store.read("step-00000010.i1/file") == b"second"
    assert not restore(store, "step-00000010.i1")
    assert not restore(store, "step-00000099.i1")


candidates = st.lists(
    st.builds(
        lambda step, number, bad: Candidate(
            f"step-{step:08d}.i{number}", step, number, "d", "bad" if bad else None
        ),
        st.integers(1, 6),
        st.integers(1, 3),
        st.booleans(),
    ),
    unique_by=lambda each: each.name,
    max_size=12,
)


@given(found=candidates, keep_last=st.integers(0, 4))
def test_never_what_is_needed(found: list[Candidate], keep_last: int) -> None:
    newest = incarnation(3, resume=found[0].name if found else None)
    gone = superfluous(found, newest, keep_last=keep_last)
    names = {each.name for each in gone}
    counted = sorted(
        (each for each in found if each.incarnation == 3 and not each.problem), key=lambda e: -e.step
    )
    assert newest.resume not in names
    assert not names & {each.name for each in counted[: max(1, keep_last)]}
    assert not names & {each.name for each in found if each.incarnation == 3 and each.problem}
    assert {each.name for each in found if each.incarnation < 3} - {newest.resume} <= names
