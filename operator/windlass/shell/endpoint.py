"""Points the report Service at the leader: the Service has no selector, the leader writes its EndpointSlice.

So reports never reach a standby. Written when leading begins, looked at now and then, and written again only
when it differs. The pod owns it: without a leader it is gone, and agents are refused instead of kept waiting.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from windlass.api.meta import GROUP
from windlass.shell.client import Client
from windlass.shell.errors import NotFound
from windlass.shell.resources import ENDPOINT_SLICES
from windlass.shell.settings import Settings

PORT_NAME: Final = "reports"
"""Must equal the port's name in the chart's Service."""


def endpoint_slice(settings: Settings, port: int) -> dict[str, Any]:
    """The EndpointSlice with this pod as the only endpoint."""
    version = ipaddress.ip_address(settings.pod_ip).version
    pod = {"kind": "Pod", "name": settings.pod_name, "uid": settings.pod_uid}
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": {
            "name": settings.slice_name,
            "namespace": settings.namespace,
            "labels": {
                "kubernetes.io/service-name": settings.report_service,
                "endpointslice.kubernetes.io/managed-by": GROUP,
            },
            "ownerReferences": [{"apiVersion": "v1", **pod}],
        },
        "addressType": f"IPv{version}",
        "endpoints": [
            {
                "addresses": [settings.pod_ip],
                "conditions": {"ready": True},
                "targetRef": {"namespace": settings.namespace, **pod},
            }
        ],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }


async def publish(client: Client, settings: Settings, port: int) -> bool:
    """Make the Service lead here; whether anything had to be written."""
    wanted = endpoint_slice(settings, port)
    try:
        present = await client.get(ENDPOINT_SLICES, settings.slice_name, namespace=settings.namespace)
    except NotFound:
        present = {}
    owners = (present.get("metadata") or {}).get("ownerReferences")
    same = all(present.get(field) == wanted[field] for field in ("addressType", "endpoints", "ports"))
    if same and owners == wanted["metadata"]["ownerReferences"]:
        return False
    await client.apply(ENDPOINT_SLICES, wanted)
    return True
