"""A manifest commits a checkpoint once, behind the fence, and every damage is seen."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from windlass.api.contract import FileEntry
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.choose import candidate, choose
from windlass_workloads.checkpoint.errors import Fenced, SaveError
from windlass_workloads.checkpoint.store import MANIFEST, RunStore
from workloads.checkpoint.damage import KINDS, damage
from workloads.checkpoint.support import commit, incarnation, manifest_of, write_files


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path)
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    return store


def problems_of(store: RunStore, name: str) -> list[str]:
    return manifests.verify(store.path(name), manifests.read(store, name), deep=True)


def test_a_committed_checkpoint_verifies(store: RunStore) -> None:
    name = commit(store, 10, 1)
    assert problems_of(store, name) == []
    assert manifests.total_bytes(manifests.read(store, name)) == 4000


def test_the_digest_covers_path_size_and_content_in_any_order() -> None:
    first, second = FileEntry(path="a", size=1, xxh3="0"), FileEntry(path="b", size=1, xxh3="0")
    base = manifests.files_digest([first, second])
    assert manifests.files_digest([second, first]) == base
    for change in ({"path": "c"}, {"size": 2}, {"xxh3": "1"}):
        assert manifests.files_digest([first, second.model_copy(update=change)]) != base


def test_a_commit_is_refused_when_somebody_has_taken_over(store: RunStore) -> None:
    write_files(store, 10, 1)
    manifest = manifest_of(store, 10, 1)
    incarnations.claim(store, incarnation(2))
    with pytest.raises(
        Fenced, match=r"incarnation 1 may not commit step-00000010\.i1, incarnation 2 has taken over"
    ):
        manifests.commit(store, "step-00000010.i1", manifest)
    assert not store.exists(f"step-00000010.i1/{MANIFEST}")


def test_a_checkpoint_is_committed_once(store: RunStore) -> None:
    name = commit(store, 10, 1)
    with pytest.raises(SaveError, match=r"checkpoint step-00000010\.i1: is committed already"):
        manifests.commit(store, name, manifest_of(store, 10, 1, files=[], files_digest="x"))


def test_a_manifest_must_be_for_its_directory(store: RunStore) -> None:
    write_files(store, 10, 1)
    with pytest.raises(SaveError, match=r"checkpoint step-00000010\.i1: its manifest is of step 11\.i1"):
        manifests.commit(store, "step-00000010.i1", manifest_of(store, 10, 1).model_copy(update={"step": 11}))


@pytest.mark.parametrize("path", ["../step-00000005.i1/weights.bin", "/etc/passwd", "shard/../../x", "a\\b"])
def test_paths_out_of_the_directory_are_refused_in_both_directions(store: RunStore, path: str) -> None:
    write_files(store, 10, 1)
    entry = FileEntry(path=path, size=1, xxh3="0")
    bad = manifest_of(store, 10, 1, files=[entry], files_digest=manifests.files_digest([entry]))
    with pytest.raises(ValueError, match="allowed a relative path"):
        manifests.commit(store, "step-00000010.i1", bad)
    store.write(f"step-00000010.i1/{MANIFEST}", manifests.encode(bad))
    assert problems_of(store, "step-00000010.i1") == [f"{path}: is not a plain relative path"]


@pytest.mark.parametrize("where", ["weights.bin", "shard"])
def test_symbolic_links_are_refused_even_with_the_right_content(store: RunStore, where: str) -> None:
    name = commit(store, 10, 1)
    target = store.path(name) / where
    elsewhere = store.root / "elsewhere"
    os.rename(target, elsewhere)
    target.symlink_to(elsewhere)
    (problem,) = problems_of(store, name)
    assert problem.endswith("is not a plain file of this directory")


@pytest.mark.fault("F53")
@pytest.mark.fault("F54")
@pytest.mark.fault("F55")
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_newest_falls_back_to_the_one_before(store: RunStore, kind: str, seed: int) -> None:
    older, newer = commit(store, 10, 1), commit(store, 20, 1)
    damage(store.path(newer), kind, random.Random(seed))
    newest = incarnations.newest(store)
    poisoned: set[str] = set()
    choice = choose(store, newest, "Latest")
    if choice.name == newer:
        # Sizes cannot tell a flipped bit; loading hashes, and two failures poison the name.
        assert kind == "flipped file"
        assert problems_of(store, newer)
        poisoned.add(newer)
        choice = choose(store, newest, "Latest", poisoned=poisoned)
    assert choice.name == older
    assert problems_of(store, older) == []
    assert [each.name for each in choice.accepted] == [older]
    assert newer in {each.name for each in choice.rejected}


def test_every_single_flipped_bit_of_a_manifest_is_seen(store: RunStore) -> None:
    data = manifests.encode(manifest_of(store, 10, 1, files=[], files_digest=manifests.files_digest([])))
    for position in range(len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        try:
            same = manifests.decode(bytes(flipped)) == manifests.decode(data)
        except manifests.ManifestInvalid:
            continue
        assert same, f"byte {position}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the manifest is not JSON"),
        (b"[]", "the manifest is not an object"),
        (b"{}", "the manifest's own digest does not match"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(data: bytes, message: str) -> None:
    with pytest.raises(manifests.ManifestInvalid, match=message):
        manifests.decode(data)


def test_a_manifest_of_a_later_version_is_a_problem_not_a_crash(store: RunStore) -> None:
    name = commit(store, 10, 1)
    wire = json.loads(store.read(f"{name}/{MANIFEST}") or b"")
    del wire[manifests.SELF_DIGEST]
    wire["shape"] = "new"
    wire[manifests.SELF_DIGEST] = manifests._self_digest(wire)
    store.write(f"{name}/{MANIFEST}", json.dumps(wire).encode())
    assert candidate(store, name).problem == "the manifest has a wrong form: Extra inputs are not permitted"


def test_a_list_that_does_not_match_its_digest_is_seen(store: RunStore) -> None:
    write_files(store, 10, 1)
    with pytest.raises(manifests.ManifestInvalid, match="the digest over the list of files does not match"):
        manifests.decode(manifests.encode(manifest_of(store, 10, 1, files_digest="other")))


def test_a_moved_checkpoint_is_not_taken_for_another_step(store: RunStore) -> None:
    name = commit(store, 10, 1)
    assert store.move(name, "step-00000090.i1")
    assert candidate(store, "step-00000090.i1").problem == "the manifest is of step 10, incarnation 1"


def test_a_name_that_is_not_a_checkpoints_is_refused(store: RunStore) -> None:
    with pytest.raises(
        ValueError, match=r"name: not a checkpoint's \(got 'prepared'\); allowed step-<8 digits>"
    ):
        candidate(store, "prepared")
