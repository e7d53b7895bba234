"""What was last seen of the cluster, by kind, namespace and name.

The reflectors and kopf's handler write it, rounds read it. An older version never replaces a newer one, so
that the answer to our own write counts at once and a late event changes nothing. It holds slim copies only, and
those that nobody looks at any more as compressed text.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from windlass.core.observed import DISRUPTIONS

Json = dict[str, Any]
Name = tuple[str, str]
"""Namespace and name."""


def version_of(body: Json) -> int:
    """The resourceVersion as a number; versions of one kind are comparable, across objects too."""
    text = str(body.get("metadata", {}).get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def name_of(body: Json) -> Name:
    """Namespace and name of an object."""
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


@dataclass(frozen=True, slots=True)
class Packed:
    """An object as compressed JSON: a finished job takes 1 KB so, and 20 KB as dictionaries."""

    version: int
    text: bytes

    def body(self) -> Json:
        """The object; a new copy each time."""
        body: Json = json.loads(zlib.decompress(self.text))
        return body


def pack(body: Json) -> Packed:
    """An object for keeping."""
    return Packed(version_of(body), zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 1))


class Cache:
    """Objects of one kind. `changed` hears of each object that was added, changed or dropped.

    `packs` says which objects are kept as text: those that are seldom looked at.
    """

    def __init__(
        self,
        *,
        index: Callable[[Json], str | None] | None = None,
        packs: Callable[[Json], bool] = lambda _: False,
        only_content: bool = False,
    ) -> None:
        self._objects: dict[Name, Json | Packed] = {}
        self._packs = packs
        self._only_content = only_content
        self._dropped: dict[Name, int] = {}
        self._index = index
        self._indexed: dict[str, set[Name]] = {}
        self.changed: Callable[[Json], None] = lambda _: None
        self.newest = 0

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Json]:
        return map(unpacked, list(self._objects.values()))

    def names(self) -> list[Name]:
        """Namespace and name of each object."""
        return list(self._objects)

    def get(self, namespace: str, name: str) -> Json | None:
        """The object, or None."""
        known = self._objects.get((namespace, name))
        return None if known is None else unpacked(known)

    def find(self, value: str) -> list[Json]:
        """Objects with this index value, by name."""
        return [unpacked(self._objects[name]) for name in sorted(self._indexed.get(value, ()))]

    def upsert(self, body: Json, *, quiet: bool = False) -> bool:
        """Take an object unless a newer version of its name, or of its removal, is known. Whether it was taken.

        `changed` is called for each new version; with `only_content` only where it differs in more than its version,
        and never for what the caller keeps `quiet`, since nobody has anything to decide by it.
        """
        name, version = name_of(body), version_of(body)
        known = self._version(name)
        if known > version or self._dropped.get(name, -1) >= version:
            return False
        if known == version:
            return True  # the watch's echo of what a write of ours has answered
        before = self.get(*name) if self._only_content else None
        self._put(name, body)
        self.newest = max(self.newest, version)
        if not quiet and (before is None or not same_but_version(before, body)):
            self.changed(body)
        return True

    def drop(self, body: Json) -> None:
        """The object is gone. A newer one of the same name stays."""
        name, version = name_of(body), version_of(body)
        if self._version(name) > version:
            return
        # An event from before the removal may still be on its way.
        self._remember_removal(name, version)
        self.newest = max(self.newest, version)
        known = self._remove(name)
        if known is not None:
            self.changed(known)

    def replace(self, bodies: list[Json], *, version: int, namespace: str | None = None) -> None:
        """Take a complete list: what it lacks is gone, unless it was seen newer than the list."""
        present = {name_of(body) for body in bodies}
        for name in list(self._objects):
            inside = namespace is None or name[0] == namespace
            if inside and name not in present and self._version(name) <= version:
                known = self._remove(name)
                if known is not None:
                    self.changed(known)
        for body in bodies:
            self.upsert(body)
        self.newest = max(self.newest, version)

    def _remember_removal(self, name: Name, version: int) -> None:
        self._dropped[name] = max(version, self._dropped.get(name, -1))
        if len(self._dropped) > 4096:
            self._dropped.pop(next(iter(self._dropped)))

    def _version(self, name: Name) -> int:
        """The version that is known of a name; -1 if none is."""
        known = self._objects.get(name)
        if known is None:
            return -1
        return known.version if isinstance(known, Packed) else version_of(known)

    def _put(self, name: Name, body: Json) -> None:
        self._remove(name)
        self._objects[name] = pack(body) if self._packs(body) else body
        value = self._index(body) if self._index else None
        if value is not None:
            self._indexed.setdefault(value, set()).add(name)

    def _remove(self, name: Name) -> Json | None:
        """Take a name out; what was known of it."""
        kept = self._objects.pop(name, None)
        if kept is None:
            return None
        known = unpacked(kept)
        value = self._index(known) if self._index else None
        if value is not None and value in self._indexed:
            self._indexed[value].discard(name)
            if not self._indexed[value]:
                del self._indexed[value]
        return known


def unpacked(kept: Json | Packed) -> Json:
    """The object as it was put in."""
    return kept.body() if isinstance(kept, Packed) else kept


# --- slim copies ----------------------------------------------------------------------------------

METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
)
POD_STATUS = ("phase", "reason", "message", "podIP", "startTime")
CONDITIONS = ("PodScheduled", *DISRUPTIONS)


def slim_metadata(body: Json) -> Json:
    """The metadata that anybody here reads, with our own annotations."""
    metadata = body["metadata"]
    kept = {key: metadata[key] for key in METADATA if metadata.get(key) is not None}
    own = {key: value for key, value in (metadata.get("annotations") or {}).items() if "windlass" in key}
    if own:
        kept["annotations"] = own
    return kept


def same_but_version(one: Json, other: Json) -> bool:
    """Whether two versions of an object differ in nothing that is kept: then nobody has anything to decide."""
    mine, theirs = dict(one["metadata"]), dict(other["metadata"])
    mine.pop("resourceVersion", None)
    theirs.pop("resourceVersion", None)
    return mine == theirs and all(
        one.get(part) == other.get(part) for part in {*one, *other} if part != "metadata"
    )


def slim_job(body: Json) -> Json:
    """A job without what only other programs need. Items of a list carry no kind: the caller has put it in."""
    return {
        "kind": body["kind"],
        "metadata": slim_metadata(body),
        "spec": body.get("spec") or {},
        "status": body.get("status") or {},
    }


def slim_pod(body: Json) -> Json:
    """A pod without its template and probes: about a tenth of its size."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    kept = {key: status[key] for key in POD_STATUS if status.get(key) is not None}
    kept["conditions"] = [item for item in status.get("conditions") or () if item.get("type") in CONDITIONS]
    kept["containerStatuses"] = [
        {"name": item.get("name"), "state": item.get("state") or {}}
        for item in status.get("containerStatuses") or ()
    ]
    made: Json = {
        "metadata": slim_metadata(body),
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [slim_container(item) for item in spec.get("containers") or ()],
        },
        "status": kept,
    }
    if body["metadata"].get("finalizers"):
        made["metadata"]["finalizers"] = body["metadata"]["finalizers"]
    if spec.get("schedulingGates"):
        made["spec"]["schedulingGates"] = spec["schedulingGates"]
    return made


def slim_container(container: Json) -> Json:
    """Its image, and what it asks for: that is what the run costs."""
    made = {"image": container.get("image")}
    requests = (container.get("resources") or {}).get("requests")
    return made | ({"resources": {"requests": requests}} if requests else {})


def slim_claim(body: Json) -> Json:
    """A claim's phase and access modes."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    return {
        "metadata": slim_metadata(body),
        "spec": {"accessModes": spec.get("accessModes") or []},
        "status": {key: status[key] for key in ("phase", "accessModes") if key in status},
    }


def slim_node(body: Json) -> Json:
    """Whether a node is ready, and its taints: of some kilobytes a few hundred bytes."""
    metadata, conditions = body["metadata"], (body.get("status") or {}).get("conditions") or ()
    return {
        "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion") if key in metadata},
        "spec": {"taints": (body.get("spec") or {}).get("taints") or []},
        "status": {
            "conditions": [
                {"type": "Ready", "status": item.get("status")}
                for item in conditions
                if item.get("type") == "Ready"
            ]
        },
    }


def slim_child(body: Json) -> Json:
    """A Service, NetworkPolicy or ConfigMap. The data of an immutable ConfigMap cannot drift and is dropped."""
    kept: Json = {"metadata": slim_metadata(body)}
    if "spec" in body:
        kept["spec"] = body["spec"]
    if body.get("immutable"):
        kept["immutable"] = True
    elif "data" in body:
        kept["data"] = body["data"]
    return kept
