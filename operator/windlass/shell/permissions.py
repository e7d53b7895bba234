"""All that the operator may do, as data: the chart renders it, a test compares, another runs under it.

Two tables: cluster-wide rules (or per watched namespace, with the same rules in a Role), and rules in
the operator's own namespace, bound to names; two more are added where nodes are watched and where Kueue's queues are
used. There is no verb on secrets or pods/exec, no write to nodes, and no wildcard: the serving certificate is mounted,
not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from windlass.api.kinds import KINDS
from windlass.api.meta import GROUP


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a Role; `names` is empty for all names, else `{lease}`/`{slice}` are filled by the chart."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    def to_wire(self, substitutions: dict[str, str] | None = None) -> dict[str, list[str]]:
        """As in `rules` of a Role or ClusterRole."""
        wire = {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}
        if self.names:
            wire["resourceNames"] = [name.format_map(substitutions or {}) for name in self.names]
        return wire


READ: Final = ("get", "list", "watch")
JOBS: Final = tuple(kind.plural for kind in KINDS.values())

CLUSTER_RULES: Final = (
    # `delete` is for ttlSecondsAfterFinished; the spec is never written.
    Rule(GROUP, JOBS, (*READ, "delete")),
    # `patch` is for the release before: its operator leads until one of this release does, under these rights.
    Rule(GROUP, tuple(f"{plural}/status" for plural in JOBS), ("update", "patch")),
    # `patch` is for two annotations; the chart's admission policy refuses this account any other change of a pod.
    Rule("", ("pods",), (*READ, "create", "patch", "delete")),
    Rule("", ("services",), (*READ, "create", "patch")),
    # `delete` is for the configuration of an attempt that is over.
    Rule("", ("configmaps",), (*READ, "create", "patch", "delete")),
    Rule("networking.k8s.io", ("networkpolicies",), (*READ, "create", "patch")),
    Rule("", ("persistentvolumeclaims",), READ),
    # `list`: that a volume cannot be mounted is told by the kubelet's events only.
    Rule("events.k8s.io", ("events",), ("create", "patch", "list")),
    Rule("authentication.k8s.io", ("tokenreviews",), ("create",)),
)

# Only with node awareness, and cluster-wide, for nodes belong to no namespace.
NODE_RULES: Final = (Rule("", ("nodes",), READ),)

# Only where Kueue's queues may be used, in the namespaces that are watched.
KUEUE_RULES: Final = (Rule("kueue.x-k8s.io", ("workloads",), ("delete",)),)

OWN_NAMESPACE_RULES: Final = (
    # A name cannot bind `create`: the object does not exist yet when the rule is asked.
    Rule("coordination.k8s.io", ("leases",), ("create",)),
    Rule("coordination.k8s.io", ("leases",), ("get", "update"), ("{lease}",)),
    Rule("discovery.k8s.io", ("endpointslices",), ("create",)),
    Rule("discovery.k8s.io", ("endpointslices",), ("get", "patch"), ("{slice}",)),
)


def cluster_rules() -> list[dict[str, list[str]]]:
    """Rules of the ClusterRole."""
    return [rule.to_wire() for rule in CLUSTER_RULES]


def node_rules() -> list[dict[str, list[str]]]:
    """Rules of the ClusterRole that comes with node awareness."""
    return [rule.to_wire() for rule in NODE_RULES]


def kueue_rules() -> list[dict[str, list[str]]]:
    """Rules of the ClusterRole that comes with Kueue's queues."""
    return [rule.to_wire() for rule in KUEUE_RULES]


def namespace_rules(*, lease: str, slice_name: str) -> list[dict[str, list[str]]]:
    """Rules of the Role in the operator's own namespace."""
    names = {"lease": lease, "slice": slice_name}
    return [rule.to_wire(names) for rule in OWN_NAMESPACE_RULES]
