"""A process dies, or its disk fails, at every single operation of everything that changes the store.

Whatever is left, the next leader finds a state that counts, and what it chooses is whole.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from windlass.core.checkpoints.choose import objection
from windlass_workloads.checkpoint import choose, incarnations, ledger
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.incarnations import Claimant, may_claim
from windlass_workloads.checkpoint.retention import purge, retain
from windlass_workloads.checkpoint.store import MANIFEST, RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from workloads.checkpoint.faulty import Disk, Killed
from workloads.checkpoint.support import Events, commit, context, incarnation, manifest_of

AT_TEN, AT_TWENTY = "step-00000010.i1", "step-00000020.i1"
ERRORS = (errno.ENOSPC, errno.EROFS)


def prepared(root: Path) -> RunStore:
    """A run in its first incarnation with a verified checkpoint at step 10."""
    store = RunStore(root)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    commit(store, 10, 1)
    return store


class State:
    """What a loop hands over: a few tensors."""

    strategy = "DDP"
    format = "DCP"

    def __init__(self) -> None:
        self.values = {"weights": torch.arange(64.0), "bias": torch.ones(3)}

    def state_dict(self) -> dict[str, Any]:
        return {"model": dict(self.values), "plain": "{}"}

    by_name = state_dict


def writer_of(store: RunStore, events: Events | None = None, number: int = 1) -> CheckpointWriter:
    return CheckpointWriter(
        store=store,
        context=context(store.root, number=number),
        channel=events or Events(),
        state=State(),
        asynchronous=False,
    )


def save_by_hand(store: RunStore) -> None:
    """The steps of a save, without torch."""
    directory = store.make(AT_TWENTY)
    (directory / "weights.bin").write_bytes(b"w" * 100)
    store.write(f"{AT_TWENTY}/rank-0.files.json", b"[]")
    manifests.commit(store, AT_TWENTY, manifest_of(store, 20, 1))


def save_by_writer(store: RunStore) -> None:
    writer_of(store).save(20)


def save_over_leftovers(store: RunStore) -> None:
    """The directory is there already: an earlier save of the same step came to nothing."""
    writer_of(store).save(20)


def claim(store: RunStore) -> None:
    newest = incarnations.newest(store)
    choice = choose.choose(store, newest, "Latest")
    incarnations.claim(store, incarnation(2, accepted=list(choice.accepted), resume=choice.name))


def claim_with_restoring(store: RunStore) -> None:
    claim(store)


def clear(store: RunStore) -> None:
    """Retention and the emptying of the trash, the delay being over."""
    retain(store, incarnation=1, keep_last=1, clock=lambda: 1000.0)
    purge(store, incarnation=1, delay_seconds=0.0, clock=lambda: 2000.0)


def keep_records(store: RunStore) -> None:
    store.append_line("timeline.jsonl", {"at": 1.0})
    store.write("leader.json", b'{"at": 2.0}')
    store.create("gang.key", b"00" * 32, mode=0o600)
    store.remove("leader.json")


def more_checkpoints(store: RunStore) -> None:
    for step in (12, 14):
        commit(store, step, 1)


def leftovers(store: RunStore) -> None:
    (store.make(AT_TWENTY) / "__0_0.distcp").write_bytes(b"half")


def discarded(store: RunStore) -> None:
    store.move(AT_TEN, f"trash/1~{AT_TEN}")


ACTIONS: dict[str, tuple[Callable[[RunStore], None], Callable[[RunStore], None]]] = {
    "save by hand": (lambda store: None, save_by_hand),
    "save by the writer": (lambda store: None, save_by_writer),
    "save over leftovers": (leftovers, save_over_leftovers),
    "claim": (lambda store: None, claim),
    "clear": (more_checkpoints, clear),
    "records": (lambda store: None, keep_records),
}


def operations(root: Path, action: str) -> int:
    before, act = ACTIONS[action]
    store = prepared(root)
    before(store)
    with Disk(root) as disk:
        act(store)
    return disk.count


def survivors(store: RunStore) -> list[str]:
    newest = incarnations.newest(store)
    return [each.name for each in choose.candidates(store) if objection(each, newest) is None]


def check_whole(store: RunStore, least: int = 10) -> None:
    """What any next leader must find, and be able to do."""
    newest = incarnations.newest(store)
    assert newest is not None
    choice = choose.choose(store, newest, "Latest")
    assert choice.problem is None
    assert choice.step >= least, "verified work is never lost"
    manifest = manifests.read(store, choice.name)
    assert manifests.verify(store.path(choice.name), manifest, deep=True) == []
    assert next(iter(ledger.rows(store, newest))).step == choice.step
    me = Claimant("next", ticket=99, attempt=1)
    assert may_claim(newest, me)
    number = newest.incarnation + 1
    record = incarnation(
        number, owner_pod_uid="next", ticket=99, accepted=list(choice.accepted), resume=choice.name
    )
    store.probe()
    assert incarnations.claim(store, record)
    name = commit(store, choice.step + 5, number)
    assert choose.choose(store, incarnations.newest(store), "Latest").name == name
    retain(store, incarnation=number, keep_last=2)
    purge(store, incarnation=number, delay_seconds=-1.0)
    assert name in survivors(store) and choice.name in survivors(store)


@pytest.mark.fault("F53")
@pytest.mark.parametrize("action", list(ACTIONS))
def test_a_kill_at_any_operation_leaves_a_store_that_counts(tmp_path: Path, action: str) -> None:
    total = operations(tmp_path / "whole", action)
    assert total >= 4
    before, act = ACTIONS[action]
    for number in range(1, total + 1):
        root = tmp_path / f"killed-{number}"
        store = prepared(root)
        before(store)
        with Disk(root, die_at=number) as disk, pytest.raises(Killed):
            act(store)
        assert disk.dead
        assert set(survivors(store)) <= {AT_TEN, AT_TWENTY, "step-00000012.i1", "step-00000014.i1"}
        check_whole(RunStore(root))


@pytest.mark.fault("F56")
@pytest.mark.parametrize("action", list(ACTIONS))
def test_a_disk_that_fails_once_at_any_operation_leaves_a_store_that_counts(
    tmp_path: Path, action: str
) -> None:
    total = operations(tmp_path / "whole", action)
    before, act = ACTIONS[action]
    for position in range(1, total + 1):
        root = tmp_path / f"failed-{position}"
        store = prepared(root)
        before(store)
        with Disk(root, fail_at=position, number=errno.EIO) as disk:
            try:
                act(store)
            except (OSError, CheckpointError) as error:
                assert str(error)
        assert disk.count >= position
        check_whole(RunStore(root))


def test_a_claim_that_brings_back_what_was_discarded_may_die_anywhere(tmp_path: Path) -> None:
    def build(root: Path) -> RunStore:
        store = prepared(root)
        discarded(store)
        return store

    with Disk(tmp_path / "whole") as disk:
        claim(build(tmp_path / "whole"))
    for number in range(1, disk.count + 1):
        root = tmp_path / f"killed-{number}"
        store = build(root)
        with Disk(root, die_at=number), contextlib.suppress(Killed):
            claim(store)
        # An incarnation that accepts nothing would be lost work, one that accepts what is gone a dead end.
        newest = incarnations.newest(store)
        if newest.incarnation == 2 and newest.accepted:
            check_whole(RunStore(root))


# --- the writer's own words about it -------------------------------------------------------------------


def writer_operations(root: Path) -> list[tuple[str, str]]:
    store = prepared(root)
    with Disk(root) as disk:
        writer_of(store).save(20)
    return disk.log


@pytest.mark.fault("F56")
@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
def test_a_save_that_fails_says_so_and_the_next_one_succeeds(tmp_path: Path, number: int) -> None:
    log = writer_operations(tmp_path / "whole")
    outcomes = set()
    for position in range(1, len(log) + 1):
        root = tmp_path / f"failed-{position}"
        store, events = prepared(root), Events()
        writer = writer_of(store, events)
        with Disk(root, fail_at=position, number=number):
            writer.save(20)
        problem = writer.failed
        outcomes.add(problem is None)
        if problem is None:
            assert store.exists(f"{AT_TWENTY}/{MANIFEST}"), f"nothing failed at {log[position - 1]}"
            assert [event.type for event in events.sent] == ["Checkpoint"]
        else:
            (event,) = events.of("SaveFailed")
            assert (event.step, event.message) == (20, problem)
            if number == errno.ENOSPC:
                assert "the volume is full" in problem and "keepLast" in problem, log[position - 1]
            assert survivors(store) in ([AT_TEN], [AT_TWENTY, AT_TEN])
        assert AT_TEN in survivors(store)
        writer.save(21)
        assert writer.failed is None
        assert survivors(store)[0] == "step-00000021.i1"
        check_whole(store, least=21)
    assert False in outcomes


def test_a_directory_that_cannot_be_thrown_away_does_not_hide_the_reason(tmp_path: Path) -> None:
    store, events = prepared(tmp_path), Events()
    writer = writer_of(store, events)

    def full(*_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    def stuck(*_: object) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    writer.opener = full
    store.move = stuck  # type: ignore[method-assign]
    writer.save(20)
    assert "the volume is full" in (writer.failed or "")
    assert survivors(store) == [AT_TEN]


# --- what is durable when ------------------------------------------------------------------------------


def test_a_manifest_appears_only_when_all_that_it_lists_is_durable(tmp_path: Path) -> None:
    log = writer_operations(tmp_path)
    commit_at = max(place for place, (what, path) in enumerate(log) if what == "link" and AT_TWENTY in path)
    synced = {path for what, path in log[:commit_at] if what == "fsync"}
    manifest = manifests.read(RunStore(tmp_path), AT_TWENTY)
    names = {f"{AT_TWENTY}/{entry.path}" for entry in manifest.files}
    renamed = {path for what, path in log[:commit_at] if what in ("rename", "replace")}
    for name in names:
        sources = {path for path in synced if Path(path).parent == Path(name).parent}
        assert name in synced or sources & renamed, f"{name} is not durable before the commit"
    assert AT_TWENTY in synced, "nor are the names in its directory"
    before_names = [place for place, entry in enumerate(log) if entry == ("fsync", AT_TWENTY)]
    last_name = max(
        place
        for place, (what, path) in enumerate(log[:commit_at])
        if what in ("rename", "replace") and path.startswith(AT_TWENTY)
    )
    assert any(last_name < place < commit_at for place in before_names), (
        "the directory is synced after its names"
    )
    assert any(place > commit_at for place in before_names), "the manifest's name is made durable as well"


def test_a_file_of_the_store_is_durable_before_it_has_its_name(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for act in (
        lambda: store.write("a", b"x"),
        lambda: store.create("b", b"x"),
        lambda: incarnations.claim(store, incarnation(1)),
    ):
        with Disk(tmp_path) as disk:
            act()
        kinds = [what for what, _ in disk.log if what != "mkdir"]
        named = next(place for place, what in enumerate(kinds) if what in ("link", "replace"))
        assert kinds[:named] == ["create", "write", "fsync"]
        assert kinds[named + 1] in ("fsync", "unlink") and "fsync" in kinds[named + 1 :]


def test_nothing_is_written_by_looking(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    with Disk(tmp_path) as disk:
        choose.candidates(store)
        choose.choose(store, incarnations.newest(store), "Latest")
        ledger.rows(store, incarnations.newest(store))
    assert disk.log == []
