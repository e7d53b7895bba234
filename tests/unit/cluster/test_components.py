"""What the processes are told: what each fact that was paid for by a failure says in their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from windlass.cli.cluster import components, network
from windlass.cli.cluster.debian import Programs
from windlass.cli.cluster.paths import Layout

NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")


@pytest.fixture
def inputs(tmp_path: Path) -> components.Inputs:
    programs = Programs(
        {name: Path("/bin") / name for name in ("etcd", "containerd", "runc")},
        Path("/cni"),
        "/usr/bin",
        "/lib/own",
    )
    return components.Inputs(
        layout=Layout(tmp_path),
        plan=network.parse(network.DEFAULT_NETWORK),
        programs=programs,
        binaries={name: Path("/go") / name for name in NAMES},
        pause_image="localhost/windlass-pause:1",
        mtu="1400",
        python="/usr/bin/python3",
    )


def by_name(inputs: components.Inputs) -> dict[str, list[str]]:
    return {entry["name"]: entry["arguments"] for entry in components.processes(inputs)}


def test_plan_is_what_the_supervisor_reads(inputs: components.Inputs) -> None:
    entries = json.loads(components.plan_text(inputs))
    assert {key for entry in entries for key in entry} == {"name", "arguments", "environment", "after"}
    assert [entry["name"] for entry in entries][:2] == ["etcd", "containerd"]
    assert len({entry["name"] for entry in entries}) == len(entries) == 8


def test_each_process_waits_for_what_it_needs(inputs: components.Inputs) -> None:
    after = {entry["name"]: entry["after"] for entry in components.processes(inputs)}
    assert after["etcd"] is None and after["containerd"] is None
    assert after["kube-apiserver"] == "127.0.0.1:2379"
    assert after["kubelet"] == "/run/windlass/containerd.sock"
    others = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "provisioner")
    assert {after[name] for name in others} == {"198.18.255.254:6443"}


@pytest.mark.parametrize(
    ("process", "flag"),
    [
        ("kube-apiserver", "--kubelet-preferred-address-types=InternalIP"),
        ("kube-apiserver", "--advertise-address=198.18.255.254"),
        ("kube-apiserver", "--authorization-mode=Node,RBAC"),
        ("kube-apiserver", "--service-cluster-ip-range=198.19.0.0/16"),
        ("kube-controller-manager", "--use-service-account-credentials=true"),
        ("kube-controller-manager", "--cluster-cidr=198.18.0.0/17"),
        ("kubelet", "--hostname-override=windlass"),
        ("kubelet", "--node-ip=198.18.255.254"),
        ("etcd", "--listen-client-urls=http://127.0.0.1:2379"),
    ],
)
def test_process_gets_the_flag(process: str, flag: str, inputs: components.Inputs) -> None:
    assert flag in by_name(inputs)[process]


def test_no_secret_is_on_a_command_line(inputs: components.Inputs) -> None:
    words = [word for arguments in by_name(inputs).values() for word in arguments]
    assert not [word for word in words if "PRIVATE KEY" in word or "password" in word or "token=" in word]


def test_only_the_provisioner_gets_this_package(inputs: components.Inputs) -> None:
    with_path = [
        entry["name"] for entry in components.processes(inputs) if "PYTHONPATH" in entry["environment"]
    ]
    assert with_path == ["provisioner"]
    assert {entry["environment"]["LD_LIBRARY_PATH"] for entry in components.processes(inputs)} == {"/lib/own"}


def test_kubelet_accepts_both_versions_of_control_groups(inputs: components.Inputs) -> None:
    document = yaml.safe_load(components.files(inputs)["kubelet.yaml"])
    assert document["failCgroupV1"] is False
    assert document["cgroupDriver"] == "cgroupfs"
    assert document["cgroupRoot"] == f"/windlass-{inputs.layout.identity}"
    assert document["failSwapOn"] is False
    assert document["clusterDNS"] == ["198.19.0.10"]
    assert document["authentication"]["anonymous"] == {"enabled": False}
    assert document["imageGCHighThresholdPercent"] == 100


def test_proxy_leaves_the_machine_s_connection_tracking_alone(inputs: components.Inputs) -> None:
    document = yaml.safe_load(components.files(inputs)["kube-proxy.yaml"])
    assert document["mode"] == "iptables"
    assert document["conntrack"] == {
        "maxPerCore": 0,
        "min": 0,
        "tcpEstablishedTimeout": "0s",
        "tcpCloseWaitTimeout": "0s",
    }


def test_containerd_keeps_to_its_own_places(inputs: components.Inputs) -> None:
    text = components.files(inputs)["containerd.toml"]
    for line in (
        "restrict_oom_score_adj = true",
        "netns_mounts_under_state_dir = true",
        f'root = "{inputs.layout.containerd}"',
        'state = "/run/windlass/containerd"',
        'sandbox_image = "localhost/windlass-pause:1"',
        'bin_dir = "/cni"',
        f'conf_dir = "{inputs.layout.config}/cni"',
        'BinaryName = "/bin/runc"',
    ):
        assert line in text


def test_pods_get_addresses_from_the_plan(inputs: components.Inputs) -> None:
    document = json.loads(components.files(inputs)["cni/10-windlass.conflist"])
    bridge, portmap = document["plugins"]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "198.18.0.0/17"}]]
    assert (bridge["hairpinMode"], bridge["isGateway"], bridge["mtu"]) == (True, True, 1400)
    assert portmap["type"] == "portmap"
