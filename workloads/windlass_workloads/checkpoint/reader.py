"""Loads the chosen checkpoint, after every byte of it has been hashed.

Called by the training loop on every rank (collective):

    manifest = load(store=store, context=context, state=state)   # context.resume names the checkpoint

All ranks raise the same CheckpointUnusable, with evidence, when it cannot be loaded; the leading agent
poisons the name after the second time and chooses the next. A volume that does not answer is StoreUnusable
instead, and too little memory is TooLittleMemory: both say nothing about the checkpoint. Must never load unverified
bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException

from windlass.api.contract import FileEntry, Manifest, RankContext
from windlass_workloads.checkpoint import flat, randomness, universal
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import (
    FALL_BACK,
    STORE_FIELD,
    CheckpointUnusable,
    StoreUnusable,
    TooLittleMemory,
    is_out_of_memory,
)
from windlass_workloads.checkpoint.group import SaveGroup
from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter
from windlass_workloads.checkpoint.store import RunStore

__all__ = ["load"]

Problems = tuple[str, ...]

FAILURES = (CheckpointException, RuntimeError, LookupError, ValueError, AssertionError, OSError, MemoryError)
"""What torch and DeepSpeed raise while they load."""
MORE_MEMORY = (
    "with fewer ranks each holds more of the model and its optimizer: raise resources.perNode.memory, take "
    "accelerators with more memory, or raise recovery.elastic.minNodes."
)


def load(
    *,
    store: RunStore,
    context: RankContext,
    state: StateAdapter | DirectoryAdapter,
    group: SaveGroup | None = None,
    check: Callable[[Manifest], None] | None = None,
) -> Manifest:
    """Fills `state` and the random generators from context.resume and returns its manifest.

    `check` may refuse a manifest, by raising on every rank, before anything is loaded.
    """
    if context.resume is None:
        raise ValueError("context.resume: nothing to load (got None); allowed a checkpoint's name")
    name = context.resume
    group = group or SaveGroup()
    manifest, copied = _verified(store, name, context, group)
    _require_fitting(name, manifest, state, group.world_size, copied)
    if check is not None:
        check(manifest)
    directory = store.path(universal.copy_of(name) if copied else name)
    try:
        if state.format == "DeepSpeed":
            engine: DirectoryAdapter = state  # type: ignore[assignment]
            (engine.load_universal if copied else engine.load_directory)(directory)
            generators = randomness.read(directory / randomness.file_of(group.rank))
        else:
            generators = _load_dcp(directory, state, group)  # type: ignore[arg-type]
    except FAILURES as error:
        raise _told_apart(name, error) from error
    if generators is None:
        randomness.derive(manifest.seed, manifest.step, group.rank)
    else:
        randomness.restore(generators)
    return manifest


def shares(files: list[FileEntry], world_size: int) -> list[list[FileEntry]]:
    """Splits files over ranks so that each hashes about as many bytes."""
    loads = [0] * world_size
    parts: list[list[FileEntry]] = [[] for _ in range(world_size)]
    for entry in sorted(files, key=lambda each: (-each.size, each.path)):
        rank = loads.index(min(loads))
        parts[rank].append(entry)
        loads[rank] += entry.size
    return parts


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a rank found: the manifest, what is wrong with its share of the files, or why neither could be told.

    `copied` when the files are those of the universal copy.
    """

    manifest: Manifest | None = None
    copied: bool = False
    problems: Problems = ()
    outage: str | None = None


def _verified(store: RunStore, name: str, context: RankContext, group: SaveGroup) -> tuple[Manifest, bool]:
    """The manifest, once all ranks together have hashed all files that are to be loaded, and whether these are the
    universal copy's. StoreUnusable when a volume does not answer."""
    sight = _look(store, name, context, group)
    everyone = group.gather((sight.problems, sight.outage, sight.copied))
    found = list(dict.fromkeys(problem for each, _, _ in everyone for problem in each))
    silent = next((each for _, each, _ in everyone if each is not None), None)
    if silent is not None and not found:
        raise _silent(name, "verified", silent)
    if found or sight.manifest is None:
        raise CheckpointUnusable(name, "its content is damaged", hint=FALL_BACK, evidence=found)
    return sight.manifest, all(copied for _, _, copied in everyone)


def _look(store: RunStore, name: str, context: RankContext, group: SaveGroup) -> _Sight:
    """This rank's part."""
    try:
        return _compare(store, name, context, group)
    except OSError as error:
        try:
            store.probe()
        except StoreUnusable:
            return _Sight(outage=str(error))
    # The volume works. Either it does so again, or this file alone is beyond reading.
    try:
        return _compare(store, name, context, group)
    except OSError as error:
        return _Sight(problems=(str(error),))


def _compare(store: RunStore, name: str, context: RankContext, group: SaveGroup) -> _Sight:
    copy = None
    try:
        manifest = manifests.read(store, name)
        if universal.is_wanted(manifest, group.world_size):
            copy = universal.find(store, name, manifest)
    except manifests.ManifestInvalid as error:
        return _Sight(problems=(str(error),))
    if manifest.run_uid != context.config.run.uid:
        return _Sight(problems=(f"the manifest is of another run (got uid {manifest.run_uid})",))
    loaded = manifest if copy is None else copy
    directory = store.path(name if copy is None else universal.copy_of(name))
    share = shares(loaded.files, group.world_size)[group.rank]
    problems = manifests.verify(directory, loaded, deep=True, only=share)
    return _Sight(manifest, copy is not None, tuple(problems))


def _require_fitting(
    name: str,
    manifest: Manifest,
    state: StateAdapter | DirectoryAdapter,
    world_size: int,
    copied: bool,
) -> None:
    if manifest.format != state.format:
        raise CheckpointUnusable(
            name,
            f"spec.parallelism.strategy: it was saved by {manifest.strategy} (got {state.strategy}); "
            f"allowed a strategy of format {manifest.format}",
            hint="go back to the strategy it was saved with, or start again with spec.resume.from: None",
        )
    if state.format != "DeepSpeed":
        if ("pipeline" in manifest.strategy) != ("pipeline" in state.strategy):
            raise CheckpointUnusable(
                name,
                f"spec.parallelism.pipeline: it was saved by {manifest.strategy} (got {state.strategy}); allowed a run "
                "with a pipeline, or without one, as it was",
                hint="write parallelism as the run had it that made the checkpoint",
            )
        return
    if manifest.world_size != world_size and not copied:
        raise CheckpointUnusable(
            name,
            f"spec.resources: DeepSpeed saved it with {manifest.world_size} ranks, and it has no universal copy for "
            f"another number (got {world_size}); allowed {manifest.world_size}",
            hint="a restart makes the copy; look at the failure of the one that did not",
        )
    if manifest.strategy != state.strategy:
        raise CheckpointUnusable(
            name,
            f"spec.parallelism.zeroStage: it was saved by {manifest.strategy} (got {state.strategy}); "
            f"allowed {manifest.strategy}",
            hint="go back to the stage it was saved with, or start again with spec.resume.from: None",
        )


def _load_dcp(directory: Path, state: StateAdapter, group: SaveGroup) -> dict[str, Any] | None:
    """Loads into the live tensors; returns this rank's generators, None when the checkpoint has none."""
    storage = FileSystemReader(directory)
    stored = storage.read_metadata().state_dict_metadata
    laid = flat.is_flat(stored)
    key = randomness.key_of(group.rank)
    target: dict[str, Any] = {"state": flat.buffers(stored) if laid else state.by_name()}
    prefix = f"random.{key}."
    known = {name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
    if known:
        # Only what the checkpoint has too: a run may move from an accelerator to a CPU.
        randomness.wake(known)
        mine = randomness.capture()
        target["random"] = {key: {name: mine[name] for name in mine if name in known}}
    process_group = group.process_group
    dcp.load(target, storage_reader=storage, process_group=process_group, no_dist=process_group is None)
    if laid:
        state.load_flat(target["state"])
    else:
        state.load_state_dict(target["state"])
    generators: dict[str, Any] | None = target["random"][key] if known else None
    return generators


def _silent(name: str, doing: str, what: object) -> StoreUnusable:
    return StoreUnusable(
        f"{STORE_FIELD}: the volume does not answer while checkpoint {name} is {doing} (got {what}); "
        "the checkpoint is kept and tried again. hint: check the volume behind the claim."
    )


def _causes(error: BaseException) -> list[BaseException]:
    """What went wrong on each rank, of an error that torch made of all of them."""
    return (
        [each for each, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    )


def _told_apart(name: str, error: BaseException) -> Exception:
    """Whose fault it was: of the pod, which has too little memory, of the volume, or of the checkpoint."""
    causes = _causes(error)
    short = next((each for each in causes if is_out_of_memory(each)), None)
    if short is not None:
        text = f"loading checkpoint {name}: {type(short).__name__}: {short}"
        return TooLittleMemory(text, hint=MORE_MEMORY)
    silent = next((each for each in causes if isinstance(each, OSError)), None)
    return _unloadable(name, error) if silent is None else _silent(name, "read", silent)


def _unloadable(name: str, error: BaseException) -> CheckpointUnusable:
    causes = _causes(error)
    evidence = [
        f"{type(cause).__name__}: {line}" for cause in causes[:2] for line in str(cause).splitlines()[:3]
    ]
    return CheckpointUnusable(
        name,
        "it does not fit the model or could not be read",
        hint="check that model and adapter are those it was saved with",
        evidence=evidence,
    )
