"""The universal copy of a DeepSpeed checkpoint, which any number of ranks can load.

DeepSpeed's own files belong to the number of ranks that wrote them. `make` has them converted once, in a process of
its own (train.conversion); reader loads the copy. It lies in its checkpoint's directory, so that retention, trash and
takeovers move both as one, and it is whole or absent: written under a temporary name, manifest last, then renamed.
Must never import deepspeed, and never hand it a byte that was not hashed: it unpickles what it reads.
"""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from windlass.api.contract import Conversion, Manifest, RankContext
from windlass.core.failure.evidence import STORAGE, STORAGE_FULL
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint import randomness
from windlass_workloads.checkpoint.deepspeed import TAG
from windlass_workloads.checkpoint.errors import (
    FALL_BACK,
    STORE_FIELD,
    CheckpointUnusable,
    SaveError,
    StoreUnusable,
    is_full,
    is_out_of_memory,
)
from windlass_workloads.checkpoint.files import hash_written
from windlass_workloads.checkpoint.incarnations import require_newest
from windlass_workloads.checkpoint.store import MANIFEST, TEMPORARY, RunStore

UNIVERSAL: Final = "universal"
EVIDENCE_LINES: Final = 6

Convert = Callable[[Path, Path], None]
"""Makes the universal form of the first directory in the second, which does not exist yet."""


def is_wanted(source: Manifest, world_size: int) -> bool:
    """Whether so many ranks can load this checkpoint by its universal copy only."""
    return source.format == "DeepSpeed" and source.world_size != world_size


def copy_of(name: str) -> str:
    """Path of the universal copy of a checkpoint."""
    return f"{name}/{UNIVERSAL}"


def find(store: RunStore, name: str, source: Manifest) -> Conversion | None:
    """The copy's manifest, None when there is no copy; ManifestInvalid when it is not of this very checkpoint."""
    data = store.read(f"{copy_of(name)}/{MANIFEST}")
    if data is None:
        return None
    found = manifests.decode_as(Conversion, data)
    if (found.source, found.source_digest) != (name, source.files_digest):
        raise manifests.ManifestInvalid(f"{UNIVERSAL}: it was made from another checkpoint, {found.source}")
    return found


def make(store: RunStore, context: RankContext, convert: Convert) -> bool:
    """Makes the copy of context.resume; False when a sound one is there already.

    Fenced when a newer incarnation exists, CheckpointUnusable when the checkpoint is damaged or cannot be converted,
    StoreUnusable or SaveError (full) when it is the volume's fault. Whatever happens, nothing half is left that counts.
    """
    name = context.resume or ""
    require_newest(store, context.incarnation, f"convert {name}")
    source = _verified(store, name, context.config.run.uid)
    if source is None:
        return False
    try:
        # Every byte was hashed since the first look: another may have taken over, and be loading what it made.
        require_newest(store, context.incarnation, f"convert {name}")
        _clear(store, name, context.incarnation)
        return _write(store, name, source, context.incarnation, convert)
    except OSError as error:
        # A newer leader clears away what an older one was still writing.
        require_newest(store, context.incarnation, f"convert {name}")
        raise _volume(name, error) from error


def _verified(store: RunStore, name: str, run_uid: str) -> Manifest | None:
    """The checkpoint's manifest, once every byte of it has been hashed; None when its copy is sound."""
    failed: OSError | None = None
    for _ in range(2):
        try:
            source = manifests.read(store, name)
            if source.run_uid != run_uid:
                raise manifests.ManifestInvalid(f"the manifest is of another run (got uid {source.run_uid})")
            if _is_sound(store, name, source):
                return None
            problems = manifests.verify(store.path(name), source, deep=True)
        except manifests.ManifestInvalid as error:
            raise _damaged(name, str(error)) from error
        except OSError as error:
            # A volume that is away says nothing about the checkpoint; on one that works, this file may.
            store.probe()
            failed = error
        else:
            if problems:
                raise _damaged(name, *problems)
            return source
    raise _damaged(name, str(failed)) from failed


def _is_sound(store: RunStore, name: str, source: Manifest) -> bool:
    """Whether there is a copy that may be used again, by every byte of it."""
    try:
        found = find(store, name, source)
    except manifests.ManifestInvalid:
        return False
    return found is not None and not manifests.verify(store.path(copy_of(name)), found, deep=True)


def _clear(store: RunStore, name: str, incarnation: int) -> None:
    """Takes away what killed conversions of earlier incarnations left, and a copy that is not sound."""
    if store.exists(copy_of(name)):
        store.move(copy_of(name), f"{name}/{TEMPORARY}unsound")
    for each in store.path(name).iterdir():
        writer = re.search(r"\.i(\d+)$", each.name)
        if each.name.startswith(TEMPORARY) and (writer is None or int(writer[1]) <= incarnation):
            store.remove(f"{name}/{each.name}")


def _write(store: RunStore, name: str, source: Manifest, incarnation: int, convert: Convert) -> bool:
    temporary = f"{name}/{TEMPORARY}{UNIVERSAL}.i{incarnation}"
    directory = store.make(temporary)
    try:
        _convert(name, convert, store.path(f"{name}/{TAG}"), directory / TAG)
        for rank in range(source.world_size):
            generators = randomness.file_of(rank)
            shutil.copyfile(store.path(f"{name}/{generators}"), directory / generators)
        files = hash_written(directory, lambda _: True)
        manifest = Conversion(
            source=name,
            source_digest=source.files_digest,
            files=files,
            files_digest=manifests.files_digest(files),
            created_at=datetime.now(UTC),
        )
        store.create(f"{temporary}/{MANIFEST}", manifests.encode(manifest))
        require_newest(store, incarnation, f"convert {name}")
        if store.move(temporary, copy_of(name)):
            return True
        if _is_sound(store, name, source):
            return False
        raise StoreUnusable(
            f"{STORE_FIELD}: {copy_of(name)} cannot be replaced (got what an earlier start left); allowed a directory "
            "that the pod's user may delete. hint: delete it by hand, and check who owns the files of this run."
        )
    finally:
        store.remove(temporary)


def _convert(name: str, convert: Convert, source: Path, target: Path) -> None:
    """DeepSpeed's part. What it raises says nothing about whose fault it was: that is told apart here."""
    try:
        convert(source, target)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # asserts, index errors, whatever its code meets in a checkpoint
        text = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            raise MemoryError(text) from error
        if STORAGE.search(text) or STORAGE_FULL.search(text):
            raise OSError(text) from error
        lines = "".join(traceback.format_exception(error)).splitlines()
        raise CheckpointUnusable(
            name,
            "DeepSpeed cannot convert it for another number of ranks",
            hint="the run falls back to the next verified checkpoint by itself; with all nodes back it needs none",
            evidence=[line.strip()[:300] for line in lines if line.strip()][-EVIDENCE_LINES:],
        ) from error


def _damaged(name: str, *evidence: str) -> CheckpointUnusable:
    return CheckpointUnusable(name, "its content is damaged", hint=FALL_BACK, evidence=evidence)


def _volume(name: str, error: OSError) -> SaveError | StoreUnusable:
    if is_full(error) or STORAGE_FULL.search(str(error)):
        return SaveError(
            f"{STORE_FIELD}: the volume is full (got ENOSPC converting {name} for another number of ranks); allowed "
            "a size with room for two more of it. hint: enlarge the claim; the checkpoint is kept.",
            full=True,
        )
    return StoreUnusable(
        f"{STORE_FIELD}: the volume fails while checkpoint {name} is converted (got {error}); the checkpoint is kept "
        "and converted again. hint: check the volume behind the claim."
    )
