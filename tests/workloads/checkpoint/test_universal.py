"""The universal copy in the store: whole or absent, made of verified bytes only, gone with its checkpoint."""

from __future__ import annotations

import contextlib
import errno
import random
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import Conversion, Manifest, RankContext
from windlass_workloads.checkpoint import incarnations, randomness, universal
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import CheckpointUnusable, Fenced, SaveError, StoreUnusable
from windlass_workloads.checkpoint.retention import purge, retain
from windlass_workloads.checkpoint.store import MANIFEST, TEMPORARY, TRASH, RunStore
from windlass_workloads.checkpoint.trash import discard, restore
from workloads.checkpoint.damage import KINDS, damage
from workloads.checkpoint.faulty import Disk, Killed
from workloads.checkpoint.support import RUN_UID, context, incarnation, manifest_of

NAME = "step-00000010.i1"
PIECES = ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt")
FIELDS: dict[str, Any] = {"world_size": 2, "strategy": "DeepSpeed-2", "format": "DeepSpeed"}
COPIED = {
    "deepspeed/mp_rank_00_model_states.pt",
    "deepspeed/zero/weights/fp32.pt",
    *(randomness.file_of(rank) for rank in range(2)),
}


def saved(store: RunStore, step: int = 10, *, number: int = 1, **fields: Any) -> str:
    """A checkpoint as two ranks of DeepSpeed leave it, as far as the store is concerned."""
    name = f"step-{step:08d}.i{number}"
    directory = store.make(name)
    (directory / "deepspeed").mkdir()
    for index, piece in enumerate(PIECES):
        (directory / "deepspeed" / piece).write_bytes(
            bytes((step + index + byte) % 251 for byte in range(500))
        )
    for rank in range(2):
        (directory / randomness.file_of(rank)).write_bytes(f"generators of rank {rank}".encode())
    manifests.commit(store, name, manifest_of(store, step, number, **{**FIELDS, **fields}))
    return name


def told(store: RunStore, number: int = 2, name: str = NAME) -> RankContext:
    return context(store.root, 0, 1, name, number)


class Convert:
    """DeepSpeed's part, played: one tensor made of all pieces. `error` is raised when half is written."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, source: Path, target: Path) -> None:
        self.calls += 1
        (target / "tmp").mkdir(parents=True)
        pieces = [(source / piece).read_bytes() for piece in PIECES]
        (target / "tmp" / "fragment").write_bytes(pieces[0])
        (target / "tmp" / "fragment").unlink()
        (target / "tmp").rmdir()
        if self.error is not None:
            raise self.error
        (target / "zero" / "weights").mkdir(parents=True)
        (target / "zero" / "weights" / "fp32.pt").write_bytes(b"".join(pieces))
        (target / PIECES[1]).write_bytes(pieces[1])


@pytest.fixture
def two(store: RunStore) -> RunStore:
    """A store whose second incarnation goes on from what two ranks saved."""
    saved(store)
    assert incarnations.claim(store, incarnation(2, resume=NAME))
    return store


def source_of(store: RunStore, name: str = NAME) -> Manifest:
    return manifests.read(store, name)


def found(store: RunStore, name: str = NAME) -> Conversion | None:
    return universal.find(store, name, source_of(store, name))


def is_whole(store: RunStore) -> bool:
    copy = found(store)
    directory = store.path(universal.copy_of(NAME))
    return copy is not None and manifests.verify(directory, copy, deep=True) == []


def leftovers(store: RunStore) -> list[str]:
    """What is in the checkpoint beside its own files."""
    own = {entry.path.split("/")[0] for entry in source_of(store).files}
    return sorted(each.name for each in store.path(NAME).iterdir() if each.name not in {*own, MANIFEST})


@pytest.mark.parametrize(
    ("format_", "world", "ranks", "wanted"),
    [
        ("DeepSpeed", 2, 2, False),
        ("DeepSpeed", 2, 1, True),
        ("DeepSpeed", 2, 4, True),
        ("DeepSpeed", 1, 2, True),
        ("DCP", 2, 1, False),
        ("DCP", 2, 2, False),
    ],
)
def test_it_is_wanted_where_deepspeed_saved_with_another_number_of_ranks(
    store: RunStore, format_: str, world: int, ranks: int, wanted: bool
) -> None:
    saved(store, world_size=world, format=format_)
    assert universal.is_wanted(source_of(store), ranks) is wanted


def test_the_copy_is_complete_and_says_what_it_was_made_of(two: RunStore) -> None:
    assert found(two) is None
    assert universal.make(two, told(two), Convert()) is True
    copy = found(two)
    assert copy is not None
    assert {entry.path for entry in copy.files} == COPIED
    assert (copy.source, copy.source_digest) == (NAME, source_of(two).files_digest)
    assert is_whole(two)
    assert leftovers(two) == ["universal"]
    # The checkpoint itself is as it was.
    assert manifests.verify(two.path(NAME), source_of(two), deep=True) == []


def test_a_second_start_uses_it_again(two: RunStore) -> None:
    universal.make(two, told(two), Convert())
    before = found(two)
    again = Convert()
    assert incarnations.claim(two, incarnation(3, resume=NAME))
    assert universal.make(two, told(two, 3), again) is False
    assert again.calls == 0
    assert found(two) == before


def test_it_is_used_again_though_the_checkpoint_was_damaged_since(two: RunStore) -> None:
    universal.make(two, told(two), Convert())
    (two.path(NAME) / "deepspeed" / PIECES[0]).write_bytes(b"")
    assert universal.make(two, told(two), Convert()) is False


@pytest.mark.fault("F55")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_refused_before_a_byte_of_it_is_read_in(two: RunStore, kind: str) -> None:
    damage(two.path(NAME), kind, random.Random(kind))
    convert = Convert()
    with pytest.raises(CheckpointUnusable, match="its content is damaged") as caught:
        universal.make(two, told(two), convert)
    assert convert.calls == 0
    assert len(caught.value.evidence) == 1
    assert not two.exists(universal.copy_of(NAME))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_copy_is_made_again(two: RunStore, kind: str) -> None:
    universal.make(two, told(two), Convert())
    damage(two.path(universal.copy_of(NAME)), kind, random.Random(kind))
    convert = Convert()
    assert universal.make(two, told(two), convert) is True
    assert convert.calls == 1
    assert is_whole(two)
    assert leftovers(two) == ["universal"]


def test_a_copy_of_another_checkpoint_does_not_count(two: RunStore) -> None:
    universal.make(two, told(two), Convert())
    other = saved(two, 20, number=2)
    assert two.move(universal.copy_of(NAME), universal.copy_of(other))
    with pytest.raises(manifests.ManifestInvalid, match=f"made from another checkpoint, {NAME}"):
        found(two, other)
    assert universal.make(two, told(two, name=other), Convert()) is True
    copy = found(two, other)
    assert copy is not None and copy.source == other


def test_a_checkpoint_of_another_run_is_refused(store: RunStore) -> None:
    saved(store, run_uid="another")
    with pytest.raises(CheckpointUnusable) as caught:
        universal.make(store, told(store, 1), Convert())
    assert list(caught.value.evidence) == ["the manifest is of another run (got uid another)"]
    assert RUN_UID != "another"


WRONG = [
    (
        AssertionError("Steps [1, 2] are not equal"),
        CheckpointUnusable,
        "cannot convert it for another number",
    ),
    (IndexError("list index out of range"), CheckpointUnusable, "cannot convert it for another number"),
    (RuntimeError("Missing ZeRO-3 checkpoint file"), CheckpointUnusable, "cannot convert it for another"),
    (RuntimeError("PytorchStreamWriter failed writing file data/1"), StoreUnusable, "the volume fails while"),
    (RuntimeError("No space left on device"), SaveError, "the volume is full"),
    (OSError(errno.ENOSPC, "No space left on device"), SaveError, "the volume is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), SaveError, "the volume is full"),
    (OSError(errno.EIO, "Input/output error"), StoreUnusable, "Input/output error"),
    (MemoryError("no more"), MemoryError, "no more"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError, "can't allocate"),
]


@pytest.mark.parametrize(("error", "kind", "text"), WRONG, ids=lambda value: str(value)[:30])
def test_what_fails_is_told_apart_and_leaves_nothing(
    two: RunStore, error: Exception, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        universal.make(two, told(two), Convert(error))
    assert leftovers(two) == []
    assert universal.make(two, told(two), Convert()) is True


def test_what_deepspeed_said_is_evidence(two: RunStore) -> None:
    with pytest.raises(CheckpointUnusable) as caught:
        universal.make(two, told(two), Convert(AssertionError("Steps [1, 2] are not equal")))
    assert caught.value.evidence[-1] == "AssertionError: Steps [1, 2] are not equal"
    assert len(caught.value.evidence) <= 6
    assert "falls back to the next verified checkpoint" in caught.value.hint


@pytest.mark.fault("F62")
def test_a_replaced_leader_converts_nothing(two: RunStore) -> None:
    assert incarnations.claim(two, incarnation(3))
    convert = Convert()
    with pytest.raises(Fenced):
        universal.make(two, told(two), convert)
    assert convert.calls == 0


def test_a_leader_replaced_meanwhile_publishes_nothing(two: RunStore) -> None:
    class Slow(Convert):
        def __call__(self, source: Path, target: Path) -> None:
            super().__call__(source, target)
            assert incarnations.claim(two, incarnation(3))

    with pytest.raises(Fenced):
        universal.make(two, told(two), Slow())
    assert leftovers(two) == []


def test_who_is_overtaken_while_converting_leaves_the_others_copy_alone(two: RunStore) -> None:
    class Overtaken(Convert):
        def __call__(self, source: Path, target: Path) -> None:
            super().__call__(source, target)
            assert incarnations.claim(two, incarnation(3, resume=NAME))
            assert universal.make(two, told(two, 3), Convert()) is True

    # The other has taken this one's directory for a leftover.
    with pytest.raises(Fenced):
        universal.make(two, told(two), Overtaken())
    assert is_whole(two)


def test_who_is_overtaken_while_hashing_leaves_the_others_copy_alone(
    two: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow one has seen no copy, and would clear away the one that the other's ranks are loading."""
    verify, others = manifests.verify, Convert()

    def slow(*arguments: Any, **named: Any) -> list[str]:
        monkeypatch.setattr(manifests, "verify", verify)
        problems = verify(*arguments, **named)
        assert incarnations.claim(two, incarnation(3, resume=NAME))
        assert universal.make(two, told(two, 3), others) is True
        return problems

    monkeypatch.setattr(manifests, "verify", slow)
    mine = Convert()
    with pytest.raises(Fenced):
        universal.make(two, told(two), mine)
    assert (mine.calls, others.calls) == (0, 1)
    assert is_whole(two) and leftovers(two) == ["universal"]


def test_what_a_newer_incarnation_is_writing_is_no_leftover(two: RunStore) -> None:
    for number in (1, 2, 3):
        two.make(f"{NAME}/{TEMPORARY}universal.i{number}")
    universal._clear(two, NAME, 2)
    assert leftovers(two) == [f"{TEMPORARY}universal.i3"]


def test_a_copy_that_appears_meanwhile_is_taken(two: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal, "_clear", lambda *_: None)

    class Overtaken(Convert):
        def __call__(self, source: Path, target: Path) -> None:
            super().__call__(source, target)
            assert universal.make(two, told(two, 3), Convert()) is True

    assert universal.make(two, told(two), Overtaken()) is False
    assert is_whole(two) and leftovers(two) == ["universal"]


def test_a_copy_that_cannot_be_moved_away_is_told_of(two: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    two.make(universal.copy_of(NAME))
    (two.path(universal.copy_of(NAME)) / "unknown").touch()
    monkeypatch.setattr(universal, "_clear", lambda *_: None)
    with pytest.raises(StoreUnusable, match="cannot be replaced"):
        universal.make(two, told(two), Convert())
    assert leftovers(two) == ["universal"]


def test_a_volume_that_is_away_is_not_the_checkpoints_fault(
    two: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(manifests, "verify", away)
    with pytest.raises(CheckpointUnusable) as caught:
        universal.make(two, told(two), Convert())
    assert "Input/output error" in caught.value.evidence[0]
    monkeypatch.setattr(RunStore, "create", away)
    with pytest.raises(StoreUnusable):
        universal.make(two, told(two), Convert())


def test_a_file_that_reads_again_is_not_held_against_it(
    two: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify, failures = manifests.verify, iter([OSError(errno.EIO, "Input/output error")])

    def once(*arguments: Any, **named: Any) -> list[str]:
        for failure in failures:
            raise failure
        return verify(*arguments, **named)

    monkeypatch.setattr(manifests, "verify", once)
    assert universal.make(two, told(two), Convert()) is True


def test_it_goes_and_comes_back_with_its_checkpoint(two: RunStore) -> None:
    universal.make(two, told(two), Convert())
    assert discard(two, NAME, now=1000.0)
    assert not two.exists(universal.copy_of(NAME))
    assert restore(two, NAME)
    assert is_whole(two)


def test_retention_deletes_it_with_its_checkpoint(two: RunStore) -> None:
    universal.make(two, told(two), Convert())
    newer = [saved(two, step, number=2) for step in (20, 30, 40)]
    listed = [(manifests.read(two, name), name) for name in (NAME, *newer)]
    accepted = [
        {"name": name, "step": each.step, "incarnation": each.incarnation, "digest": each.files_digest}
        for each, name in listed
    ]
    assert incarnations.claim(two, incarnation(3, accepted=accepted, resume=newer[-1]))
    assert retain(two, incarnation=3, keep_last=2, clock=lambda: 1000.0) == [NAME, newer[0]]
    assert purge(two, incarnation=3, clock=lambda: 9000.0)
    assert list(two.path(TRASH).iterdir()) == []
    assert not list(two.root.rglob("universal"))


# --- a crash at every operation -----------------------------------------------------------------------


def operations(root: Path) -> int:
    """How many operations a conversion is made of."""
    store = begun(root)
    with Disk(root) as disk:
        universal.make(store, told(store), Convert())
    return disk.count


def begun(root: Path) -> RunStore:
    store = RunStore(root)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    saved(store)
    assert incarnations.claim(store, incarnation(2, resume=NAME))
    return store


@pytest.mark.fault("F60")
def test_killed_at_any_operation_it_is_whole_or_absent_and_the_next_start_makes_it(tmp_path: Path) -> None:
    count = operations(tmp_path / "whole")
    assert count > 20
    for number in range(1, count + 1):
        store = begun(tmp_path / f"killed-{number}")
        with Disk(store.root, die_at=number), contextlib.suppress(Killed):
            universal.make(store, told(store), Convert())
        assert found(store) is None or is_whole(store), number
        assert incarnations.claim(store, incarnation(3, resume=NAME))
        universal.make(store, told(store, 3), Convert())
        assert is_whole(store), number
        assert leftovers(store) == ["universal"], number


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_operation_is_the_volumes_fault(tmp_path: Path, failure: int) -> None:
    count = operations(tmp_path / "whole")
    for number in range(1, count + 1):
        store = begun(tmp_path / f"failed-{number}")
        # Some operations only matter to durability or to clearing up, and are left to the next start.
        with Disk(store.root, fail_at=number, number=failure), contextlib.suppress(SaveError, StoreUnusable):
            universal.make(store, told(store), Convert())
        assert found(store) is None or is_whole(store), number
        universal.make(store, told(store), Convert())
        assert is_whole(store), number
