"""Who owns which fields of an object: what our POST wrote is counted as if it had been applied.

The actor asks before it applies over an object that it made by a POST. The server notes a POST as an Update by our
manager and an apply as an Apply; it takes away only what the manager's last Apply had, so that without this a field
that a newer operator no longer renders would stay for ever. The same is done by client-go's `csaupgrade`.
"""

from __future__ import annotations

from typing import Any

from windlass.api.meta import MANAGER

Json = dict[str, Any]


def as_applied(entries: list[Json]) -> list[Json] | None:
    """The entries of `managedFields` with our Updates as one Apply; None if there is nothing to change.

    Entries of others, and of subresources, stay as they are.
    """
    if not any(is_ours(entry, "Update") for entry in entries):
        return None
    ours = [entry for entry in entries if is_ours(entry, "Update") or is_ours(entry, "Apply")]
    others = [entry for entry in entries if entry not in ours]
    fields: Json = {}
    for entry in ours:
        add_fields(fields, entry.get("fieldsV1") or {})
    return [*others, {**ours[-1], "operation": "Apply", "fieldsV1": fields}]


def is_ours(entry: Json, operation: str) -> bool:
    """Whether an entry is of the object itself, by our manager and this operation."""
    named = (entry.get("manager"), entry.get("operation")) == (MANAGER, operation)
    return named and not entry.get("subresource")


def add_fields(target: Json, more: Json) -> None:
    """Add one tree of field names to another, in place."""
    for name, below in more.items():
        add_fields(target.setdefault(name, {}), below)
