"""Names in the trash: how a directory goes there and comes back.

Used by retention, incarnations and the writer. Must never delete: the trash is emptied by retention.
"""

from __future__ import annotations

from typing import Final

from windlass_workloads.checkpoint.store import TRASH, RunStore

SEPARATOR: Final = "~"


def discard(store: RunStore, name: str, *, now: float) -> bool:
    """Moves a directory of the store into the trash; `now` (Unix seconds) starts its delay."""
    target, count = f"{TRASH}/{int(now)}{SEPARATOR}{name}", 0
    while store.exists(target):
        count += 1
        target = f"{TRASH}/{int(now)}{SEPARATOR}{name}{SEPARATOR}{count}"
    return store.move(name, target)


def discarded_at(entry: str) -> int | None:
    """Unix seconds at which an entry of the trash came there, or None for a strange name."""
    seconds = entry.split(SEPARATOR)[0]
    return int(seconds) if seconds.isascii() and seconds.isdigit() else None


def restore(store: RunStore, name: str) -> bool:
    """Brings back the last discarded directory of this name if it is missing; True when it did."""
    if store.exists(name):
        return False
    entries = [entry for entry in store.names(TRASH) if entry.split(SEPARATOR)[1:2] == [name]]
    return bool(entries) and store.move(f"{TRASH}/{max(entries, key=_age)}", name)


def _age(entry: str) -> tuple[int, int]:
    """Later entries sort higher: by their second, then by the count within it."""
    count = entry.split(SEPARATOR)[2:3]
    return discarded_at(entry) or 0, int(count[0]) if count and count[0].isdecimal() else 0
