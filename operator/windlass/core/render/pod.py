"""One pod of a gang: an agent as PID 1, under Pod Security restricted.

Called by the judge that makes missing pods and by `windlass render`. The pod never restarts by itself:
who goes on is the operator's decision, told by its ticket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windlass.api import meta
from windlass.api.jobs import TrainingJobSpec
from windlass.api.meta import Exclusion
from windlass.api.status import Member, SuspectNode
from windlass.core import kueue, names
from windlass.core.decision import Manifest
from windlass.core.observed import Job
from windlass.core.render.objects import owner
from windlass.core.render.volumes import volumes
from windlass.core.settings import RenderSettings
from windlass.core.suspects import excluded

USER_ID = 1000
# Kubernetes' default of 300 s would let a dead node hold the gang for five minutes.
NODE_LOSS_SECONDS = 30


def pod(
    job: Job,
    spec: TrainingJobSpec,
    member: Member,
    *,
    attempt: int,
    config_map: str,
    settings: RenderSettings,
) -> Manifest:
    """The pod `<run>-<index>-<ticket>`."""
    run_labels = names.pod_labels(
        job.kind, job.name, job.uid, index=member.index, ticket=member.ticket, attempt=attempt
    )
    mounted = volumes(job.name, spec, config_map=config_map, settings=settings)
    queued = kueue.marks(job.name, job.uid, spec, attempt=attempt)
    body: dict[str, Any] = {
        "hostname": names.host_name(job.name, member.index),
        "subdomain": names.service_name(job.name),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.recovery.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [agent(spec, member, attempt=attempt, mounts=mounted.mounts, settings=settings)],
        "volumes": mounted.volumes,
        "tolerations": tolerations(spec),
        **placement(spec),
        **affinity(job.status.suspect_nodes),
        **queued.spec,
    }
    avoids = excluded(job.status.suspect_nodes, Exclusion.REQUIRED)
    metadata = {
        "name": names.pod_name(job.name, member.index, member.ticket),
        "namespace": job.namespace,
        # Ours last: nobody may relabel a pod into another run.
        "labels": dict(spec.pod.labels) | queued.labels | run_labels,
        "annotations": dict(spec.pod.annotations)
        | queued.annotations
        | ({meta.ANNOTATION_AVOIDS: ",".join(avoids)} if avoids else {}),
        "ownerReferences": [owner(job)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def agent(
    spec: TrainingJobSpec,
    member: Member,
    *,
    attempt: int,
    mounts: list[dict[str, Any]],
    settings: RenderSettings,
) -> dict[str, Any]:
    """The only container."""
    return {
        "name": "agent",
        "image": spec.image or settings.workload_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [settings.workload_python, "-m", "windlass_workloads.agent"],
        "env": environment(spec, member, attempt=attempt),
        "resources": resources(spec),
        "volumeMounts": mounts,
        # Without a verdict the last lines of the log are the evidence.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def environment(spec: TrainingJobSpec, member: Member, *, attempt: int) -> list[dict[str, Any]]:
    """The user's variables first, then identity, which wins."""
    fields = {
        "POD_NAME": "metadata.name",
        "POD_UID": "metadata.uid",
        "POD_IP": "status.podIP",
        "NODE_NAME": "spec.nodeName",
    }
    identity: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]
    identity += [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the scratch mount, the only writable place
        {"name": "WINDLASS_INDEX", "value": str(member.index)},
        {"name": "WINDLASS_TICKET", "value": str(member.ticket)},
        {"name": "WINDLASS_ATTEMPT", "value": str(attempt)},
    ]
    reserved = {entry["name"] for entry in identity}
    users = [{"name": item.name, "value": item.value} for item in spec.pod.env if item.name not in reserved]
    return users + identity


def resources(spec: TrainingJobSpec) -> dict[str, Any]:
    """CPU is a request without a limit (throttled ranks stall the whole gang), memory is both."""
    node, accelerator = spec.resources.per_node, spec.resources.accelerator
    limits: dict[str, Any] = {"memory": node.memory}
    if accelerator.count > 0:
        limits[accelerator.resource] = str(accelerator.count)
    return {"requests": {"cpu": node.cpu, "memory": node.memory}, "limits": limits}


def requested(spec: TrainingJobSpec) -> tuple[tuple[str, str], ...]:
    """What a pod asks for, as it will be charged: devices have a limit only, which is their request."""
    made = resources(spec)
    return tuple({**made["limits"], **made["requests"]}.items())


def tolerations(spec: TrainingJobSpec) -> list[dict[str, Any]]:
    """The user's tolerations, then a short stay on a node that is gone."""
    lost = [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOSS_SECONDS,
        }
        for state in ("not-ready", "unreachable")
    ]
    users = [item.to_wire() for item in spec.pod.tolerations]
    named = {item["key"] for item in users}
    return users + [item for item in lost if item["key"] not in named]


def placement(spec: TrainingJobSpec) -> dict[str, Any]:
    """Fields of the pod that are there only when the spec sets them."""
    fields: dict[str, Any] = {
        "schedulerName": spec.scheduling.scheduler_name,
        "priorityClassName": spec.scheduling.priority_class_name,
        "serviceAccountName": spec.pod.service_account_name,
        "nodeSelector": dict(spec.pod.node_selector),
        "imagePullSecrets": [{"name": name} for name in spec.pod.image_pull_secrets],
    }
    return {key: value for key, value in fields.items() if value}


def affinity(suspects: Sequence[SuspectNode]) -> dict[str, Any]:
    """Keeps the pod off the nodes that the run avoids, by the name of the node itself: labels can be changed.

    A field selector takes one value, hence one entry for each node. Each preference weighs the same, so
    that among avoided nodes none is preferred.
    """
    required, preferred = (excluded(suspects, how) for how in (Exclusion.REQUIRED, Exclusion.PREFERRED))
    rules: dict[str, Any] = {}
    if required:
        term = {"matchFields": [other_than(node) for node in required]}
        rules["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [term]}
    if preferred:
        rules["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": 100, "preference": {"matchFields": [other_than(node)]}} for node in preferred
        ]
    return {"affinity": {"nodeAffinity": rules}} if rules else {}


def other_than(node: str) -> dict[str, Any]:
    """The requirement that a node has another name."""
    return {"key": "metadata.name", "operator": "NotIn", "values": [node]}
