"""What every rendered object has: identity, owner, labels and the digest of its own rendering.

All other renderers call this. It must stay deterministic: the digest decides whether to apply again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from windlass.api import meta
from windlass.core import names
from windlass.core.decision import Manifest
from windlass.core.observed import Job


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces: the same data is always the same text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(data: Any) -> str:
    """sha256 over the canonical JSON, in hex."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def owner(job: Job) -> dict[str, Any]:
    """The owner reference by which Kubernetes removes the object together with the job."""
    return {
        "apiVersion": meta.API_VERSION,
        "kind": job.kind,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        # True would need the right to set finalizers on the job, and we hold no such thing.
        "blockOwnerDeletion": False,
    }


def wrap(job: Job, *, api_version: str, kind: str, name: str, body: dict[str, Any]) -> Manifest:
    """A whole object from its body (`spec`, `data`, …)."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": job.namespace,
            "labels": names.labels(job.kind, job.name, job.uid),
            "annotations": {names.ANNOTATION_DIGEST: digest(body)},
            "ownerReferences": [owner(job)],
        },
        **body,
    }
