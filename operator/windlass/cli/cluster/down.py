"""`down`: end the cluster and give the machine back as it was.

Called by the command line, and by `up` before it starts anew. Works from `state.json` alone and may be
repeated. It must never remove what the state does not list, and no file while something is still mounted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from windlass.cli.cluster import cgroups, debian, errors, kind, network, sandbox
from windlass.cli.cluster.commands import run
from windlass.cli.cluster.components import cgroup_name
from windlass.cli.cluster.console import say
from windlass.cli.cluster.paths import Layout, cache_directory
from windlass.cli.cluster.state import State, check_directory, locked, read, start_ticks


def down(layout: Layout, *, keep_data: bool) -> None:
    """Stop the cluster and, unless data is kept, remove all it wrote. Raises ClusterError."""
    if not layout.directory.exists():
        say(f"nothing to take down: {layout.directory}")
        return
    check_directory(layout)
    with locked(layout):
        state = read(layout) or (_assumed(layout) if sandbox.find(layout) else None)
        if state is None:
            say(f"nothing runs in {layout.directory}")
        elif state.provider == "kind":
            kind.down()
        else:
            stop(layout, state, programs=debian.ensure(cache_directory()))
        if not keep_data:
            remove_files(layout)
    if not keep_data:
        layout.lock.unlink(missing_ok=True)
        if not any(layout.directory.iterdir()):
            layout.directory.rmdir()
    say(f"down: {layout.directory}")


def stop(layout: Layout, state: State, *, programs: debian.Programs) -> None:
    """End the processes and undo what the state lists. Raises ClusterError."""
    stop_processes(layout)
    network.disconnect(layout, state, programs=programs)
    cgroups.remove(state.cgroups)


def _assumed(layout: Layout) -> State:
    """What a cluster without a record must have made; only the outgoing link's flag cannot be known."""
    groups = cgroups.hierarchies(Path("/proc/self/mounts").read_text())
    names = [str(hierarchy / cgroup_name(layout)) for hierarchy in groups]
    return State("embedded", str(layout.directory), "", "", cgroups=names)


def stop_processes(layout: Layout) -> None:
    """End every sandbox of this directory. Raises ClusterError when one stays."""
    for supervisor in sandbox.find(layout):
        ticks = start_ticks(supervisor)
        if ticks is not None:
            say("stopping the cluster's processes")
            sandbox.stop(supervisor, ticks)


def remove_files(layout: Layout) -> None:
    """Remove the cluster's files. Raises ClusterError when something is mounted below."""
    mounted = mounts_below(layout.directory, Path("/proc/self/mounts").read_text())
    for mount_point in reversed(mounted):
        run(["umount", "--lazy", mount_point])
    if mounts_below(layout.directory, Path("/proc/self/mounts").read_text()):
        raise errors.not_ready("unmounting", 0, ", ".join(mounted))
    for path in layout.owned():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def mounts_below(directory: Path, mounts: str) -> list[str]:
    """Mount points below the directory, outermost first."""
    points = [line.split()[1].replace("\\040", " ") for line in mounts.splitlines()]
    return [point for point in points if Path(point).is_relative_to(directory)]
