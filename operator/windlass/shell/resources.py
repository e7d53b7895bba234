"""The kinds of objects that the operator talks about, and their addresses in the API.

The client and the permission table both read this, so that a kind is spelled in one place. Only kinds
that the operator really uses are here; adding one means adding a rule in `permissions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from windlass.api.kinds import KINDS
from windlass.api.meta import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: API group ("" is core), version, plural name in paths, kind in bodies."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """URL path of a collection, an object or its subresource. No namespace means all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICES: Final = Resource("", "v1", "services", "Service")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
# Kueue's, made by it of our pods: never read, only deleted where Kueue would wait for them for ever.
WORKLOADS: Final = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
TOKEN_REVIEWS: Final = Resource(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False
)

JOB_KINDS: Final = tuple(Resource(GROUP, VERSION, kind.plural, kind.name) for kind in KINDS.values())
CHILD_KINDS: Final = (PODS, SERVICES, CONFIG_MAPS, NETWORK_POLICIES)

BY_KIND: Final = {
    resource.kind: resource
    for resource in (
        *(*JOB_KINDS, *CHILD_KINDS, CLAIMS, EVENTS, LEASES, ENDPOINT_SLICES, NODES, TOKEN_REVIEWS),
        WORKLOADS,
    )
}


def of(kind: str) -> Resource:
    """The resource of a kind; KeyError names a kind that the operator does not know."""
    return BY_KIND[kind]
