"""Takes a verified checkpoint of another run over into this run's store, before its first incarnation.

Called by the leading agent as it claims. Both runs are in one claim, so that files are linked and no byte is copied;
where the file system refuses a link they are copied. The other run's directory is only read. What was adopted is an
ordinary checkpoint of this run with incarnation 0: it is hashed when it is loaded, and retention may remove it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from windlass.api.contract import Incarnation, RunConfig
from windlass.api.jobs import TrainingJobSpec
from windlass.api.resuming import ANOTHER
from windlass.api.uris import split_claim_uri
from windlass.core.checkpoints.choose import ADOPTED, LATEST, Candidate
from windlass.core.checkpoints.choose import choose as choose_purely
from windlass.core.skipped_windows import merged
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.choose import look
from windlass_workloads.checkpoint.errors import CheckpointError, StoreUnusable
from windlass_workloads.checkpoint.recipe import differences, recipe
from windlass_workloads.checkpoint.store import (
    MANIFEST,
    TEMPORARY,
    RunStore,
    checkpoint_name,
    parse_checkpoint_name,
    sync_directory,
)

FIELD: Final = "spec.resume.from"
UNFINISHED: Final = f"{TEMPORARY}adopted-"
MORE_TRIES: Final = 2
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
    wish = Wish.of(config)
    done = _adopted_before(store, wish)
    if done is not None:
        return done
    for _ in range(MORE_TRIES):
        # Where the other run still lives, its retention may take away what was just looked at.
        with contextlib.suppress(manifests.ManifestInvalid, FileNotFoundError):
            return _take_over(store, config, wish)
    return _take_over(store, config, wish)


def unfinished(store: RunStore) -> list[str]:
    """What agents that died while they adopted have left; its links keep blocks of the other run in use.

    For the leader of an incarnation to remove: before the first one another agent may still be at it.
    """
    return sorted(name for name in os.listdir(store.root) if name.startswith(UNFINISHED))


@dataclass(frozen=True, slots=True)
class Wish:
    """A checkpoint of another run, by that run's directory; `name` is None for its newest."""

    uri: str
    directory: Path
    place: str
    name: str | None

    @classmethod
    def of(cls, config: RunConfig) -> Wish:
        """What spec.resume.from names; NotAdoptable where that is no directory of another run in the store's claim."""
        uri = config.spec.resume.source
        claim, path = split_claim_uri(uri)
        parts = [part for part in path.split("/") if part not in ("", ".")]
        name = parts.pop() if parts and parse_checkpoint_name(parts[-1]) is not None else None
        if not parts or ".." in parts:
            raise _not_a_run(uri)
        if claim != split_claim_uri(config.spec.checkpoint.store)[0]:
            raise NotAdoptable(
                f"{FIELD}: is not in the claim of checkpoint.store (got {uri!r}); allowed a path in that claim"
            )
        root = claim_root(config).resolve()
        directory = root.joinpath(*parts).resolve()
        if not directory.is_relative_to(root) or directory == Path(config.store_path).resolve():
            # A link may lead out of the claim; and a run is no other than itself.
            raise _not_a_run(uri)
        return cls(uri, directory, "/".join((f"{ANOTHER}{claim}", *parts)), name)

    def fits(self, parent: str | None) -> bool:
        """Whether a manifest's `parent` is what is wished for."""
        place, _, name = (parent or "").rpartition("/")
        return place == self.place and self.name in (None, name)


def _adopted_before(store: RunStore, wish: Wish) -> str | None:
    """What an agent of this run took over already, whatever has become of the other run since."""
    for name in store.list_checkpoints():
        key = parse_checkpoint_name(name)
        if key is not None and key[1] == ADOPTED:
            with contextlib.suppress(manifests.ManifestInvalid):
                if wish.fits(manifests.read(store, name).parent):
                    return name
    return None


def _take_over(store: RunStore, config: RunConfig, wish: Wish) -> str:
    source = RunStore(wish.directory)
    try:
        newest = incarnations.newest(source)
        if newest is None:
            raise _not_a_run(wish.uri)
        chosen = _chosen(source, newest, wish)
        manifest = manifests.read(source, chosen.name)
    except NotADirectoryError as error:
        raise _not_a_run(wish.uri) from error
    except StoreUnusable as error:
        raise NotAdoptable(f'{FIELD}: cannot be resumed from (got "{wish.uri}", {error})') from error
    except PermissionError as error:
        raise NotAdoptable(
            f'{FIELD}: cannot be read by this pod (got "{wish.uri}", {error.strerror}); allowed a directory that the '
            "user or the group of this job's pods may read. hint: give both jobs' pods the same fsGroup"
        ) from error
    _check_recipe(config.spec, newest)
    name = checkpoint_name(chosen.step, ADOPTED)
    own = manifest.model_copy(
        update={
            "run_uid": config.run.uid,
            "incarnation": ADOPTED,
            "parent": f"{wish.place}/{chosen.name}",
            "skipped_windows": list(merged([*manifest.skipped_windows, *newest.skipped_windows])),
            "created_at": datetime.now(UTC),
        }
    )
    temporary = f"{UNFINISHED}{uuid.uuid4().hex}"
    try:
        for entry in manifest.files:
            _take(source.path(f"{chosen.name}/{entry.path}"), store.path(f"{temporary}/{entry.path}"))
        store.write(f"{temporary}/{MANIFEST}", manifests.encode(own))
        # Another agent of this run may have been faster; what it took over is the same.
        store.move(temporary, name)
    finally:
        store.remove(temporary)
    return name


def _check_recipe(spec: TrainingJobSpec, newest: Incarnation) -> None:
    """Shapes would not tell: another scale of an adapter is another model, and the optimiser's settings are saved."""
    for name, saved, now in differences(newest.details, recipe(spec)):
        raise NotAdoptable(
            f"spec.{name}: differs from the run whose checkpoint is taken over (got {now}); allowed {saved}. "
            f"hint: write what that run had, or leave {FIELD} out"
        )


def _chosen(source: RunStore, newest: Incarnation, wish: Wish) -> Candidate:
    """The checkpoint that is meant, by the rule by which the other run itself would resume."""
    found = [_seen(source, name) for name in source.list_checkpoints()]
    choice = choose_purely(found, newest, LATEST)
    accepted = [each.name for each in choice.accepted]
    usable = [each for name in accepted for each in found if each.name == name]
    for each in usable:
        if wish.name in (None, each.name):
            return each
    reason = next((each.reason for each in choice.rejected if each.name == wish.name), "is not there")
    names = ", ".join(accepted[:5]) or "none, that run has no verified checkpoint"
    what = f"{wish.name}: {reason}" if wish.name is not None else "no verified checkpoint"
    raise NotAdoptable(
        f'{FIELD}: cannot be resumed from (got "{wish.uri}", {what}); allowed: {names}. '
        f"hint: name one of these, or only the directory {wish.place} for its newest"
    )


def _seen(source: RunStore, name: str) -> Candidate:
    """A checkpoint of the other run; unlike in a store of one's own nothing is tried out by writing."""
    step, number = parse_checkpoint_name(name) or (0, 0)
    digest, problem = "", None
    try:
        if source.path(name).is_symlink():
            problem = "is a symbolic link"
        else:
            digest, problem = look(source, name)
    except FileNotFoundError as error:
        problem = str(error)
    return Candidate(name=name, step=step, incarnation=number, digest=digest, problem=problem)


def _take(source: Path, target: Path) -> None:
    """The same file here: a link, or a durable copy where links are refused."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        # A network file system may answer a repeated request for a link that it has made.
        made = error.errno == errno.EEXIST and os.path.samefile(source, target)
        if not made and error.errno not in NO_LINK:
            raise
        if not made:
            shutil.copyfile(source, target, follow_symlinks=False)
            with target.open("rb") as copied:
                os.fsync(copied.fileno())
    sync_directory(target.parent)


def _not_a_run(uri: str) -> NotAdoptable:
    return NotAdoptable(
        f'{FIELD}: is not the directory of another run in this claim (got "{uri}"); allowed '
        "pvc://claim/<path of the store>/<namespace>/<name>/<uid>, with or without a checkpoint's name. "
        "hint: windlass status shows it above the other job's checkpoints"
    )
