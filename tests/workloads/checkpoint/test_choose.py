"""Which checkpoint a run goes on from."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from windlass.api.contract import AcceptedCheckpoint
from windlass.core.checkpoints.choose import RESUME_FROM, Candidate, choose
from windlass_workloads.checkpoint import choose as reading
from windlass_workloads.checkpoint import incarnations, ledger
from windlass_workloads.checkpoint.errors import StoreUnusable
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.trash import discard
from workloads.checkpoint.support import commit, incarnation


def made(step: int, number: int, problem: str | None = None) -> Candidate:
    return Candidate(f"step-{step:08d}.i{number}", step, number, f"digest-{step}-{number}", problem)


def accepted(step: int, number: int) -> AcceptedCheckpoint:
    each = made(step, number)
    return AcceptedCheckpoint(name=each.name, step=step, incarnation=number, digest=each.digest)


def test_without_checkpoints_the_run_starts_fresh() -> None:
    choice = choose([], None, "Latest")
    assert (choice.name, choice.step, choice.accepted, choice.problem) == (None, 0, (), None)


def test_the_newest_step_wins_and_among_equals_the_newest_incarnation() -> None:
    newest = incarnation(3, accepted=[accepted(10, 1), accepted(20, 1), accepted(20, 2)])
    found = [made(10, 1), made(20, 1), made(20, 2), made(15, 3)]
    choice = choose(found, newest, "Latest")
    assert choice.name == "step-00000020.i2"
    assert [each.step for each in choice.accepted] == [20, 20, 15, 10]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (made(90, 2, "weights.bin: is missing"), "weights.bin: is missing"),
        (made(90, 1), "incarnation 2 did not accept it"),
        (made(90, 3), "its incarnation 3 was never claimed"),
        (made(40, 2), "poisoned: it failed to load before"),
        (made(50, 2), "poisoned: it failed to load before"),
        (Candidate("step-00000010.i1", 10, 1, "other"), "its digest is not the accepted one"),
    ],
)
def test_what_does_not_count_is_named_with_the_reason(candidate: Candidate, reason: str) -> None:
    newest = incarnation(2, accepted=[accepted(10, 1)], poisoned=["step-00000040.i2"])
    choice = choose([candidate, made(5, 2)], newest, "Latest", poisoned={"step-00000050.i2"})
    assert choice.name == "step-00000005.i2"
    assert [(each.name, each.reason) for each in choice.rejected] == [(candidate.name, reason)]


def test_nothing_counts_without_an_incarnation() -> None:
    choice = choose([made(10, 1)], None, "Latest")
    assert choice.checkpoint is None
    assert choice.rejected[0].reason == "no incarnation vouches for it"


def test_a_wish_for_nothing_is_honoured_once() -> None:
    newest = incarnation(1, details={RESUME_FROM: "Latest"})
    first = choose([made(10, 1)], newest, "None")
    assert (first.name, first.accepted) == (None, ())
    then = incarnation(2, accepted=list(first.accepted), details={RESUME_FROM: "None"})
    second = choose([made(10, 1), made(5, 2)], then, "None")
    assert second.name == "step-00000005.i2"


def test_a_wish_for_a_step_accepts_nothing_beyond_it_and_goes_on_from_there() -> None:
    found = [made(10, 1), made(20, 1), made(30, 1)]
    first = choose(found, incarnation(1), "20")
    assert first.name == "step-00000020.i1"
    assert [each.step for each in first.accepted] == [20, 10]
    then = incarnation(2, accepted=list(first.accepted), details={RESUME_FROM: "20"})
    assert choose([*found, made(25, 2)], then, "20").name == "step-00000025.i2"


def test_a_wish_for_a_step_that_is_not_there_names_those_that_are() -> None:
    newest = incarnation(1)
    choice = choose([made(10, 1), made(20, 1, "torn")], newest, "20")
    assert choice.checkpoint is None
    assert choice.problem == (
        'spec.resume.from: no verified checkpoint of this step (got "20"); allowed Latest, None or one of: '
        "10. hint: status.checkpoints lists what can be used."
    )
    assert "one of: no step, there is none." in str(choose([], newest, "20").problem)


def test_choosing_brings_back_what_a_replaced_leader_discarded_late(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    incarnations.claim(store, incarnation(1))
    older, newer = commit(store, 10, 1), commit(store, 20, 1)
    choice = reading.choose(store, incarnations.newest(store), "Latest")
    incarnations.claim(store, incarnation(2, accepted=list(choice.accepted), resume=choice.name))
    for name in (older, newer):
        assert discard(store, name, now=5.0)
    again = reading.choose(store, incarnations.newest(store), "Latest")
    assert again.name == newer
    assert store.exists(newer)


def test_choosing_brings_back_nothing_older_than_what_is_there(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    incarnations.claim(store, incarnation(1))
    older = commit(store, 10, 1)
    commit(store, 20, 1)
    choice = reading.choose(store, incarnations.newest(store), "Latest")
    incarnations.claim(store, incarnation(2, accepted=list(choice.accepted)))
    discard(store, older, now=5.0)
    reading.choose(store, incarnations.newest(store), "Latest")
    assert not store.exists(older)


def test_the_ledger_lists_what_counts_newest_first(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    incarnations.claim(store, incarnation(1))
    commit(store, 10, 1)
    commit(store, 20, 1, validation_loss=0.5)
    store.make("step-00000030.i1")
    first, second = ledger.rows(store, incarnations.newest(store))
    assert (first.step, second.step) == (20, 10)
    assert (first.bytes, first.validation_loss, first.incarnation) == (4000, 0.5, 1)
    assert ledger.rows(store, None) == []


@pytest.mark.fault("F57")
def test_a_volume_that_is_away_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(tmp_path)
    name = commit(store, 10, 1)

    def away(self: RunStore, relative: str) -> bytes:
        raise OSError(errno.EIO, "Input/output error", relative)

    monkeypatch.setattr(RunStore, "read", away)
    with pytest.raises(StoreUnusable, match="Input/output error"):
        reading.choose(store, incarnation(1), "Latest")
    monkeypatch.undo()
    assert reading.choose(store, incarnation(1), "Latest").name == name


@pytest.mark.parametrize(("failures", "chosen"), [(1, 20), (9, 10)], ids=["passing", "lasting"])
def test_a_file_is_accused_only_by_a_volume_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, chosen: int
) -> None:
    store = RunStore(tmp_path)
    commit(store, 10, 1)
    commit(store, 20, 1)
    plain, left = RunStore.read, [failures]

    def read(self: RunStore, relative: str) -> bytes | None:
        if relative.startswith("step-00000020") and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error", relative)
        return plain(self, relative)

    monkeypatch.setattr(RunStore, "read", read)
    assert reading.choose(store, incarnation(1), "Latest").step == chosen
