"""Pod Security `restricted`, as the standard words it (Kubernetes 1.34), for pods as plain data.

Kept apart from the renderer on purpose: it knows the standard's fields, not ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ALLOWED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
SAFE_SYSCTLS = frozenset({"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range"})


def violations(pod: dict[str, Any]) -> list[str]:
    """What the admission plugin would refuse, one line each."""
    spec = pod["spec"]
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [
        f"volume {volume['name']} is a {kind}"
        for volume in spec.get("volumes", ())
        for kind in volume
        if kind != "name" and kind not in ALLOWED_VOLUMES
    ]
    context = spec.get("securityContext", {})
    found += [
        f"sysctl {each['name']}" for each in context.get("sysctls", ()) if each["name"] not in SAFE_SYSCTLS
    ]
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, ()):
            found += [f"{container['name']}: {text}" for text in of_container(container, context)]
    return found


def of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    """Violations of one container; what it leaves out counts as the pod says."""
    own = container.get("securityContext", {})
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runs as root"
    profile = own.get("seccompProfile", pod.get("seccompProfile")) or {}
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "hostPort"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if "host" in container.get(probe, {}).get("httpGet", {}):
            yield f"{probe} names a host"
