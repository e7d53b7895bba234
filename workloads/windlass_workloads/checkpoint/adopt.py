"""Takes a verified checkpoint of another run over into this run's store, before its first incarnation.

Called by the leading agent as it claims. Both runs are in one claim, so that files are linked and no byte is copied;
where the file system refuses a link they are copied. The other run's directory is only read. What was adopted is an
ordinary checkpoint of this run with incarnation 0: it is hashed when it is loaded, and retention may remove it.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Final

from windlass.api.contract import RunConfig
from windlass.api.resuming import ANOTHER
from windlass.core.checkpoints.choose import ADOPTED, LATEST, Candidate
from windlass.core.checkpoints.choose import choose as choose_purely
from windlass.core.names import split_claim_uri
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.choose import candidates
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.store import (
    MANIFEST,
    TEMPORARY,
    RunStore,
    checkpoint_name,
    parse_checkpoint_name,
    sync_directory,
)

FIELD: Final = "spec.resume.from"
NO_LINK: Final = (errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.ENOTSUP)
"""Refusals of a link to a file that may be read all the same: of another owner's, or of a file system without links."""


class NotAdoptable(CheckpointError):
    """spec.resume.from names what cannot be taken over."""


def claim_root(config: RunConfig) -> Path:
    """Where the store's claim is mounted: the run's directory without what stands below the claim."""
    _, path = split_claim_uri(config.spec.checkpoint.store)
    run = config.run
    below = "/".join(part for part in (path, run.namespace, run.name, run.uid) if part)
    root = config.store_path.removesuffix(below)
    if root == config.store_path:
        raise NotAdoptable(
            f"{FIELD}: this run's directory is not where its claim is mounted (got {config.store_path})"
        )
    return Path(root)


def adopt(store: RunStore, config: RunConfig) -> str:
    """Takes over what spec.resume.from names and returns its name here; nothing happens where that was done before.

    Without a checkpoint's name in the URI it is the newest that the other run would resume from. Raises NotAdoptable
    with what could be named instead, OSError when the volume fails.
    """
    uri = config.spec.resume.source
    directory, wanted = _directory_of(uri, config)
    source = RunStore(directory)
    chosen = _chosen(source, uri, wanted)
    name = checkpoint_name(chosen.step, ADOPTED)
    if store.exists(f"{name}/{MANIFEST}"):
        return name
    manifest = manifests.read(source, chosen.name)
    own = manifest.model_copy(
        update={
            "run_uid": config.run.uid,
            "incarnation": ADOPTED,
            "parent": f"{manifest.run_uid}/{chosen.name}",
        }
    )
    temporary = f"{TEMPORARY}adopted-{uuid.uuid4().hex}"
    try:
        for entry in manifest.files:
            _take(source.path(f"{chosen.name}/{entry.path}"), store.path(f"{temporary}/{entry.path}"))
        store.write(f"{temporary}/{MANIFEST}", manifests.encode(own))
        # Another agent of this run may have been faster; what it took over is the same.
        store.move(temporary, name)
    finally:
        store.remove(temporary)
    return name


def _directory_of(uri: str, config: RunConfig) -> tuple[Path, str | None]:
    """Directory of the other run, and the checkpoint's name if the URI ends with one."""
    claim, path = split_claim_uri(uri)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    wanted = parts.pop() if parts and parse_checkpoint_name(parts[-1]) is not None else None
    if not parts or ".." in parts:
        raise _not_a_run(uri)
    if claim != split_claim_uri(config.spec.checkpoint.store)[0]:
        raise NotAdoptable(
            f"{FIELD}: is not in the claim of checkpoint.store (got {uri!r}); allowed a path in that claim"
        )
    directory = claim_root(config).joinpath(*parts)
    if directory.resolve() != directory or directory == Path(config.store_path):
        # A link would lead out of the claim; and a run is no other than itself.
        raise _not_a_run(uri)
    return directory, wanted


def _chosen(source: RunStore, uri: str, wanted: str | None) -> Candidate:
    """The checkpoint that is meant, by the rule by which the other run itself would resume."""
    newest = incarnations.newest(source)
    if newest is None:
        raise _not_a_run(uri)
    choice = choose_purely(candidates(source), newest, LATEST)
    verified = {each.name: each for each in candidates(source)}
    usable = [verified[each.name] for each in choice.accepted if each.name in verified]
    for each in usable:
        if wanted in (None, each.name):
            return each
    reason = next((each.reason for each in choice.rejected if each.name == wanted), "is not there")
    names = ", ".join(each.name for each in usable[:5]) or "none, that run has no verified checkpoint"
    what = f"{wanted}: {reason}" if wanted is not None else "no verified checkpoint"
    raise NotAdoptable(
        f'{FIELD}: cannot be resumed from (got "{uri}", {what}); allowed: {names}. '
        f"hint: name one of these, or only the directory {ANOTHER}... of the run for its newest"
    )


def _take(source: Path, target: Path) -> None:
    """The same file here: a link, or a durable copy where links are refused."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())
    sync_directory(target.parent)


def _not_a_run(uri: str) -> NotAdoptable:
    return NotAdoptable(
        f'{FIELD}: is not the directory of a run (got "{uri}"); allowed '
        "pvc://claim/<path of the store>/<namespace>/<name>/<uid>, with or without a checkpoint's name. "
        "hint: windlass status shows a run's directory; look for the other run's there"
    )
