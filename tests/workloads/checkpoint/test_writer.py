"""One rank's saves: when they block, what they hold, what they say, and how a takeover or a failure ends them."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import Fenced
from windlass_workloads.checkpoint.files import open_file
from windlass_workloads.checkpoint.interface import SaveFacts, SaveNotes
from windlass_workloads.checkpoint.store import MANIFEST, TRASH, RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from workloads.checkpoint.support import Events, context, incarnation

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class State:
    """A few tensors under DCP."""

    strategy = "DDP"
    format = "DCP"

    def __init__(self) -> None:
        self.weights = torch.arange(32.0)
        self.taken = 0

    def state_dict(self) -> dict[str, Any]:
        self.taken += 1
        return {"model": {"weights": self.weights}, "plain": '{"counters": {}}'}

    by_name = state_dict


class Engine:
    """An engine that writes its own files."""

    strategy = "DeepSpeed-1"
    format = "DeepSpeed"

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def save_directory(self, directory: Path) -> None:
        (directory / "tag").mkdir()
        (directory / "tag" / "states.pt").write_bytes(b"engine")
        if self.number is not None:
            raise OSError(self.number, "refused")
        (directory / "latest").write_text("tag")

    def owner_of(self, path: str) -> int:
        return 0


def writer(
    store: RunStore, state: Any = None, events: Events | None = None, **options: Any
) -> CheckpointWriter:
    number, resume = options.pop("number", 1), options.pop("resume", None)
    return CheckpointWriter(
        store=store,
        context=context(store.root, number=number, resume=resume),
        channel=events or Events(),
        state=state or State(),
        **options,
    )


def weights_of(store: RunStore, name: str) -> list[float]:
    target = {"state": {"model": {"weights": torch.zeros(32)}}}
    dcp.load(target, storage_reader=FileSystemReader(store.path(name)), no_dist=True)
    return target["state"]["model"]["weights"].tolist()


def held_back(mine: CheckpointWriter) -> threading.Event:
    """The writer's files wait for this event."""
    gate = threading.Event()

    def opener(path: Path, mode: str) -> Any:
        assert gate.wait(30)
        return open_file(path, mode)

    mine.opener = opener
    return gate


# --- what a save holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_save_holds_the_state_of_its_moment(store: RunStore, asynchronous: bool) -> None:
    state = State()
    mine = writer(store, state, asynchronous=asynchronous)
    gate = held_back(mine)
    wanted = state.weights.tolist()
    if not asynchronous:
        gate.set()
    mine.save(10)
    state.weights.fill_(-1.0)
    gate.set()
    result = mine.wait()
    assert result is not None and result.record is not None and result.problem is None
    assert weights_of(store, "step-00000010.i1") == wanted


def test_training_goes_on_while_a_save_is_written_and_the_next_one_waits(store: RunStore) -> None:
    state, events = State(), Events()
    mine = writer(store, state, events)
    gate = held_back(mine)
    mine.save(10)
    assert events.sent == [] and not store.exists(f"step-00000010.i1/{MANIFEST}")
    threading.Timer(0.05, gate.set).start()
    state.weights.fill_(5.0)
    mine.save(20)
    assert store.exists(f"step-00000010.i1/{MANIFEST}"), "one at a time"
    mine.wait()
    assert [event.step for event in events.of("Checkpoint")] == [10, 20]
    assert weights_of(store, "step-00000020.i1") == [5.0] * 32


def test_a_blocking_save_is_there_when_it_returns(store: RunStore) -> None:
    mine = writer(store)
    mine.save(10, blocking=True, notes=SaveNotes(validation_loss=0.25, recent_losses=(3.5, 3.25)))
    manifest = manifests.read(store, "step-00000010.i1")
    assert manifest.validation_loss == 0.25
    assert manifest.recent_losses == [3.5, 3.25]
    assert manifests.verify(store.path("step-00000010.i1"), manifest, deep=True) == []


@pytest.mark.parametrize("step", [0, -1])
def test_there_is_nothing_to_save_before_the_first_step(store: RunStore, step: int) -> None:
    state = State()
    with pytest.raises(ValueError, match=rf"step: nothing to save before the first step \(got {step}\)"):
        writer(store, state).save(step)
    assert state.taken == 0 and store.list_checkpoints() == []


def test_a_state_that_cannot_be_taken_is_the_loops_own_error(store: RunStore) -> None:
    class Broken(State):
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("no state")

    events = Events()
    with pytest.raises(RuntimeError, match="no state"):
        writer(store, Broken(), events).save(10)
    assert events.sent == [] and store.list_checkpoints() == []


# --- what is written about it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
def test_the_event_tells_stall_and_writing(store: RunStore, blocking: bool) -> None:
    events = Events()
    mine = writer(store, State(), events)
    mine.save(10, blocking=blocking)
    mine.wait()
    (event,) = events.of("Checkpoint")
    assert (event.step, event.rank, event.message) == (10, 0, "blocking" if blocking else None)
    assert event.stall_seconds >= 0 and event.write_seconds >= 0
    if blocking:
        assert event.stall_seconds == event.write_seconds
    manifest = manifests.read(store, event.checkpoint.name)
    assert (event.checkpoint.digest, event.checkpoint.bytes) == (
        manifest.files_digest,
        manifests.total_bytes(manifest),
    )


def test_the_manifest_knows_its_facts_and_its_parent(store: RunStore) -> None:
    facts = SaveFacts(data_digest="sha256:d", precision="BF16", skipped_windows=((3, 5),))
    mine = writer(store, facts=facts, resume="step-00000005.i0", asynchronous=False)
    for step in (10, 20):
        mine.save(step)
    first, second = (manifests.read(store, f"step-{step:08d}.i1") for step in (10, 20))
    assert (first.data_digest, first.precision, first.skipped_windows) == ("sha256:d", "BF16", [(3, 5)])
    assert (first.parent, second.parent) == ("step-00000005.i0", "step-00000010.i1")
    assert (first.world_size, first.strategy, first.format, first.incarnation) == (1, "DDP", "DCP", 1)
    assert (first.global_batch_size, first.run_uid) == (4, mine.context.config.run.uid)


def test_a_save_that_failed_is_nobodys_parent(store: RunStore) -> None:
    mine = writer(store, asynchronous=False)
    mine.save(10)

    def full(path: Path, mode: str) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    mine.opener = full
    mine.save(20)
    assert mine.failed is not None
    mine.opener = open_file
    mine.save(30)
    assert mine.failed is None
    assert manifests.read(store, "step-00000030.i1").parent == "step-00000010.i1"


def test_what_is_committed_is_not_written_again(store: RunStore) -> None:
    mine = writer(store, asynchronous=False)
    mine.save(10)
    before = store.read(f"step-00000010.i1/{MANIFEST}")
    events = Events()
    again = writer(store, State(), events, asynchronous=False)
    again.save(10)
    assert store.read(f"step-00000010.i1/{MANIFEST}") == before
    assert [event.type for event in events.sent] == ["Checkpoint"]
    assert store.names(TRASH) == []


def test_what_an_unfinished_save_left_goes_to_the_trash_first(store: RunStore) -> None:
    (store.make("step-00000010.i1") / "__0_0.distcp").write_bytes(b"half")
    mine = writer(store, asynchronous=False)
    mine.save(10)
    assert mine.failed is None
    (entry,) = store.names(TRASH)
    assert store.read(f"{TRASH}/{entry}/__0_0.distcp") == b"half"


# --- a takeover --------------------------------------------------------------------------------------------------


@pytest.mark.fault("F25")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_replaced_rank_saves_nothing_and_is_told(store: RunStore, asynchronous: bool) -> None:
    events = Events()
    mine = writer(store, State(), events, asynchronous=asynchronous)
    assert incarnations.claim(store, incarnation(2))
    with pytest.raises(Fenced) as caught:
        mine.save(10)
        mine.wait()
    assert (caught.value.mine, caught.value.newest) == (1, 2)
    assert store.list_checkpoints() == []
    assert [event.type for event in events.sent] == ["SaveFailed"]
    with pytest.raises(Fenced):
        mine.wait()
    with pytest.raises(Fenced):
        mine.save(20)


@pytest.mark.fault("F25")
def test_a_takeover_while_files_are_written_forbids_the_commit(store: RunStore) -> None:
    mine = writer(store)
    gate = held_back(mine)
    mine.save(10)
    assert incarnations.claim(store, incarnation(2))
    gate.set()
    with pytest.raises(Fenced, match="may not commit step 10"):
        mine.wait()
    assert not store.exists(f"step-00000010.i1/{MANIFEST}")
    after = writer(store, number=2, asynchronous=False)
    after.save(10)
    assert after.failed is None and store.exists(f"step-00000010.i2/{MANIFEST}")


# --- an engine's own files -----------------------------------------------------------------------------------------


def test_an_engines_files_are_hashed_and_its_saves_block(store: RunStore) -> None:
    events = Events()
    mine = writer(store, Engine(), events)
    mine.save(10)
    (event,) = events.of("Checkpoint")
    assert event.message == "blocking"
    manifest = manifests.read(store, "step-00000010.i1")
    assert manifest.format == "DeepSpeed"
    paths = {entry.path for entry in manifest.files}
    assert {"latest", "tag/states.pt", "rank-0.files.json"} <= paths and len(paths) == 4
    assert manifests.verify(store.path("step-00000010.i1"), manifest, deep=True) == []


@pytest.mark.fault("F56")
@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "the volume is full"), (errno.EIO, "OSError")])
def test_an_engine_that_fails_leaves_the_last_good_one(store: RunStore, number: int, said: str) -> None:
    writer(store, Engine()).save(10)
    events = Events()
    mine = writer(store, Engine(number), events)
    mine.save(20)
    assert said in (mine.failed or "")
    assert [event.type for event in events.sent] == ["SaveFailed"]
    assert store.list_checkpoints() == ["step-00000010.i1"]
    assert [entry.split("~")[1] for entry in store.names(TRASH)] == ["step-00000020.i1"]
