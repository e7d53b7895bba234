"""Keeps the newest checkpoints and clears the rest, behind the fence.

Called by the leading agent after a commit. Deleting is two steps: into the trash, and out of it after
a delay, each only while the caller's incarnation is the newest. Must never touch the newest
checkpoint, the one resumed from, or the directory of a save in progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from windlass.api.contract import Incarnation
from windlass.core.checkpoints.choose import Candidate, objection, order
from windlass_workloads.checkpoint import choose as reading
from windlass_workloads.checkpoint.adopt import unfinished
from windlass_workloads.checkpoint.incarnations import require_newest
from windlass_workloads.checkpoint.store import TRASH, RunStore
from windlass_workloads.checkpoint.trash import discard, discarded_at

PURGE_DELAY_SECONDS: Final = 600.0


def superfluous(found: Collection[Candidate], newest: Incarnation, *, keep_last: int) -> list[Candidate]:
    """Pure: what may go, oldest first. Saves of the newest incarnation that have no manifest yet stay."""
    keep = {newest.resume}
    counted = sorted((each for each in found if objection(each, newest) is None), key=order, reverse=True)
    keep.update(each.name for each in counted[: max(1, keep_last)])
    gone = [
        each
        for each in found
        if each.name not in keep
        and (each in counted or each.name in newest.poisoned or each.incarnation < newest.incarnation)
    ]
    return sorted(gone, key=order)


def retain(
    store: RunStore,
    *,
    incarnation: int,
    keep_last: int,
    clock: Callable[[], float] = time.time,
) -> list[str]:
    """Moves superfluous checkpoints into the trash and returns their names.

    Fenced when a newer incarnation exists; the fence is read again before each move.
    """
    newest = require_newest(store, incarnation, "delete checkpoints")
    if newest is None or newest.incarnation != incarnation:
        return []
    moved: list[str] = []
    for each in superfluous(reading.candidates(store), newest, keep_last=keep_last):
        require_newest(store, incarnation, f"delete {each.name}")
        if discard(store, each.name, now=clock()):
            moved.append(each.name)
    return moved


def purge(
    store: RunStore,
    *,
    incarnation: int,
    delay_seconds: float = PURGE_DELAY_SECONDS,
    clock: Callable[[], float] = time.time,
) -> list[str]:
    """Deletes what has been in the trash for longer than the delay; Fenced as in retain()."""
    for name in unfinished(store):
        require_newest(store, incarnation, f"remove {name}")
        store.remove(name)
    removed: list[str] = []
    for entry in store.names(TRASH):
        since = discarded_at(entry)
        if since is None or clock() - since < delay_seconds:
            continue
        require_newest(store, incarnation, f"purge {entry}")
        store.remove(f"{TRASH}/{entry}")
        removed.append(entry)
    return removed
