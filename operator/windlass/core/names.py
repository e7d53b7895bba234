"""Names, labels and paths of everything that belongs to a run.

Renderers, the chain and the command line use these, so that one spelling exists. Nothing here may
depend on what was observed: a name is a function of the run's identity and its tickets alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from windlass.api import meta
from windlass.api.jobs import TrainingJobSpec
from windlass.api.uris import split_claim_uri

ANNOTATION_DIGEST = f"{meta.GROUP}/digest"
LEADER = 0
"""Index of the pod that leads."""


def service_name(run: str) -> str:
    """The headless Service of a run; its NetworkPolicy has the same name."""
    return run


def ca_name(run: str) -> str:
    """The mutable ConfigMap with the operator's CA."""
    return f"{run}-ca"


def config_name(run: str, digest: str) -> str:
    """The immutable ConfigMap with the run's configuration; the first 8 characters of the digest count."""
    return f"{run}-config-{digest[:8]}"


def host_name(run: str, index: int) -> str:
    """The stable host name of one member, whatever its ticket."""
    return f"{run}-{index}"


def pod_name(run: str, index: int, ticket: int) -> str:
    """The name of one pod; a replacement has another ticket and therefore another name."""
    return f"{run}-{index}-{ticket}"


def leader_host(run: str, namespace: str) -> str:
    """The DNS name at which agents find their leader."""
    return f"{host_name(run, LEADER)}.{service_name(run)}.{namespace}.svc"


def labels(kind: str, run: str, uid: str) -> dict[str, str]:
    """Labels of every object of a run."""
    return {
        meta.LABEL_MANAGED_BY: meta.MANAGED_BY,
        meta.LABEL_KIND: kind,
        meta.LABEL_RUN: run,
        meta.LABEL_RUN_UID: uid,
    }


def pod_labels(kind: str, run: str, uid: str, *, index: int, ticket: int, attempt: int) -> dict[str, str]:
    """Labels of one pod."""
    return labels(kind, run, uid) | {
        meta.LABEL_INDEX: str(index),
        meta.LABEL_TICKET: str(ticket),
        meta.LABEL_ATTEMPT: str(attempt),
    }


def store_claim(spec: TrainingJobSpec) -> str:
    """The claim that holds the checkpoints."""
    return split_claim_uri(spec.checkpoint.store)[0]


def store_path(spec: TrainingJobSpec, *, namespace: str, name: str, uid: str) -> str:
    """Directory of this run inside its pods; it carries the run's identity, so no other run meets it."""
    _, path = split_claim_uri(spec.checkpoint.store)
    return "/".join(part for part in (meta.STORE_MOUNT, path, namespace, name, uid) if part)


def store_uri(store: str, *, namespace: str, name: str, uid: str) -> str:
    """The same directory as a URI, which a new job may name in `spec.resume.from`."""
    return "/".join((store.rstrip("/"), namespace, name, uid))


def read_claims(spec: TrainingJobSpec) -> tuple[str, ...]:
    """Claims that model and data URIs name, each once, in the order of the spec; a custom command names none."""
    return unique(split_claim_uri(one.uri)[0] for one in spec.inputs if one.uri.startswith("pvc://"))


def extra_claims(spec: TrainingJobSpec) -> tuple[str, ...]:
    """Claims of `spec.pod.volumes`."""
    return unique(volume.claim for volume in spec.pod.volumes if volume.claim is not None)


def all_claims(spec: TrainingJobSpec) -> tuple[str, ...]:
    """Every claim that a pod of this run mounts, the store's first."""
    return unique((store_claim(spec), *read_claims(spec), *extra_claims(spec)))


def secret_keys(spec: TrainingJobSpec) -> dict[str, tuple[str, ...]]:
    """Keys that are mounted, by the name of their Secret."""
    references = [one.secret for one in spec.inputs]
    references.append(spec.tracking.mlflow.secret_ref if spec.tracking is not None else None)
    found: dict[str, tuple[str, ...]] = {}
    for reference in references:
        if reference is not None:
            found[reference.name] = unique((*found.get(reference.name, ()), reference.key))
    return found


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """The values in order, each once."""
    return tuple(dict.fromkeys(values))
