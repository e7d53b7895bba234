"""Reads the checkpoints in a store and applies the pure rule of windlass.core.checkpoints.choose.

Called by the leading agent before a claim. Looks at manifests and sizes only; content is hashed when
the chosen one is loaded. Must never write, but brings back from the trash what a slower, replaced
leader's retention took away.
"""

from __future__ import annotations

from collections.abc import Collection

from windlass.api.contract import Incarnation
from windlass.core.checkpoints.choose import RESUME_FROM, Candidate, Choice, order
from windlass.core.checkpoints.choose import choose as choose_purely
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore, parse_checkpoint_name
from windlass_workloads.checkpoint.trash import restore

__all__ = ["RESUME_FROM", "candidate", "candidates", "choose", "look"]


def candidate(store: RunStore, name: str) -> Candidate:
    """One checkpoint directory with what is wrong with it, if anything, without hashing content.

    Raises StoreUnusable when the volume does not answer.
    """
    key = parse_checkpoint_name(name)
    if key is None:
        raise ValueError(f"name: not a checkpoint's (got {name!r}); allowed step-<8 digits>.i<number>")
    step, incarnation = key
    try:
        digest, problem = look(store, name)
    except FileNotFoundError as error:
        digest, problem = "", str(error)
    except OSError:
        # A volume that is away would cost a good checkpoint for good: only one that works may accuse a file.
        store.probe()
        try:
            digest, problem = look(store, name)
        except OSError as error:
            digest, problem = "", str(error)
    return Candidate(name=name, step=step, incarnation=incarnation, digest=digest, problem=problem)


def look(store: RunStore, name: str) -> tuple[str, str | None]:
    """The digest that the manifest gives, and what is wrong with it or with sizes."""
    try:
        manifest = manifests.read(store, name)
    except manifests.ManifestInvalid as error:
        return "", str(error)
    problems = manifests.verify(store.path(name), manifest, deep=False)
    return manifest.files_digest, "; ".join(problems[:3]) or None


def candidates(store: RunStore) -> list[Candidate]:
    """All checkpoint directories, newest first."""
    return [candidate(store, name) for name in store.list_checkpoints()]


def choose(
    store: RunStore, newest: Incarnation | None, resume_from: str, *, poisoned: Collection[str] = ()
) -> Choice:
    """What the incarnation after `newest` resumes from and accepts.

    The claimant puts `accepted` and `name` into its Incarnation, the union of poisoned names, and
    details[RESUME_FROM] = resume_from.
    """
    choice = choose_purely(candidates(store), newest, resume_from, poisoned=poisoned)
    if newest is None:
        return choice
    best = (-1, 0) if choice.checkpoint is None else order(choice.checkpoint)
    bad = {*poisoned, *newest.poisoned}
    missing = [
        each.name
        for each in newest.accepted
        if (each.step, each.incarnation) > best and each.name not in bad and restore(store, each.name)
    ]
    if not missing:
        return choice
    return choose_purely(candidates(store), newest, resume_from, poisoned=poisoned)
