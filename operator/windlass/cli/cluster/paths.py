"""Where the local cluster keeps its files, all below one directory.

Used by every module of this package. It names paths only: it must never create, read or remove one.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "v1.35.4"
NODE_NAME = "windlass"
STORAGE_CLASS = "windlass-local"
HOST_USR_CLAIM = "windlass-host-usr"
HOST_REPOSITORY_CLAIM = "windlass-host-repository"

# Inside the sandbox's own mount namespace (tmpfs on /run); nothing of it exists on the host.
SANDBOX_RUN = Path("/run/windlass")
CONTAINERD_SOCKET = SANDBOX_RUN / "containerd.sock"
HOST_USR = SANDBOX_RUN / "host" / "usr"
HOST_REPOSITORY = SANDBOX_RUN / "host" / "repository"


def repository_root() -> Path:
    """The checkout this package lies in."""
    return Path(__file__).resolve().parents[4]


def default_directory() -> Path:
    """`build/cluster` of the checkout, or what WINDLASS_CLUSTER_DIRECTORY says."""
    chosen = os.environ.get("WINDLASS_CLUSTER_DIRECTORY")
    return Path(chosen).resolve() if chosen else repository_root() / "build" / "cluster"


def cache_directory() -> Path:
    """The cache of built and unpacked programs, shared by all checkouts of a user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "windlass"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster."""

    directory: Path

    @property
    def identity(self) -> str:
        """Eight characters that tell this cluster's cgroup and firewall table from others'."""
        return hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]

    @property
    def state(self) -> Path:
        return self.directory / "state.json"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def values(self) -> Path:
        return self.directory / "values.yaml"

    @property
    def config(self) -> Path:
        return self.directory / "config"

    @property
    def certificates(self) -> Path:
        return self.directory / "certificates"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def images(self) -> Path:
        return self.directory / "images"

    @property
    def binaries(self) -> Path:
        return self.directory / "bin"

    @property
    def etcd(self) -> Path:
        return self.directory / "etcd"

    @property
    def containerd(self) -> Path:
        return self.directory / "containerd"

    @property
    def volumes(self) -> Path:
        return self.directory / "volumes"

    @property
    def plan(self) -> Path:
        """What the supervisor is to run."""
        return self.config / "processes.json"

    @property
    def processes(self) -> Path:
        """What the supervisor runs now, written by it."""
        return self.directory / "processes.json"

    @property
    def overlays(self) -> dict[str, Path]:
        """Directories whose names Kubernetes has built in, and what is mounted over them in the sandbox."""
        return {
            "/var/lib/kubelet": self.directory / "kubelet",
            "/var/lib/cni": self.directory / "cni",
            "/var/log/pods": self.logs / "pods",
            "/var/log/containers": self.logs / "containers",
        }

    def owned(self) -> list[Path]:
        """Everything `down` removes from the directory."""
        return [
            self.kubeconfig,
            self.values,
            self.config,
            self.certificates,
            self.logs,
            self.images,
            self.binaries,
            self.etcd,
            self.containerd,
            self.volumes,
            self.processes,
            self.directory / "kubelet",
            self.directory / "cni",
            self.state,
        ]
