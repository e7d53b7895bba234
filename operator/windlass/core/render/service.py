"""The headless Service that gives each pod of a run a stable name.

Names must resolve before pods are ready, since the agents find their leader by it.
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
        "selector": {meta.LABEL_RUN_UID: job.uid},
        "ports": [port],
    }
    return wrap(job, api_version="v1", kind="Service", name=names.service_name(job.name), body={"spec": spec})
