"""Values for Windlass' Helm chart that fit the local cluster, written by `up` as `values.yaml`.

On the embedded cluster pods run the host's own programs: image, interpreter and read-only mounts say how.
It must never hold a value that does not depend on the cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from windlass.cli.cluster.paths import HOST_REPOSITORY_CLAIM, HOST_USR_CLAIM, STORAGE_CLASS

OPERATOR_ENVIRONMENT = "build/env/operator"
WORKLOAD_ENVIRONMENT = ".venv"
KIND_OPERATOR_IMAGE = "windlass-operator:dev"
KIND_WORKLOAD_IMAGE = "windlass-workload:dev"


def embedded(repository: Path, image: str) -> dict[str, Any]:
    """Values for pods that run from the host's files at their own absolute paths."""

    def mounts(*folders: str) -> list[dict[str, str]]:
        return [
            {"claim": HOST_USR_CLAIM, "mountPath": "/usr"},
            *(
                {"claim": HOST_REPOSITORY_CLAIM, "subPath": folder, "mountPath": str(repository / folder)}
                for folder in folders
            ),
        ]

    return {
        "imagePullPolicy": "Never",
        "hostRoot": {
            "enabled": True,
            "operatorMounts": mounts(OPERATOR_ENVIRONMENT, "operator"),
            "workloadMounts": mounts(WORKLOAD_ENVIRONMENT, "operator", "workloads"),
        },
        "operator": {"image": image, "python": str(repository / OPERATOR_ENVIRONMENT / "bin/python")},
        "workload": {"image": image, "python": str(repository / WORKLOAD_ENVIRONMENT / "bin/python")},
    }


def kind() -> dict[str, Any]:
    """Values for a kind cluster: images built by `make images` and loaded into it."""
    return {
        "imagePullPolicy": "IfNotPresent",
        "hostRoot": {"enabled": False, "operatorMounts": [], "workloadMounts": []},
        "operator": {"image": KIND_OPERATOR_IMAGE, "python": "python"},
        "workload": {"image": KIND_WORKLOAD_IMAGE, "python": "python"},
    }


def render(values: dict[str, Any]) -> str:
    """The file's text."""
    head = f"# Written by `up` for this cluster; storage class: {STORAGE_CLASS}.\n"
    return head + yaml.safe_dump(values, sort_keys=False)
