"""How often the kernel has killed a process of this pod for want of memory.

Read by the agent when a rank dies by SIGKILL: on cgroup v1 nothing else tells. Must never fail: a
counter that cannot be read counts as zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
SELF: Final = Path("/proc/self/cgroup")


def counter_files(root: Path = ROOT, membership: Path = SELF) -> tuple[Path, ...]:
    """Files that may hold the counter, the pod's own first: version 2, then version 1."""
    own = _own_paths(membership)
    version2 = [root / own.get("", "").lstrip("/") / "memory.events", root / "memory.events"]
    version1 = [
        root / "memory" / own.get("memory", "").lstrip("/") / "memory.oom_control",
        root / "memory" / "memory.oom_control",
    ]
    return tuple(version2 + version1)


def count(root: Path = ROOT, membership: Path = SELF) -> int:
    """Kills so far; 0 when no counter can be read."""
    for path in counter_files(root, membership):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0


def _own_paths(membership: Path) -> dict[str, str]:
    """Path by controller; the unified hierarchy has the empty name."""
    paths: dict[str, str] = {}
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return paths
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                paths[controller] = parts[2]
    return paths


def kills_whole_container(root: Path = ROOT) -> bool:
    """Whether the kernel kills all of a container for memory: the kubelet sets this up on version 2."""
    return (root / "cgroup.controllers").exists()
