"""Objects that every local cluster starts with: CoreDNS, the default StorageClass, the provisioner's role.

Called by `up`. Pure data besides `apply_all`; it must never contain anything of Windlass' own chart.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from windlass.cli.cluster import dns
from windlass.cli.cluster.api import Client
from windlass.cli.cluster.certificates import PROVISIONER_USER
from windlass.cli.cluster.paths import STORAGE_CLASS
from windlass.cli.cluster.provisioning import PROVISIONER

_DNS_LABELS = {"k8s-app": "kube-dns"}
_DNS = {"name": "coredns", "namespace": "kube-system"}
_RBAC = "rbac.authorization.k8s.io"


def corefile(forwarders: list[str]) -> str:
    """CoreDNS' configuration: the cluster's names, and what is asked of others.

    Two server blocks: in one, `template` would come before `kubernetes` and answer everything.
    """
    outside = (
        f"forward . {' '.join(forwarders)}"
        if forwarders
        else "template ANY ANY {\n        rcode NXDOMAIN\n    }"
    )
    return f"""cluster.local in-addr.arpa ip6.arpa {{
    errors
    health :8080 {{
        lameduck 1s
    }}
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        ttl 5
    }}
    cache {{
        success 4096 5 5
        denial 1024 1 1
    }}
}}
. {{
    errors
    {outside}
    cache 30
}}
"""


def usable_forwarders(resolv_conf: str) -> list[str]:
    """Name servers of the host that a pod could reach and that answer now."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_plain_address(words[1]):
            found.append(words[1])
    return [
        # Any answer counts, also a refusal.
        server
        for server in found
        if dns.answer_count(server, "", dns.NAME_SERVER_RECORD) is not None
    ]


def _is_plain_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback


def objects(*, dns_image: str, dns_address: str, forwarders: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """API paths and objects, in the order they are applied."""
    core, apps = "/api/v1", "/apis/apps/v1"
    rbac, storage = f"/apis/{_RBAC}/v1", "/apis/storage.k8s.io/v1"
    kube_system = f"{core}/namespaces/kube-system"
    return [
        (f"{storage}/storageclasses/{STORAGE_CLASS}", _storage_class()),
        (f"{rbac}/clusterroles/{PROVISIONER_USER}", _provisioner_role()),
        (
            f"{rbac}/clusterrolebindings/{PROVISIONER_USER}",
            _binding(PROVISIONER_USER, "User", PROVISIONER_USER),
        ),
        (
            f"{kube_system}/serviceaccounts/coredns",
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _DNS},
        ),
        (f"{rbac}/clusterroles/system:coredns", _dns_role()),
        (
            f"{rbac}/clusterrolebindings/system:coredns",
            _binding("system:coredns", "ServiceAccount", "coredns"),
        ),
        (f"{kube_system}/configmaps/coredns", _dns_config(forwarders)),
        (f"{apps}/namespaces/kube-system/deployments/coredns", _dns_deployment(dns_image)),
        (f"{kube_system}/services/kube-dns", _dns_service(dns_address)),
    ]


def apply_all(client: Client, documents: list[tuple[str, dict[str, Any]]]) -> None:
    """Apply each object. Raises ApiError."""
    for path, document in documents:
        client.apply(path, document)


def _storage_class() -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": annotations},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def _role(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}


def _provisioner_role() -> dict[str, Any]:
    read, change = ["get", "list", "watch"], ["create", "delete"]
    return _role(
        PROVISIONER_USER,
        [
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": read},
            {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": [*read, *change]},
            {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": [*read, "create"]},
        ],
    )


def _dns_role() -> dict[str, Any]:
    read = ["list", "watch"]
    return _role(
        "system:coredns",
        [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        ],
    )


def _binding(role: str, kind: str, subject: str) -> dict[str, Any]:
    who: dict[str, Any] = {"kind": kind, "name": subject}
    if kind == "ServiceAccount":
        who["namespace"] = "kube-system"
    else:
        who["apiGroup"] = _RBAC
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [who],
    }


def _dns_config(forwarders: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _DNS,
        "data": {"Corefile": corefile(forwarders)},
    }


def _dns_deployment(image: str) -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "40Mi"}, "limits": {"memory": "170Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
            # In place of NET_BIND_SERVICE: port 53 for an ordinary user in the pod's own network.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**_DNS, "labels": _DNS_LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _DNS_LABELS},
            "template": {"metadata": {"labels": _DNS_LABELS}, "spec": pod},
        },
    }


def _dns_service(address: str) -> dict[str, Any]:
    ports = [
        {"name": name, "port": 53, "targetPort": 53, "protocol": protocol}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    metadata = {"name": "kube-dns", "namespace": "kube-system", "labels": _DNS_LABELS}
    spec = {"clusterIP": address, "selector": _DNS_LABELS, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
