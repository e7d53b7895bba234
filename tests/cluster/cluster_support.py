"""A cluster of these tests' own, beside any other that runs: own directory, own address range.

Fixtures and snapshots for the tests in this folder. Nothing here touches the cluster in `build/cluster`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.cli.cluster import debian, network
from windlass.cli.cluster.paths import Layout, cache_directory

ROOT = Path(__file__).resolve().parents[2]
RANGES = ("10.196.0.0/15", "10.198.0.0/15", "172.22.0.0/15", "198.18.0.0/15")
CLAIMED: list[str] = []
"""Ranges of this run's clusters: one that is chosen is used later, and perhaps again after the cluster was down."""


@dataclass(frozen=True)
class Cluster:
    """One cluster of the tests and the ways to speak to it."""

    layout: Layout
    network: str

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line on this cluster's directory."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "windlass.cli.cluster",
                *arguments,
                "--directory",
                str(self.layout.directory),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT / "operator")},
            capture_output=True,
            text=True,
            check=False,
            timeout=1500,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        """Start it, or find it running."""
        return self.command("up", "--provider", "embedded", "--network", self.network)

    def kubectl(self, *arguments: str, text_input: str | None = None, check: bool = True) -> str:
        """Standard output of the cluster's own kubectl."""
        done = subprocess.run(
            [str(self.layout.binaries / "kubectl"), "--kubeconfig", str(self.layout.kubeconfig), *arguments],
            input=text_input,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout if check else done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """The recorded state."""
        document: dict[str, Any] = json.loads(self.layout.state.read_text())
        return document


def claimed_range() -> str:
    """An address range for a cluster of this run, for as long as the run lasts."""
    CLAIMED.append(free_range())
    return CLAIMED[-1]


def free_range() -> str:
    """An address range that no route of this machine touches and that no cluster of this run was promised."""
    routes = json.loads(
        subprocess.run(["ip", "-json", "route", "show"], capture_output=True, text=True, check=True).stdout
    )
    used = [
        ipaddress.IPv4Network(route["dst"], strict=False) for route in routes if route["dst"] != "default"
    ]
    used += [ipaddress.IPv4Network(one) for one in CLAIMED]
    for candidate in RANGES:
        if not any(ipaddress.IPv4Network(candidate).overlaps(other) for other in used):
            return candidate
    raise AssertionError(f"every one of {RANGES} is in use: {routes}, {CLAIMED}")


def until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Poll until the condition is true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return value


def output(*command: str) -> list[str]:
    """Lines that a program of the cluster's package set prints."""
    programs = debian.ensure(cache_directory())
    path = programs.environment()["PATH"]
    done = subprocess.run(
        command, env={**programs.environment(), "PATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def snapshot(layout: Layout) -> dict[str, set[str]]:
    """Everything of the machine that a cluster might leave something in, by kind."""
    return {
        "processes": _processes_of(layout),
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
        "network namespaces": {path.name for path in Path("/run/netns").glob("*")},
        "links": {path.name for path in Path("/sys/class/net").iterdir()},
        "routes": set(output("ip", "route", "show", "table", "all")),
        "rules": set(output("ip", "rule", "show")),
        "iptables": _iptables(),
        "nft": set(output("nft", "list", "ruleset")),
        "settings": _settings(),
        "cgroups": _cgroups(layout),
        "directories": {
            str(path)
            for parent in ("/run", "/var/lib", "/var/log", "/etc", "/var/run", "/opt")
            for path in Path(parent).iterdir()
        },
    }


def _processes_of(layout: Layout) -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # What belongs to this cluster names its directory or its control group; others' come and go.
        if str(layout.directory) in text and str(os.getpid()) != path.parent.name:
            found.add(text)
    return found


def _iptables() -> set[str]:
    lines = [*output("iptables-save"), *output("ip6tables-save")]
    return {line.split(" [")[0] for line in lines if not line.startswith("#")}


def _settings() -> set[str]:
    found = set()
    names = ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max"]
    names += ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"]
    names += ["kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"]
    paths = [Path("/proc/sys") / name for name in names]
    paths += [path for path in Path("/proc/sys/net/ipv4/conf").glob("*/*") if path.is_file()]
    for path in paths:
        try:
            found.add(f"{path}={path.read_text().strip()}")
        except OSError:
            continue
    return found


def _cgroups(layout: Layout) -> set[str]:
    # Pods of another cluster, such as the one the tests share, come and go meanwhile.
    return {
        directory
        for directory, _, _ in os.walk("/sys/fs/cgroup")
        if ("windlass" in directory or "kube" in directory)
        and (
            f"windlass-{layout.identity}" in directory or not re.search(r"/windlass-[0-9a-f]{8}\b", directory)
        )
    }


def link(layout: Layout) -> str:
    """The host's end of a cluster's link."""
    return network.link_name(layout)
