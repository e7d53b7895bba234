"""What the provisioner should do, decided from what is there: no I/O, no clock.

Called by `provisioner` with the claims, volumes and namespaces of the cluster. Two kinds of volumes:
directories below the cluster's `volumes` for claims of the class `windlass-local`, and read-only views of
the host (`windlass-host-usr`, `windlass-host-repository`) offered in every namespace.
It must never name a directory for removal that is not directly of its own making.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.cli.cluster.paths import (
    HOST_REPOSITORY,
    HOST_REPOSITORY_CLAIM,
    HOST_USR,
    HOST_USR_CLAIM,
    STORAGE_CLASS,
)

PROVISIONER = "windlass.dev/local"
ANNOTATION = "pv.kubernetes.io/provisioned-by"
KIND_LABEL = "cluster.windlass.dev/volume"
CLAIM_KIND = "claim"
HOST_KIND = "host"
HOST_CLAIMS = {HOST_USR_CLAIM: HOST_USR, HOST_REPOSITORY_CLAIM: HOST_REPOSITORY}
HOST_CAPACITY = "1Gi"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateVolume:
    """Make the directory (None for views of the host) and then the volume."""

    volume: Object
    directory: Path | None


@dataclass(frozen=True, slots=True)
class DeleteVolume:
    """Remove the directory (None for views of the host and for Retain) and then the volume."""

    name: str
    directory: Path | None


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """Offer a view of the host in a namespace."""

    namespace: str
    claim: Object


Action = CreateVolume | DeleteVolume | CreateClaim


def plan(
    *, claims: list[Object], volumes: list[Object], namespaces: list[Object], root: Path
) -> list[Action]:
    """Everything that is to be done now; calling it again after that yields nothing."""
    own = [volume for volume in volumes if _is_ours(volume)]
    actions: list[Action] = [deletion for volume in own if (deletion := _deletion(volume, claims, root))]
    present = {volume["metadata"]["name"] for volume in own}
    busy = {volume["spec"]["hostPath"]["path"] for volume in own}
    for claim in claims:
        directory = root / claim["metadata"]["namespace"] / claim["metadata"]["name"]
        # A claim of the same name as one just deleted waits until that one's directory is gone.
        if _wants_volume(claim) and str(directory) not in busy:
            actions.append(CreateVolume(claim_volume(claim, directory), directory))
    by_name = {(claim["metadata"]["namespace"], claim["metadata"]["name"]): claim for claim in claims}
    for namespace in _open_namespaces(namespaces):
        for name, path in HOST_CLAIMS.items():
            offered = by_name.get((namespace, name))
            # The claim first: a volume that names its UID is bound at once, another only at a resync.
            if offered is None:
                actions.append(CreateClaim(namespace, host_claim(namespace, name)))
            elif host_volume_name(offered) not in present and "deletionTimestamp" not in offered["metadata"]:
                actions.append(CreateVolume(host_volume(offered, path), None))
    return actions


def claim_volume(claim: Object, directory: Path) -> Object:
    """The volume of one claim, bound to it by its UID."""
    return _volume(
        f"windlass-{claim['metadata']['uid']}",
        CLAIM_KIND,
        {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "volumeMode": "Filesystem",
            "claimRef": _reference(claim),
            "hostPath": {"path": str(directory), "type": "Directory"},
        },
    )


def host_volume(claim: Object, path: Path) -> Object:
    """A view of the host for one namespace's claim; the mount behind the path is read-only."""
    return _volume(
        host_volume_name(claim),
        HOST_KIND,
        {
            "storageClassName": "",
            "capacity": {"storage": HOST_CAPACITY},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "volumeMode": "Filesystem",
            "claimRef": _reference(claim),
            "hostPath": {"path": str(path), "type": "Directory"},
        },
    )


def host_volume_name(claim: Object) -> str:
    """The volume behind a namespace's view of the host."""
    return f"{claim['metadata']['name']}-{claim['metadata']['namespace']}"


def host_claim(namespace: str, name: str) -> Object:
    """The claim by which pods of a namespace mount a view of the host."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "labels": {KIND_LABEL: HOST_KIND}},
        "spec": {
            "storageClassName": "",
            "volumeName": f"{name}-{namespace}",
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": HOST_CAPACITY}},
        },
    }


def _volume(name: str, kind: str, spec: Object) -> Object:
    metadata = {"name": name, "labels": {KIND_LABEL: kind}, "annotations": {ANNOTATION: PROVISIONER}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def _reference(claim: Object) -> Object:
    named = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **named}


def _is_ours(volume: Object) -> bool:
    return (volume["metadata"].get("annotations") or {}).get(ANNOTATION) == PROVISIONER


def _wants_volume(claim: Object) -> bool:
    spec = claim["spec"]
    return (
        spec.get("storageClassName") == STORAGE_CLASS
        and not spec.get("volumeName")
        and not spec.get("selector")
        and spec.get("volumeMode", "Filesystem") == "Filesystem"
        and "deletionTimestamp" not in claim["metadata"]
    )


def _deletion(volume: Object, claims: list[Object], root: Path) -> DeleteVolume | None:
    reference = volume["spec"].get("claimRef") or {}
    kind = (volume["metadata"].get("labels") or {}).get(KIND_LABEL)
    released = volume.get("status", {}).get("phase") == "Released"
    # Deleted between the claim's deletion and the controller's notice: the UID is nowhere any more.
    released = released or reference.get("uid") not in {claim["metadata"]["uid"] for claim in claims}
    if not released or "deletionTimestamp" in volume["metadata"]:
        return None
    if volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain" and kind == CLAIM_KIND:
        return None
    return DeleteVolume(volume["metadata"]["name"], _directory_to_remove(volume, kind, root))


def _directory_to_remove(volume: Object, kind: str | None, root: Path) -> Path | None:
    reference = volume["spec"].get("claimRef") or {}
    expected = root / str(reference.get("namespace")) / str(reference.get("name"))
    path = Path(volume["spec"]["hostPath"]["path"])
    return path if kind == CLAIM_KIND and path == expected else None


def _open_namespaces(namespaces: list[Object]) -> list[str]:
    return sorted(
        namespace["metadata"]["name"]
        for namespace in namespaces
        if not namespace["metadata"]["name"].startswith("kube-")
        and namespace.get("status", {}).get("phase") != "Terminating"
    )
