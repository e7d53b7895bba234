"""The control plane: etcd, the API server, and beside them the scheduler, the controllers and kwok's nodes.

All of it the real programs; only what runs inside of nodes is played. Their own limits on requests per second are
lifted, since a cluster of this size would have them lifted too, and everything shares two cores here.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.operator.audit import Audit, policy
from contract.server import ADMIN_TOKEN, ROOT, Client, free_ports, install, running, shipped_crds, started
from windlass.cli.cluster import binaries
from windlass.cli.cluster.paths import KUBERNETES_VERSION, cache_directory

PODS_PER_NODE = 250
RATE, BURST = 2000, 4000
NO_WATCH_LISTS = "--feature-gates=WatchList=false"
"""Debian's etcd 3.4 tells the server of no progress, without which it ends every watch that begins with all objects.
kwok begins all of its watches so: each ended at once and came again after a pause that grew to a minute."""
FEWER_COLLECTIONS = {"GOGC": "400"}
"""Programs let their memory grow to five times what they hold before they look for garbage, as one does where memory is
there and processors are short. Bare client and operator use the same ones."""


@dataclass(frozen=True)
class Plane:
    """A running control plane with our kinds installed."""

    api: Client
    directory: Path
    audit: Audit


def versions() -> dict[str, str]:
    """What the rig is made of."""
    text = (ROOT / "cluster" / "kwok" / "go.mod").read_text()
    kwok = re.search(r"sigs\.k8s\.io/kwok (v[\w.]+)", text)
    assert kwok is not None, "cluster/kwok/go.mod pins no kwok"
    return {"kubernetes": KUBERNETES_VERSION, "kwok": kwok[1]}


def programs() -> dict[str, Path]:
    """Paths of the scheduler, the controllers and kwok; built where they are not there yet."""
    cache = cache_directory()
    modules = (*binaries.MODULES, *binaries.SCALE_MODULES)
    return binaries.ensure(ROOT / "cluster", cache, modules)


@contextmanager
def alone(directory: Path) -> Iterator[Plane]:
    """etcd and the API server, for what needs no pods."""
    directory.mkdir(parents=True)
    rules = directory / "audit.yaml"
    rules.write_text(yaml.safe_dump(policy()))
    log = directory / "audit.log"
    flags = [
        f"--audit-policy-file={rules}",
        f"--audit-log-path={log}",
        # Events are kept for an hour by default, which is longer than this lives.
        "--delete-collection-workers=8",
        "--profiling=true",
        NO_WATCH_LISTS,
    ]
    with running(directory, flags=flags, environment=FEWER_COLLECTIONS) as api:
        for crd in shipped_crds():
            install(api, crd)
        yield Plane(api, directory, Audit(log))


@contextmanager
def whole(directory: Path, pods: int) -> Iterator[Plane]:
    """All of it, with played nodes for so many pods at a time."""
    found = programs()
    with alone(directory) as plane:
        config = kubeconfig(plane)
        nodes = max(4, math.ceil(pods / PODS_PER_NODE))
        for number in range(nodes):
            plane.api.create("/api/v1/nodes", node(f"played-{number}")).expect(201)
        with started(commands(found, plane, config), directory, FEWER_COLLECTIONS) as processes:

            def ready() -> bool:
                ended = [process.args for process in processes if process.poll() is not None]
                assert not ended, f"ended, see the logs in {directory}: {ended}"
                return ready_nodes(plane.api) == nodes

            plane.api.until(ready, 90)
            yield plane


def kubeconfig(plane: Plane) -> Path:
    """How the scheduler, the controllers and kwok reach the API server."""
    path = plane.directory / "kubeconfig"
    cluster = {"server": plane.api.url, "certificate-authority": str(plane.directory / "serving.crt")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rig",
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig"}}],
        "clusters": [{"name": "rig", "cluster": cluster}],
        "users": [{"name": "rig", "user": {"token": ADMIN_TOKEN}}],
    }
    path.write_text(json.dumps(document))
    return path


def commands(found: dict[str, Path], plane: Plane, config: Path) -> list[list[str]]:
    """Command lines of what runs beside the API server."""
    directory = plane.directory
    scheduling = directory / "scheduler.yaml"
    scheduling.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "leaderElection": {"leaderElect": False},
                "clientConnection": {"kubeconfig": str(config), "qps": RATE, "burst": BURST},
            }
        )
    )
    playing = directory / "kwok.yaml"
    playing.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
                "kind": "KwokConfiguration",
                "options": {"podPlayStageParallelism": 16, "nodePlayStageParallelism": 8},
            }
        )
    )
    scheduler_port, controllers_port = free_ports(2)
    return [
        [
            str(found["kube-scheduler"]),
            f"--config={scheduling}",
            "--bind-address=127.0.0.1",
            f"--secure-port={scheduler_port}",
        ],
        [
            str(found["kube-controller-manager"]),
            f"--kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={controllers_port}",
            f"--cert-dir={directory}",
            "--leader-elect=false",
            f"--root-ca-file={directory}/serving.crt",
            f"--service-account-private-key-file={directory}/accounts.key",
            "--pvclaimbinder-sync-period=2s",
            # A played node's heartbeat that is late on a busy machine is no dead node.
            "--node-monitor-grace-period=600s",
            f"--kube-api-qps={RATE}",
            f"--kube-api-burst={BURST}",
        ],
        [
            str(found["kwok"]),
            f"--kubeconfig={config}",
            "--manage-all-nodes=true",
            "--server-address=",
            "--node-lease-duration-seconds=200",
            f"--config={playing}",
        ],
    ]


def cpu_seconds(parent: int, processes: Path = Path("/proc")) -> dict[str, float]:
    """Processor time of every child of a process, by its program's name; what an earlier child used is not in it."""
    found: dict[str, float] = {}
    for path in processes.glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended meanwhile
            continue
        numbers = rest.split()
        if int(numbers[1]) == parent:
            used = (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
            found[name] = found.get(name, 0.0) + used
    return found


def node(name: str) -> dict[str, Any]:
    """A played node."""
    room = {"cpu": "1k", "memory": "4Ti", "pods": str(PODS_PER_NODE)}
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "type": "kwok"},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "status": {"capacity": room, "allocatable": room},
    }


def ready_nodes(api: Client) -> int:
    """Nodes that take pods."""
    items = api.get("/api/v1/nodes").expect(200)["items"]
    return sum(
        any(
            one["type"] == "Ready" and one["status"] == "True" for one in item["status"].get("conditions", [])
        )
        for item in items
    )
