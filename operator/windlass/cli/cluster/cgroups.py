"""The control group below which the kubelet puts pods, in every hierarchy of the machine.

Used by `up` and `down`. It must never touch a group that does not carry this cluster's name.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from windlass.cli.cluster import errors

ROOT = Path("/sys/fs/cgroup")
REMOVE_SECONDS = 15.0


def hierarchies(mounts: str) -> list[Path]:
    """Mount points of all cgroup hierarchies, from the text of /proc/self/mounts."""
    found = []
    for line in mounts.splitlines():
        _, mount_point, kind, options = line.split()[:4]
        # The named systemd hierarchy counts: the kubelet requires its root in it too.
        if kind == "cgroup2" or (kind == "cgroup" and options):
            found.append(Path(mount_point))
    return found


def create(name: str, mounts: str) -> list[str]:
    """Make the group in each hierarchy and return the paths."""
    made = []
    for hierarchy in hierarchies(mounts):
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        _prepare(hierarchy, group)
        made.append(str(group))
    return made


def _prepare(hierarchy: Path, group: Path) -> None:
    control = hierarchy / "cgroup.subtree_control"
    if control.exists():
        for controller in (hierarchy / "cgroup.controllers").read_text().split():
            try:
                control.write_text(f"+{controller}")
            except OSError:
                # A controller that this level cannot delegate; the kubelet names those it misses.
                continue
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, parent = group / name, hierarchy / name
        # In the first version a new cpuset is empty and takes no process until it is filled.
        if own.exists() and parent.exists() and not own.read_text().strip():
            own.write_text(parent.read_text())


def remove(groups: list[str]) -> None:
    """Remove the groups with all below them; what is gone is no error. Raises ClusterError."""
    deadline = time.monotonic() + REMOVE_SECONDS
    for group in groups:
        while Path(group).exists():
            if _remove_tree(group):
                break
            # The kernel empties a group a moment after its last process ended.
            if time.monotonic() > deadline:
                raise errors.not_ready(f"control group {group}", REMOVE_SECONDS, "still holds processes")
            time.sleep(0.05)


def _remove_tree(group: str) -> bool:
    complete = True
    for path, _directories, _files in os.walk(group, topdown=False):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            complete = False
    return complete
