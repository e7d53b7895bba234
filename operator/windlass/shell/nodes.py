"""What is known of nodes, where the operator may watch them.

`Observer` asks for the nodes of a run's pods; the operator asks whose runs a change concerns. Kubelets renew
their node every few minutes without a change: such news wakes nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from windlass.core.observed import NodeView
from windlass.shell.cache import Cache

Json = dict[str, Any]


class Nodes:
    """The watched nodes; `cache` is filled by a reflector, or stays empty where nodes are not watched."""

    def __init__(self) -> None:
        self.cache = Cache()
        self._told: dict[str, NodeView] = {}

    def of(self, pods: Iterable[Json]) -> tuple[NodeView, ...]:
        """The nodes that host these pods, by name. One that is not known is not among them."""
        names = {(body.get("spec") or {}).get("nodeName") for body in pods}
        found = (self.cache.get("", name) for name in sorted(name for name in names if name))
        return tuple(NodeView.from_wire(body) for body in found if body is not None)

    def is_news(self, body: Json) -> bool:
        """Whether a run could care about this change."""
        name = body["metadata"]["name"]
        if self.cache.get("", name) is None:
            return self._told.pop(name, None) is not None
        view = NodeView.from_wire(body)
        before = self._told.get(name)
        self._told[name] = view
        return view != (before if before is not None else NodeView(name))

    @staticmethod
    def pods_on(name: str, pods: Iterable[Json]) -> list[Json]:
        """Those of the pods that are on this node."""
        return [body for body in pods if (body.get("spec") or {}).get("nodeName") == name]
