"""`windlass images`: build the operator's and the workload's container images with Docker.

Called by `make images`. On a kind cluster of ours they are loaded into it as well. It must never push.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess

from windlass.cli.cluster import kind
from windlass.cli.cluster.paths import repository_root
from windlass.cli.cluster.values import KIND_OPERATOR_IMAGE, KIND_WORKLOAD_IMAGE
from windlass.cli.errors import CliError

FILES = {KIND_OPERATOR_IMAGE: "operator.Dockerfile", KIND_WORKLOAD_IMAGE: "workload.Dockerfile"}


def images_command(_: argparse.Namespace) -> int:
    """Build both; 0 when both are there."""
    if shutil.which("docker") is None:
        raise CliError(
            "docker: is not installed. hint: the embedded cluster needs no images, `make demo` uses it by itself"
        )
    root = repository_root()
    for image, name in FILES.items():
        run(
            [
                "docker",
                "build",
                "--tag",
                image,
                "--file",
                str(root / "workloads" / "images" / name),
                str(root),
            ]
        )
        if kind.available() and kind.is_up():
            run(["kind", "load", "docker-image", image, "--name", kind.CLUSTER])
    return 0


def run(command: list[str]) -> None:
    """Run in view of the user. Raises CliError."""
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise CliError(f"{' '.join(command[:2])}: failed with status {done.returncode}; see above")
