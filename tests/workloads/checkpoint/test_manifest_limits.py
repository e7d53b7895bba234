"""Manifests at their edges: damage of every kind, strange paths, second commits, the digest of the set of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import FileEntry, Manifest
from windlass_workloads.checkpoint import choose, incarnations, ledger
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import (
    CheckpointError,
    SaveError,
)
from windlass_workloads.checkpoint.manifest import ManifestInvalid
from windlass_workloads.checkpoint.store import (
    MANIFEST,
    RunStore,
)
from workloads.checkpoint.support import NOW, commit, manifest_of, write_files

ROOT = Path(__file__).resolve().parents[3]


# --- manifests ------------------------------------------------------------------------------------------------------


def damaged(store: RunStore, damage: Callable[[bytes], bytes]) -> str:
    name = commit(store, 10, 1)
    path = store.path(f"{name}/{MANIFEST}")
    path.write_bytes(damage(path.read_bytes()))
    return name


def altered(change: Callable[[dict[str, Any]], None], *, resign: bool) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        wire = json.loads(data)
        change(wire)
        if resign:
            wire.pop(manifests.SELF_DIGEST)
            wire[manifests.SELF_DIGEST] = manifests._self_digest(wire)
        return json.dumps(wire).encode()

    return apply


DAMAGES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("empty", lambda data: b"", "not JSON"),
    ("half", lambda data: data[: len(data) // 2], "not JSON"),
    ("last byte", lambda data: data[:-3], "not JSON"),
    ("not text", lambda data: b"\xff" + data, "not JSON"),
    ("a list", lambda data: b"[]", "not an object"),
    ("null", lambda data: b"null", "not an object"),
    ("no digest", altered(lambda wire: wire.pop(manifests.SELF_DIGEST), resign=False), "own digest"),
    ("another step", altered(lambda wire: wire.update(step=11), resign=False), "own digest"),
    ("another size", altered(lambda wire: wire["files"][0].update(size=1), resign=False), "own digest"),
    ("signed, a file less", altered(lambda wire: wire["files"].pop(), resign=True), "list of files"),
    (
        "signed, another size",
        altered(lambda wire: wire["files"][0].update(size=1), resign=True),
        "list of files",
    ),
    ("signed, another step", altered(lambda wire: wire.update(step=11), resign=True), "of step 11"),
    ("signed, another life", altered(lambda wire: wire.update(incarnation=2), resign=True), "incarnation 2"),
    ("signed, a word for a number", altered(lambda wire: wire.update(step="x"), resign=True), "wrong form"),
    ("signed, a field more", altered(lambda wire: wire.update(mood="fine"), resign=True), "wrong form"),
    ("deep", lambda data: b"[" * 100_000, "not JSON"),
]


@pytest.mark.fault("F55")
@pytest.mark.parametrize(("damage", "said"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_a_damaged_manifest_is_named_and_passed_over(
    store: RunStore, damage: Callable[[bytes], bytes], said: str
) -> None:
    good = commit(store, 5, 1)
    name = damaged(store, damage)
    with pytest.raises(ManifestInvalid, match=said):
        manifests.read(store, name)
    assert said in (choose.candidate(store, name).problem or "")
    choice = choose.choose(store, incarnations.newest(store), "Latest")
    assert choice.name == good
    assert [row.name for row in ledger.rows(store, incarnations.newest(store))] == [good]


@pytest.mark.fault("F55")
def test_no_flipped_bit_of_a_manifest_goes_unseen(store: RunStore) -> None:
    name = commit(store, 10, 1)
    path = store.path(f"{name}/{MANIFEST}")
    data = path.read_bytes()
    original = manifests.read(store, name)
    unseen = []
    for place in range(0, len(data), 7):
        for bit in (1, 32):
            flipped = bytearray(data)
            flipped[place] ^= bit
            path.write_bytes(flipped)
            try:
                found = manifests.read(store, name)
            except ManifestInvalid:
                continue
            if found != original:
                unseen.append((place, bit))
    assert unseen == []


FILE_DAMAGES: list[tuple[str, Callable[[Path], None], str, bool]] = [
    ("missing", lambda path: path.unlink(), "is missing", True),
    ("shorter", lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 1999 bytes, expected 2000", True),
    (
        "longer",
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        "has 2001 bytes, expected 2000",
        True,
    ),
    ("empty", lambda path: path.write_bytes(b""), "has 0 bytes", True),
    (
        "a link",
        lambda path: (path.rename(f"{path}.x"), path.symlink_to(f"{path.name}.x")),
        "plain file",
        True,
    ),
    ("a folder", lambda path: (path.unlink(), path.mkdir()), "plain file", True),
    ("altered", lambda path: path.write_bytes(path.read_bytes()[::-1]), "has digest", False),
]


@pytest.mark.fault("F55")
@pytest.mark.parametrize("victim", ["weights.bin", "shard/optimizer.bin"])
@pytest.mark.parametrize(
    ("damage", "said", "shallow"), [row[1:] for row in FILE_DAMAGES], ids=[row[0] for row in FILE_DAMAGES]
)
def test_a_damaged_file_is_named_and_the_one_before_chosen(
    store: RunStore, victim: str, damage: Callable[[Path], Any], said: str, shallow: bool
) -> None:
    good, name = commit(store, 5, 1), commit(store, 10, 1)
    damage(store.path(name) / victim)
    manifest = manifests.read(store, name)
    (problem,) = manifests.verify(store.path(name), manifest, deep=True)
    assert problem.startswith(f"{victim}: ") and said in problem
    assert bool(manifests.verify(store.path(name), manifest, deep=False)) is shallow
    choice = choose.choose(store, incarnations.newest(store), "Latest")
    assert choice.name == (good if shallow else name)


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "a/../b", ".", "a\\b"])
def test_a_manifest_may_name_nothing_outside(store: RunStore, path: str) -> None:
    write_files(store, 10, 1)
    entry = FileEntry(path=path, size=1, xxh3="0" * 32)
    manifest = manifest_of(store, 10, 1).model_copy(
        update={"files": [entry], "files_digest": manifests.files_digest([entry])}
    )
    with pytest.raises(ValueError, match="path: leaves its directory"):
        manifests.commit(store, "step-00000010.i1", manifest)
    assert manifests.verify(store.path("step-00000010.i1"), manifest, deep=True) == [
        f"{path}: is not a plain relative path"
    ]


def test_a_folder_that_is_a_link_is_not_followed(store: RunStore, tmp_path: Path) -> None:
    name = commit(store, 10, 1)
    shard = store.path(name) / "shard"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    (problem,) = manifests.verify(store.path(name), manifests.read(store, name), deep=True)
    assert problem == "shard/optimizer.bin: is not a plain file of this directory"


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("step-00000010.i1", {"step": 11}, SaveError),
        ("step-00000010.i1", {"incarnation": 2}, SaveError),
        ("other", {}, SaveError),
    ],
)
def test_a_manifest_is_committed_into_its_own_directory_only(
    store: RunStore, name: str, fields: dict[str, Any], error: type[CheckpointError]
) -> None:
    write_files(store, 10, 1)
    with pytest.raises(error):
        manifests.commit(store, name, manifest_of(store, 10, 1).model_copy(update=fields))
    assert not store.exists(f"step-00000010.i1/{MANIFEST}")


def test_a_commit_happens_once(store: RunStore) -> None:
    name = commit(store, 10, 1)
    with pytest.raises(SaveError, match="is committed already"):
        manifests.commit(store, name, manifest_of(store, 10, 1))


@given(
    entries=st.lists(
        st.builds(
            FileEntry,
            path=st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True),
            size=st.integers(0, 1 << 40),
            xxh3=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        ),
        max_size=6,
        unique_by=lambda entry: entry.path,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_digest_is_of_the_set_of_files_and_survives_the_way_to_disk(entries: list[FileEntry]) -> None:
    assert manifests.files_digest(entries) == manifests.files_digest(entries[::-1])
    manifest = Manifest(
        run_uid="u",
        step=1,
        incarnation=1,
        world_size=1,
        strategy="DDP",
        format="DCP",
        files=entries,
        files_digest=manifests.files_digest(entries),
        created_at=NOW,
    )
    assert manifests.decode(manifests.encode(manifest)) == manifest
    assert manifests.total_bytes(manifest) == sum(entry.size for entry in entries)
    for place in range(len(entries)):
        fewer = entries[:place] + entries[place + 1 :]
        assert manifests.files_digest(fewer) != manifest.files_digest
