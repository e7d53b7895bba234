"""A volume that does not answer says nothing about the checkpoints on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from windlass.api.meta import ExitCode, Reason
from windlass_workloads.checkpoint import incarnations, manifest, randomness, reader
from windlass_workloads.checkpoint.errors import CheckpointUnusable, StoreUnusable
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.train.failures import failure_of
from workloads.checkpoint.support import context, incarnation, manifest_of, write_files

NAME = "step-00000010.i1"
OUTAGE = [errno.EIO, errno.ESTALE, errno.ENOTCONN]


class Engine:
    """State whose loading is only noted."""

    strategy = "DeepSpeed-2"
    format = "DeepSpeed"

    def __init__(self) -> None:
        self.loaded: list[Path] = []

    def save_directory(self, directory: Path) -> None:
        raise AssertionError("nothing is saved here")

    def load_directory(self, directory: Path) -> None:
        self.loaded.append(directory)

    def owner_of(self, path: str) -> int:
        return 0


class Volume:
    """Lets reads of files fail a number of times, and writes as long as `away`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = 0
        self.away = False
        self.number = errno.EIO
        hash_file, link = manifest.hash_file, os.link

        def read(path: Path) -> str:
            if self.failing:
                self.failing -= 1
                raise OSError(self.number, os.strerror(self.number), str(path))
            return hash_file(path)

        def write(source: object, target: object) -> None:
            if self.away:
                raise OSError(self.number, os.strerror(self.number))
            link(source, target)

        monkeypatch.setattr(manifest, "hash_file", read)
        monkeypatch.setattr(os, "link", write)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    directory = write_files(store, 10, 1)
    randomness.write(directory / randomness.file_of(0), randomness.capture())
    manifest.commit(store, NAME, manifest_of(store, 10, 1, format="DeepSpeed", strategy="DeepSpeed-2"))
    return store


@pytest.fixture
def volume(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(monkeypatch)


def load(store: RunStore) -> list[Path]:
    engine = Engine()
    reader.load(store=store, context=context(store.root, resume=NAME), state=engine)
    return engine.loaded


@pytest.mark.parametrize("number", OUTAGE, ids=errno.errorcode.get)
def test_an_outage_is_told_as_storage_and_blames_no_checkpoint(
    store: RunStore, volume: Volume, number: int
) -> None:
    volume.failing, volume.away, volume.number = 99, True, number
    with pytest.raises(StoreUnusable) as caught:
        load(store)
    failure, code = failure_of(caught.value)
    assert (failure.reason, code) == (Reason.STORAGE, ExitCode.STORAGE)
    assert failure.message.startswith(
        f"StoreUnusable: spec.checkpoint.store: the volume does not answer while checkpoint {NAME} is verified (got "
    )
    assert os.strerror(number) in failure.message


def test_a_volume_that_answers_again_is_read_again(store: RunStore, volume: Volume) -> None:
    volume.failing = 1
    assert load(store) == [store.path(NAME)]


def test_a_file_that_alone_cannot_be_read_is_damage(store: RunStore, volume: Volume) -> None:
    volume.failing = 99
    with pytest.raises(CheckpointUnusable, match="its content is damaged") as caught:
        load(store)
    assert os.strerror(errno.EIO) in caught.value.evidence[0]


def test_damage_seen_beside_an_outage_is_damage(
    store: RunStore, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rank reads its share and finds it altered, while this one's node has lost the volume."""
    volume.failing, volume.away = 99, True
    group = reader.SaveGroup()
    monkeypatch.setattr(group, "gather", lambda mine: [mine, (["weights.bin: is missing"], None)])
    with pytest.raises(CheckpointUnusable) as caught:
        reader.load(store=store, context=context(store.root, resume=NAME), state=Engine(), group=group)
    assert caught.value.evidence == ("weights.bin: is missing",)
