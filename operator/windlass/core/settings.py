"""What the operator's installation contributes to rendered objects.

The shell builds one RenderSettings at start, from its environment and its serving certificate; the
renderers and the chain read it. It must never carry anything that belongs to one run, and no secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from windlass.core.cost import PriceList
from windlass.core.pace import REPORT_SECONDS


@dataclass(frozen=True, slots=True)
class HostRootMount:
    """A claim that every pod mounts read-only, so that programs of the node run in an empty image."""

    claim: str
    mount_path: str
    sub_path: str | None = None


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """Image, interpreter and report address of the rendered pods; no report address means no reports."""

    workload_image: str
    workload_python: str = "python3"
    image_pull_policy: str = "IfNotPresent"
    host_root: tuple[HostRootMount, ...] = ()
    report_url: str | None = None
    report_server_name: str = ""
    report_interval_seconds: float = REPORT_SECONDS
    ca_pem: str = ""
    # Keys of taints that say that a node's devices are not sound; a trailing * stands for anything.
    health_taints: tuple[str, ...] = ()
    prices: PriceList | None = None
    # Whether the operator may delete the Workloads that Kueue makes of the runs' pods.
    kueue: bool = False
