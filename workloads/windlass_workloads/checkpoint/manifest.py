"""Manifests: what a checkpoint consists of, written last. A directory without one does not exist.

Ranks build and commit them; agents and readers verify. The commit is fenced by incarnation files.
Must never trust a path in a manifest: it was read from a shared volume.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import xxhash
from pydantic import ValidationError

from windlass.api.contract import Conversion, FileEntry, Manifest
from windlass_workloads.checkpoint.errors import SaveError
from windlass_workloads.checkpoint.incarnations import require_newest
from windlass_workloads.checkpoint.store import MANIFEST, RunStore, check_relative, parse_checkpoint_name

SELF_DIGEST: Final = "manifestDigest"
"""Key beside the model's own in the file: sha256 of the rest, so that a flipped bit here is seen too."""

BLOCK_BYTES: Final = 4 << 20

Kind = TypeVar("Kind", Manifest, Conversion)


class ManifestInvalid(ValueError):
    """A manifest that is missing, torn, altered or not for its directory."""


def hash_file(path: Path) -> str:
    """xxh3-128 of a file's content as 32 hex digits."""
    digest = xxhash.xxh3_128()
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def entry_of(directory: Path, relative: str) -> FileEntry:
    """The entry of a file that is complete on disk."""
    path = directory / check_relative(relative)
    return FileEntry(path=relative, size=path.stat().st_size, xxh3=hash_file(path))


def files_digest(entries: Iterable[FileEntry]) -> str:
    """sha256 over the sorted entries: the checkpoint's digest."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda each: each.path):
        digest.update(f"{entry.path}\0{entry.size}\0{entry.xxh3}\n".encode())
    return digest.hexdigest()


def total_bytes(manifest: Manifest) -> int:
    """Size of a checkpoint without its manifest."""
    return sum(entry.size for entry in manifest.files)


def encode(manifest: Manifest | Conversion) -> bytes:
    """The bytes of manifest.json."""
    wire = manifest.model_dump(mode="json", by_alias=True)
    return (json.dumps({**wire, SELF_DIGEST: _self_digest(wire)}, indent=1) + "\n").encode()


def decode(data: bytes) -> Manifest:
    """The manifest in these bytes; ManifestInvalid says what is wrong."""
    return decode_as(Manifest, data)


def decode_as(kind: type[Kind], data: bytes) -> Kind:
    """The manifest of this kind in these bytes; ManifestInvalid says what is wrong."""
    try:
        wire = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest is not JSON: {error}") from error
    if not isinstance(wire, dict):
        raise ManifestInvalid("the manifest is not an object")
    if wire.pop(SELF_DIGEST, None) != _self_digest(wire):
        raise ManifestInvalid("the manifest's own digest does not match")
    try:
        manifest = kind.model_validate_json(json.dumps(wire))
    except ValidationError as error:
        raise ManifestInvalid(f"the manifest has a wrong form: {error.errors()[0]['msg']}") from error
    if files_digest(manifest.files) != manifest.files_digest:
        raise ManifestInvalid("the digest over the list of files does not match")
    return manifest


def read(store: RunStore, name: str) -> Manifest:
    """The manifest of a checkpoint directory, checked against the directory's name."""
    data = store.read(f"{name}/{MANIFEST}")
    if data is None:
        raise ManifestInvalid("there is no manifest: the save never finished")
    manifest = decode(data)
    if parse_checkpoint_name(name) != (manifest.step, manifest.incarnation):
        raise ManifestInvalid(f"the manifest is of step {manifest.step}, incarnation {manifest.incarnation}")
    return manifest


def commit(store: RunStore, name: str, manifest: Manifest) -> None:
    """Makes a checkpoint exist. Fenced when a newer incarnation does; SaveError when it exists already.

    All files and directories must be durable before. A takeover between the check and the write is
    harmless: the newer incarnation has not accepted this checkpoint, so nobody resumes from it.
    """
    if parse_checkpoint_name(name) != (manifest.step, manifest.incarnation):
        raise SaveError(f"checkpoint {name}: its manifest is of step {manifest.step}.i{manifest.incarnation}")
    for entry in manifest.files:
        check_relative(entry.path)
    require_newest(store, manifest.incarnation, f"commit {name}")
    if not store.create(f"{name}/{MANIFEST}", encode(manifest)):
        raise SaveError(f"checkpoint {name}: is committed already")


def verify(
    directory: Path, manifest: Manifest | Conversion, *, deep: bool, only: Sequence[FileEntry] | None = None
) -> list[str]:
    """What is wrong with a checkpoint's files, at most one line per file; empty when nothing is.

    Shallow compares sizes; deep also hashes. `only` limits the work to some entries (a rank's share).
    """
    problems: list[str] = []
    for entry in manifest.files if only is None else only:
        problem = _problem_of(directory, entry, deep)
        if problem is not None:
            problems.append(f"{entry.path}: {problem}")
    return problems


def _problem_of(directory: Path, entry: FileEntry, deep: bool) -> str | None:
    try:
        path = directory / check_relative(entry.path)
    except ValueError:
        return "is not a plain relative path"
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if (
        not stat.S_ISREG(status.st_mode)
        or path.parent.resolve() != directory.resolve() / Path(entry.path).parent
    ):
        return "is not a plain file of this directory"
    if status.st_size != entry.size:
        return f"has {status.st_size} bytes, expected {entry.size}"
    if deep and (found := hash_file(path)) != entry.xxh3:
        return f"has digest {found}, expected {entry.xxh3}"
    return None


def _self_digest(wire: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(wire, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
