"""The NetworkPolicy that lets only a run's own pods talk to its pods.

Ranks accept connections without a password, so nobody else may reach them. Egress stays open: hubs,
trackers and the report server are the user's choice.
"""

from __future__ import annotations

from windlass.api import meta
from windlass.core import names
from windlass.core.decision import Manifest
from windlass.core.observed import Job
from windlass.core.render.objects import wrap


def network_policy(job: Job) -> Manifest:
    """The NetworkPolicy of a run."""
    gang = {"matchLabels": {meta.LABEL_RUN_UID: job.uid}}
    spec = {
        "podSelector": gang,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": gang}]}],
    }
    return wrap(
        job,
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        name=names.service_name(job.name),
        body={"spec": spec},
    )
