"""The headless Service that gives the leading pod of a run a stable name.

The name must resolve before that pod is ready, since the agents find their leader by it. It selects no other pod:
nobody looks for those by name, and the endpoints of all would be written anew for each that comes up.
"""

from __future__ import annotations

from windlass.api import meta
from windlass.core import names
from windlass.core.decision import Manifest
from windlass.core.observed import Job
from windlass.core.render.objects import wrap


def service(job: Job) -> Manifest:
    """The Service of a run."""
    port = {"name": "agent", "port": meta.AGENT_PORT, "targetPort": meta.AGENT_PORT, "protocol": "TCP"}
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {meta.LABEL_RUN_UID: job.uid, meta.LABEL_INDEX: str(names.LEADER)},
        "ports": [port],
    }
    return wrap(job, api_version="v1", kind="Service", name=names.service_name(job.name), body={"spec": spec})
