"""The local cluster by kind, where Docker's engine answers and `kind` is on PATH.

Called by `up` and `down` in place of the embedded cluster.
It must never touch a kind cluster of another name.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from windlass.cli.cluster import values
from windlass.cli.cluster.api import from_kubeconfig
from windlass.cli.cluster.certificates import write_private
from windlass.cli.cluster.commands import CommandFailed, run
from windlass.cli.cluster.console import phase
from windlass.cli.cluster.paths import STORAGE_CLASS, Layout
from windlass.cli.cluster.state import State, write

CLUSTER = "windlass"
CREATE_SECONDS = 600.0


def available() -> bool:
    """Whether both are there and the engine answers."""
    if shutil.which("kind") is None or shutil.which("docker") is None:
        return False
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], timeout_seconds=10)
    except CommandFailed:
        return False
    return True


def is_up() -> bool:
    """Whether a kind cluster of our name exists."""
    return CLUSTER in run(["kind", "get", "clusters"]).split()


def up(layout: Layout, repository: Path) -> State:
    """Create the cluster unless it is there, and write kubeconfig, values and state. Raises CommandFailed."""
    state = State("kind", str(layout.directory), str(repository), network="")
    with phase("kind", state.phases_seconds):
        if not is_up():
            config = str(repository / "kind-config.yaml")
            create = ["kind", "create", "cluster", "--name", CLUSTER, "--config", config, "--wait", "120s"]
            run(create, timeout_seconds=CREATE_SECONDS)
        write_private(layout.kubeconfig, run(["kind", "get", "kubeconfig", "--name", CLUSTER]))
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "rancher.io/local-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    client = from_kubeconfig(layout.kubeconfig)
    client.apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage_class)
    layout.values.write_text(values.render(values.kind()))
    state.server, state.ready = client.server, True
    state.setup_seconds = round(sum(state.phases_seconds.values()), 2)
    write(layout, state)
    return state


def down() -> None:
    """Delete the kind cluster of our name. Raises CommandFailed."""
    run(["kind", "delete", "cluster", "--name", CLUSTER], timeout_seconds=CREATE_SECONDS)
