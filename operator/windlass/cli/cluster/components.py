"""What the cluster's processes are told: command lines and configuration files, as data.

Called by `up`, which writes the files and hands the plan to the supervisor. Pure besides the paths it
names: it must never start a process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from windlass.cli.cluster.debian import Programs
from windlass.cli.cluster.network import API_PORT, BRIDGE, AddressPlan
from windlass.cli.cluster.paths import CONTAINERD_SOCKET, NODE_NAME, SANDBOX_RUN, Layout

ETCD_CLIENT = "127.0.0.1:2379"


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that command lines and files depend on."""

    layout: Layout
    plan: AddressPlan
    programs: Programs
    binaries: dict[str, Path]
    pause_image: str
    mtu: str
    python: str


def processes(inputs: Inputs) -> list[dict[str, Any]]:
    """The supervisor's plan; `after` is what must answer before a process is started."""
    api_server = f"{inputs.plan.node}:{API_PORT}"
    entries = [
        ("etcd", etcd(inputs), None),
        ("containerd", containerd(inputs), None),
        ("kube-apiserver", api_server_command(inputs), ETCD_CLIENT),
        ("kube-controller-manager", controller_manager(inputs), api_server),
        ("kube-scheduler", scheduler(inputs), api_server),
        ("kubelet", kubelet(inputs), str(CONTAINERD_SOCKET)),
        ("kube-proxy", proxy(inputs), api_server),
        ("provisioner", provisioner(inputs), api_server),
    ]
    environment = inputs.programs.environment()
    package_root = str(Path(__file__).resolve().parents[3])
    return [
        {
            "name": name,
            "arguments": arguments,
            "environment": {**environment, "PYTHONPATH": package_root}
            if name == "provisioner"
            else environment,
            "after": after,
        }
        for name, arguments, after in entries
    ]


def plan_text(inputs: Inputs) -> str:
    """The plan as the file that the supervisor reads."""
    return json.dumps(processes(inputs), indent=2) + "\n"


def etcd(inputs: Inputs) -> list[str]:
    """Loopback of the sandbox only: no host process and no pod can reach it."""
    return [
        str(inputs.programs.paths["etcd"]),
        "--name=windlass",
        f"--data-dir={inputs.layout.etcd}",
        f"--listen-client-urls=http://{ETCD_CLIENT}",
        f"--advertise-client-urls=http://{ETCD_CLIENT}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=windlass=http://127.0.0.1:2380",
        "--auto-compaction-retention=1",
    ]


def containerd(inputs: Inputs) -> list[str]:
    return [
        str(inputs.programs.paths["containerd"]),
        "--config",
        str(inputs.layout.config / "containerd.toml"),
    ]


def api_server_command(inputs: Inputs) -> list[str]:
    certificates, plan = inputs.layout.certificates, inputs.plan
    return [
        str(inputs.binaries["kube-apiserver"]),
        f"--advertise-address={plan.node}",
        "--bind-address=0.0.0.0",
        f"--secure-port={API_PORT}",
        f"--etcd-servers=http://{ETCD_CLIENT}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={certificates}/ca.crt",
        f"--tls-cert-file={certificates}/apiserver.crt",
        f"--tls-private-key-file={certificates}/apiserver.key",
        f"--kubelet-certificate-authority={certificates}/ca.crt",
        f"--kubelet-client-certificate={certificates}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={certificates}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={certificates}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={certificates}/front-proxy-client.crt",
        f"--proxy-client-key-file={certificates}/front-proxy-client.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={certificates}/service-account.pub",
        f"--service-account-signing-key-file={certificates}/service-account.key",
        f"--service-cluster-ip-range={plan.services}",
        "--enable-bootstrap-token-auth=false",
        "--profiling=false",
    ]


def controller_manager(inputs: Inputs) -> list[str]:
    certificates = inputs.layout.certificates
    return [
        str(inputs.binaries["kube-controller-manager"]),
        f"--kubeconfig={inputs.layout.config}/controller-manager.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--root-ca-file={certificates}/ca.crt",
        f"--service-account-private-key-file={certificates}/service-account.key",
        f"--cluster-signing-cert-file={certificates}/ca.crt",
        f"--cluster-signing-key-file={certificates}/ca.key",
        # Claims that name their volume are looked at again at this interval; the default is 15 s.
        "--pvclaimbinder-sync-period=2s",
        f"--cluster-cidr={inputs.plan.pods}",
        f"--service-cluster-ip-range={inputs.plan.services}",
        "--profiling=false",
    ]


def scheduler(inputs: Inputs) -> list[str]:
    return [
        str(inputs.binaries["kube-scheduler"]),
        f"--kubeconfig={inputs.layout.config}/scheduler.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
    ]


def kubelet(inputs: Inputs) -> list[str]:
    return [
        str(inputs.binaries["kubelet"]),
        f"--config={inputs.layout.config}/kubelet.yaml",
        f"--kubeconfig={inputs.layout.config}/kubelet.kubeconfig",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={inputs.plan.node}",
        "--root-dir=/var/lib/kubelet",
    ]


def proxy(inputs: Inputs) -> list[str]:
    return [str(inputs.binaries["kube-proxy"]), f"--config={inputs.layout.config}/kube-proxy.yaml"]


def provisioner(inputs: Inputs) -> list[str]:
    return [
        inputs.python,
        "-m",
        "windlass.cli.cluster.provisioner",
        f"--kubeconfig={inputs.layout.config}/provisioner.kubeconfig",
        f"--volumes={inputs.layout.volumes}",
    ]


def files(inputs: Inputs) -> dict[str, str]:
    """Configuration files by name, for the `config` folder."""
    return {
        "containerd.toml": _containerd_toml(inputs),
        "cni/10-windlass.conflist": json.dumps(_cni(inputs), indent=2) + "\n",
        "kubelet.yaml": yaml.safe_dump(_kubelet_configuration(inputs), sort_keys=False),
        "kube-proxy.yaml": yaml.safe_dump(_proxy_configuration(inputs), sort_keys=False),
    }


def _containerd_toml(inputs: Inputs) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE every sandbox would fail to start.
    return f"""version = 2
root = "{inputs.layout.containerd}"
state = "{SANDBOX_RUN}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{inputs.pause_image}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "{inputs.programs.paths["runc"]}"
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{inputs.programs.plugins}"
  conf_dir = "{inputs.layout.config}/cni"
"""


def _cni(inputs: Inputs) -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        # The host's table translates addresses of what leaves the machine; here nothing needs it.
        "ipMasq": False,
        "hairpinMode": True,
        "mtu": int(inputs.mtu),
        "ipam": {
            "type": "host-local",
            "dataDir": "/var/lib/cni/networks",
            "ranges": [[{"subnet": str(inputs.plan.pods)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "windlass", "plugins": [bridge, portmap]}


def _kubelet_configuration(inputs: Inputs) -> dict[str, Any]:
    certificates = inputs.layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup_name(inputs.layout)}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "clusterDNS": [inputs.plan.dns_service],
        "clusterDomain": "cluster.local",
        # Pods get the cluster's DNS server only; it forwards what is not its own.
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": f"{certificates}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{certificates}/kubelet.crt",
        "tlsPrivateKeyFile": f"{certificates}/kubelet.key",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "2%", "imagefs.available": "2%"},
        # Images cannot be pulled again: nothing may collect them.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 200,
        "registerWithTaints": [],
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def _proxy_configuration(inputs: Inputs) -> dict[str, Any]:
    nothing = "0s"
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{inputs.layout.config}/proxy.kubeconfig"},
        "hostnameOverride": NODE_NAME,
        "mode": "iptables",
        "clusterCIDR": str(inputs.plan.pods),
        "metricsBindAddress": "127.0.0.1:10249",
        # The connection-tracking limits are the machine's; a network namespace may not set them.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": nothing,
            "tcpCloseWaitTimeout": nothing,
        },
    }


def cgroup_name(layout: Layout) -> str:
    """The name of this cluster's control group."""
    return f"windlass-{layout.identity}"
