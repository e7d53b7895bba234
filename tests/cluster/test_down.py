"""`up` and `down` leave the machine as it was, repair what crashed and refuse what would do harm."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster_support import Cluster, claimed_range, free_range, link, output, snapshot, until
from windlass.cli.cluster import network, sandbox
from windlass.cli.cluster.paths import Layout
from windlass.cli.cluster.state import start_ticks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

POD = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 600
  containers:
    - name: main
      image: IMAGE
      imagePullPolicy: Never
      command: [/usr/bin/python3, -c, "import signal; signal.pause()"]
      volumeMounts:
        - {name: usr, mountPath: /usr, readOnly: true}
        - {name: data, mountPath: /data}
  volumes:
    - {name: usr, persistentVolumeClaim: {claimName: windlass-host-usr}}
    - {name: data, persistentVolumeClaim: {claimName: data}}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that each test brings to the state it needs, in whatever order they run."""
    mine = Cluster(Layout(tmp_path_factory.mktemp("own") / "cluster"), claimed_range())
    yield mine
    mine.command("down")


def started(cluster: Cluster) -> int:
    done = cluster.up()
    assert done.returncode == 0, done.stderr
    return int(cluster.state()["supervisor_pid"])


def start_pod(cluster: Cluster) -> None:
    until(
        lambda: "default" in cluster.kubectl("get", "serviceaccount", "-A"),
        seconds=30,
        what="service account",
    )
    cluster.kubectl("apply", "-f", "-", text_input=POD.replace("IMAGE", cluster.state()["images"]["host"]))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=90s")


def remember(cluster: Cluster, name: str) -> None:
    cluster.kubectl("create", "configmap", name, "--from-literal=a=b")


def remembered(cluster: Cluster, name: str) -> bool:
    return cluster.kubectl("get", "configmap", name, "-o", "jsonpath={.data.a}") == "b"


def starts(cluster: Cluster) -> dict[str, int]:
    processes = json.loads(cluster.command("status", "--json").stdout)["processes"]
    return {name: process["starts"] for name, process in processes.items()}


def test_down_leaves_nothing_even_with_pods_that_would_not_end(own: Cluster) -> None:
    assert own.command("down").returncode == 0
    before = snapshot(own.layout)
    pid = started(own)
    start_pod(own)
    during = snapshot(own.layout)
    members = sandbox.members(pid)
    assert {"etcd", "kube-apiserver", "kubelet", "containerd"} <= set(members.values())
    assert during["links"] - before["links"] == {link(own.layout)}
    assert during["cgroups"] > before["cgroups"]
    # The host itself: no mount, no iptables rule and no directory, also while the cluster runs.
    for kind in ("mounts", "iptables", "network namespaces", "directories"):
        assert during[kind] - before[kind] == set(), kind

    done = own.command("down")
    assert done.returncode == 0, done.stderr
    after = snapshot(own.layout)
    assert {kind: sorted(after[kind] ^ before[kind]) for kind in before if after[kind] != before[kind]} == {}
    assert [member for member in members if start_ticks(member)] == []
    assert not own.layout.directory.exists()


def test_second_up_returns_at_once_and_changes_nothing(own: Cluster) -> None:
    pid = started(own)
    before = own.layout.state.read_text()
    assert started(own) == pid
    assert own.layout.state.read_text() == before


def test_up_after_the_supervisor_was_killed_starts_anew_with_the_old_objects(own: Cluster) -> None:
    pid = started(own)
    remember(own, "killed")
    ticks = start_ticks(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: start_ticks(pid) != ticks, seconds=10, what="death of the supervisor")
    assert own.command("status").returncode == 3
    assert started(own) != pid
    assert remembered(own, "killed")


def test_a_killed_process_of_the_cluster_is_restarted_inside(own: Cluster) -> None:
    pid = started(own)
    before = starts(own)
    for name in ("etcd", "kube-apiserver"):
        victim = next(member for member, command in sandbox.members(pid).items() if command == name)
        os.kill(victim, signal.SIGKILL)
    until(lambda: "ok" in own.kubectl("get", "--raw", "/readyz", check=False), seconds=90, what="API server")
    assert own.state()["supervisor_pid"] == pid
    assert all(starts(own)[name] > before[name] for name in ("etcd", "kube-apiserver"))
    assert starts(own)["containerd"] == before["containerd"]
    assert re.search(r"etcd +up, restarted \d+ times", own.command("status").stdout)


def test_down_finds_a_cluster_whose_record_was_lost(own: Cluster) -> None:
    pid = started(own)
    members = sandbox.members(pid)
    own.layout.state.unlink()
    assert own.command("down").returncode == 0
    assert [member for member in members if start_ticks(member)] == []
    left = snapshot(own.layout)
    assert [path for path in left["cgroups"] if own.layout.identity in path] == []
    assert link(own.layout) not in left["links"]
    assert not own.layout.directory.exists()


def test_kept_data_is_there_after_the_next_up(own: Cluster) -> None:
    started(own)
    remember(own, "kept")
    assert own.command("down", "--keep-data").returncode == 0
    assert link(own.layout) not in os.listdir("/sys/class/net")
    started(own)
    assert remembered(own, "kept")


def test_down_of_nothing_is_no_error_and_makes_nothing(tmp_path: Path) -> None:
    nothing = Cluster(Layout(tmp_path / "never"), free_range())
    done = nothing.command("down")
    assert (done.returncode, nothing.layout.directory.exists()) == (0, False)
    assert "nothing to take down" in done.stderr


def test_down_does_not_touch_a_directory_that_is_not_a_cluster_s(tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "thesis").write_text("precious")
    done = Cluster(Layout(tmp_path), free_range()).command("down")
    assert done.returncode == 1 and "not a cluster's" in done.stderr
    assert (tmp_path / "volumes" / "thesis").read_text() == "precious"


def test_second_cluster_on_the_same_addresses_names_the_first(cluster: Cluster, tmp_path: Path) -> None:
    second = Cluster(Layout(tmp_path / "second"), cluster.network)
    done = second.up()
    assert done.returncode == 1
    assert f"got {cluster.layout.directory}" in done.stderr
    assert f"down --directory {cluster.layout.directory}" in done.stderr
    second.command("down")
    assert cluster.command("status").returncode == 0


def test_clusters_of_two_directories_run_side_by_side(cluster: Cluster, own: Cluster) -> None:
    started(own)
    assert {link(own.layout), link(cluster.layout)} <= set(os.listdir("/sys/class/net"))
    assert own.state()["network"] != cluster.state()["network"]
    assert (own.kubectl("get", "--raw", "/readyz"), cluster.kubectl("get", "--raw", "/readyz")) == (
        "ok",
        "ok",
    )


def test_range_that_something_else_uses_is_refused_by_name(tmp_path: Path) -> None:
    wanted = free_range()
    address = network.parse(wanted).gateway
    subprocess.run(["ip", "route", "add", "unreachable", f"{address}/32"], check=True)
    try:
        done = Cluster(Layout(tmp_path / "cluster"), wanted).up()
    finally:
        subprocess.run(["ip", "route", "delete", "unreachable", f"{address}/32"], check=True)
    assert done.returncode == 1
    assert f"{wanted} is in use on this machine" in done.stderr and address in done.stderr


def test_setup_seconds_are_recorded_per_phase(cluster: Cluster) -> None:
    state = cluster.state()
    phases = {"packages", "binaries", "files", "sandbox", "control plane", "images", "node"}
    assert set(state["phases_seconds"]) == phases
    assert 0 < sum(state["phases_seconds"].values()) <= state["setup_seconds"] + 1


def test_nothing_of_the_host_s_firewall_but_one_table(cluster: Cluster) -> None:
    tables = [line for line in output("nft", "list", "tables") if cluster.layout.identity in line]
    assert tables in ([], [f"table ip {network.table_name(cluster.layout)}"])
    assert [line for line in output("iptables-save") if "KUBE" in line or "CNI" in line] == []
