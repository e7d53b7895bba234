"""`status`: what of the cluster runs, as text and as data.

Called by the command line. It must never change anything.
"""

from __future__ import annotations

import json
from typing import Any

from windlass.cli.cluster import kind, sandbox
from windlass.cli.cluster.paths import Layout
from windlass.cli.cluster.state import read, supervisor_is_alive


def collect(layout: Layout) -> dict[str, Any]:
    """The cluster's state: `running`, provider, server, processes with their starts, setup seconds."""
    state = read(layout)
    if state is None:
        return {"running": False, "directory": str(layout.directory)}
    running = kind.is_up() if state.provider == "kind" else supervisor_is_alive(state) and state.ready
    document: dict[str, Any] = {
        "running": running,
        "directory": str(layout.directory),
        "provider": state.provider,
        "server": state.server,
        "kubeconfig": str(layout.kubeconfig),
        "setupSeconds": state.setup_seconds,
        "phasesSeconds": state.phases_seconds,
    }
    if running and state.provider == "embedded":
        document["processes"] = _processes(layout)
        document["processCount"] = len(sandbox.members(state.supervisor_pid))
    return document


def _processes(layout: Layout) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(layout.processes.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return report


def render(document: dict[str, Any]) -> str:
    """The status for a reader."""
    if not document["running"]:
        return f"not running: {document['directory']}\nstart it with: python -m windlass.cli.cluster up\n"
    lines = [
        f"running      {document['provider']} cluster in {document['directory']}",
        f"API server   {document['server']}",
        f"kubeconfig   {document['kubeconfig']}",
        f"set up in    {document['setupSeconds']:.0f} s",
    ]
    for name, process in sorted(document.get("processes", {}).items()):
        health = "up" if process["pid"] else f"down ({process['lastExit']})"
        restarts = max(process["starts"] - 1, 0)
        lines.append(f"  {name:<24} {health}{f', restarted {restarts} times' if restarts else ''}")
    return "\n".join(lines) + "\n"
