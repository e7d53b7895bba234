"""Incarnation files: the fence. Whoever made the newest one leads, everyone else stops.

Called by agents (claim) and by everything that writes or deletes (newest). A file is made once by
exclusive create and never changed. Must never decide by a directory listing alone: listings may be
stale, so the next number is always tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from windlass.api.contract import Incarnation
from windlass_workloads.checkpoint.errors import Fenced, StoreUnusable
from windlass_workloads.checkpoint.store import INCARNATIONS, RunStore
from windlass_workloads.checkpoint.trash import restore


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who wants to lead: the pod's UID and the numbers that the operator gave it."""

    pod_uid: str
    ticket: int
    attempt: int


def file_of(number: int) -> str:
    """Path of an incarnation file in the store."""
    return f"{INCARNATIONS}/{number:08d}.json"


def may_claim(newest: Incarnation | None, me: Claimant) -> bool:
    """Whether `me` may make the incarnation after `newest`.

    The first is free; then only its owner, or a pod that the operator made later, may go on.
    """
    if newest is None:
        return True
    if me.attempt < newest.attempt:
        return False
    return me.pod_uid == newest.owner_pod_uid or me.ticket > newest.ticket or me.attempt > newest.attempt


def read(store: RunStore, number: int) -> Incarnation | None:
    """One incarnation file, or None when it was never made; StoreUnusable when it cannot be read."""
    data = store.read(file_of(number))
    if data is None:
        return None
    try:
        record = Incarnation.model_validate_json(data)
    except ValidationError as error:
        raise StoreUnusable(
            f"{file_of(number)}: not a readable incarnation (got {error.errors()[0]['msg']}); allowed what "
            "this version writes. hint: run the workload image that wrote it, or a newer one."
        ) from error
    return record


def newest(store: RunStore) -> Incarnation | None:
    """The newest incarnation, or None before the first."""
    number = _highest_listed(store)
    found = read(store, number) if number else None
    while (following := read(store, number + 1)) is not None:
        found, number = following, number + 1
    return found


def claim(store: RunStore, record: Incarnation) -> bool:
    """Makes an incarnation; False when somebody else made it first, who then leads.

    Checkpoints that it accepts and that a slower leader's retention moved away meanwhile come back.
    """
    data = (record.model_dump_json(by_alias=True, indent=1) + "\n").encode()
    if not store.create(file_of(record.incarnation), data):
        return False
    for accepted in record.accepted:
        restore(store, accepted.name)
    return True


def require_newest(store: RunStore, mine: int, action: str) -> Incarnation | None:
    """The newest incarnation; Fenced when it is newer than `mine`."""
    found = newest(store)
    if found is not None and found.incarnation > mine:
        raise Fenced(mine=mine, newest=found.incarnation, action=action)
    return found


def _highest_listed(store: RunStore) -> int:
    numbers = [
        int(stem) for name in store.names(INCARNATIONS) if (stem := name.removesuffix(".json")).isdigit()
    ]
    return max(numbers, default=0)
