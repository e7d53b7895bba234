"""Volumes and mounts of a run's pods.

Called by the pod renderer. Only the store and scratch directories are writable; a claim that is needed
twice is one volume with two mounts. Nothing here may use hostPath: Pod Security restricted refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from windlass.api import meta
from windlass.api.jobs import TrainingJobSpec
from windlass.core import names
from windlass.core.settings import RenderSettings

TOKEN_SECONDS = 3600
READ_BY_GROUP = 0o440


@dataclass(slots=True)
class Volumes:
    """Volumes and mounts while they are collected."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    claims: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, source: dict[str, Any]) -> None:
        """A volume without a mount."""
        self.volumes.append({"name": name, **source})

    def mount(self, name: str, path: str, *, read_only: bool = True, sub_path: str | None = None) -> None:
        """A mount of a volume."""
        entry: dict[str, Any] = {"name": name, "mountPath": path}
        if read_only:
            entry["readOnly"] = True
        if sub_path:
            entry["subPath"] = sub_path
        self.mounts.append(entry)

    def claim(self, claim: str) -> str:
        """The volume of a claim, made at its first use. Claim names may hold dots, volume names may not."""
        if claim not in self.claims:
            self.claims[claim] = f"claim-{len(self.claims)}"
            self.add(self.claims[claim], {"persistentVolumeClaim": {"claimName": claim}})
        return self.claims[claim]


def volumes(run: str, spec: TrainingJobSpec, *, config_map: str, settings: RenderSettings) -> Volumes:
    """All volumes and mounts of a pod."""
    made = Volumes()
    made.add("config", {"configMap": {"name": config_map}})
    made.mount("config", meta.RUN_CONFIG_MOUNT)
    if settings.report_url is not None:
        add_report_access(made, run)
    made.mount(made.claim(names.store_claim(spec)), meta.STORE_MOUNT, read_only=False)
    for claim in names.read_claims(spec):
        made.mount(made.claim(claim), f"{meta.VOLUME_ROOT}/{claim}")
    for number, (secret, keys) in enumerate(names.secret_keys(spec).items()):
        items = [{"key": key, "path": key} for key in keys]
        source = {"secretName": secret, "items": items, "defaultMode": READ_BY_GROUP}
        made.add(f"secret-{number}", {"secret": source})
        made.mount(f"secret-{number}", f"{meta.SECRET_ROOT}/{secret}")
    add_extra_volumes(made, spec)
    made.add("scratch", {"emptyDir": {}})
    made.mount("scratch", meta.SCRATCH_MOUNT, read_only=False)
    made.add("shared-memory", {"emptyDir": {"medium": "Memory"}})
    made.mount("shared-memory", "/dev/shm", read_only=False)  # noqa: S108 - the mount point itself
    for host in settings.host_root:
        made.mount(made.claim(host.claim), host.mount_path, sub_path=host.sub_path)
    return made


def add_report_access(made: Volumes, run: str) -> None:
    """What the leader needs to report: the operator's CA and a token that only the operator accepts."""
    made.add("ca", {"configMap": {"name": names.ca_name(run)}})
    made.mount("ca", meta.CA_MOUNT)
    token = {"audience": meta.REPORT_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": meta.TOKEN_FILE}
    source = {"sources": [{"serviceAccountToken": token}], "defaultMode": READ_BY_GROUP}
    made.add("token", {"projected": source})
    made.mount("token", meta.TOKEN_MOUNT)


def add_extra_volumes(made: Volumes, spec: TrainingJobSpec) -> None:
    """`spec.pod.volumes`; everything but a scratch directory is read-only."""
    for number, extra in enumerate(spec.pod.volumes):
        if extra.claim is not None:
            made.mount(made.claim(extra.claim), extra.mount_path)
            continue
        name = f"extra-{number}"
        if extra.secret is not None:
            made.add(name, {"secret": {"secretName": extra.secret, "defaultMode": READ_BY_GROUP}})
        elif extra.config_map is not None:
            made.add(name, {"configMap": {"name": extra.config_map}})
        else:
            made.add(name, {"emptyDir": {}})
        made.mount(name, extra.mount_path, read_only=extra.secret is not None or extra.config_map is not None)
