"""The command line of the local cluster: arguments in, exit status out.

Called by `windlass.cli.cluster.main`. Errors that a user can mend are printed as one line; others surface.
It must never decide anything about the cluster itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from windlass.cli.cluster import errors, kind, network, status
from windlass.cli.cluster.api import ApiError
from windlass.cli.cluster.commands import CommandFailed
from windlass.cli.cluster.down import down
from windlass.cli.cluster.paths import Layout, default_directory, repository_root
from windlass.cli.cluster.up import up

EXIT_OK, EXIT_FAILED, EXIT_NOT_RUNNING = 0, 1, 3


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="windlass cluster", description="A local Kubernetes cluster for Windlass."
    )
    commands = top.add_subparsers(dest="command", required=True)
    texts = {
        "up": "start the cluster, or do nothing when it runs",
        "down": "stop the cluster and remove all it wrote",
        "status": "say what runs; exit status 3 when nothing does",
        "kubeconfig": "print the path of the kubeconfig file",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--directory", type=Path, default=None, help="where the cluster lives")
        if name == "up":
            command.add_argument(
                "--network",
                default=None,
                help=f"address range of a new cluster (otherwise {network.DEFAULT_NETWORK})",
            )
            command.add_argument("--provider", choices=("auto", "kind", "embedded"), default="auto")
        if name == "down":
            command.add_argument(
                "--keep-data", action="store_true", help="keep objects and volumes for the next up"
            )
        if name == "status":
            command.add_argument("--json", action="store_true", help="print JSON")
    return top


def run_command(arguments: Sequence[str] | None) -> int:
    """Run one command; the exit status."""
    options = parser().parse_args(arguments)
    layout = Layout((options.directory or default_directory()).resolve())
    try:
        return _dispatch(options, layout)
    except (errors.ClusterError, CommandFailed, ApiError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_FAILED


def _dispatch(options: argparse.Namespace, layout: Layout) -> int:
    if options.command == "up":
        if options.provider == "kind" or (options.provider == "auto" and kind.available()):
            kind.up(layout, repository_root())
        else:
            up(layout, repository=repository_root(), network_range=options.network)
        return EXIT_OK
    if options.command == "down":
        down(layout, keep_data=options.keep_data)
        return EXIT_OK
    document = status.collect(layout)
    if options.command == "status":
        print(json.dumps(document, indent=2) if options.json else status.render(document), end="")
        return EXIT_OK if document["running"] else EXIT_NOT_RUNNING
    if not document["running"]:
        raise errors.not_running(str(layout.directory))
    print(layout.kubeconfig)
    return EXIT_OK
