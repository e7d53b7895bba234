"""`windlass logs NAME [--rank N] [-f | --failed]`: what agents and ranks printed.

Called by `main`. Agents prefix the lines of their ranks with `[rank N]`; this finds the right pod for a
rank and joins several pods' lines. It must never change anything.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any

from windlass.cli import kept_log
from windlass.cli.access import Access, index_of
from windlass.cli.errors import CliError


def logs_command(options: argparse.Namespace, access: Access) -> int:
    """Print the lines; with -f until the pods end."""
    job = access.job(options.name)
    if options.failed:
        return print_failed(job, options, access)
    pods = access.pods(options.name)
    if not pods:
        raise CliError(
            f"{options.name}: has no pods now. hint: `windlass status {options.name}` says what it waits for, "
            "or how it ended"
        )
    if options.rank is not None:
        pods = [pod_of_rank(job, pods, options.rank)]
    names = [pod.metadata.name for pod in pods]
    for pod, text in lines(access, names, follow=options.follow, tail=options.tail):
        if options.rank is None or text.startswith(f"[rank {options.rank}]"):
            print(text if len(names) == 1 else f"{pod}: {text}", flush=True)
    return 0


def print_failed(job: dict[str, Any], options: argparse.Namespace, access: Access) -> int:
    """Print the kept log of the rank that failed first, the newest; which one it is goes to standard error."""
    if options.follow:
        raise CliError(
            "--failed: cannot be followed (got -f); allowed: --rank, --tail. hint: leave -f out", status=2
        )
    found = kept_log.failed_log(access, job, options.rank)
    print(f"rank {found.rank}, failed first in incarnation {found.incarnation}:", file=sys.stderr)
    skipped = max(len(found.lines) - options.tail, 0) if options.tail is not None else 0
    for text in found.lines[skipped:]:
        print(text)
    return 0


def pod_of_rank(job: dict[str, Any], pods: list[Any], rank: int) -> Any:
    """The pod in which a rank runs. Raises CliError."""
    resources = job["spec"].get("resources") or {}
    nodes, per_node = int(resources.get("nodes", 1)), int(resources.get("ranksPerNode", 1))
    if not 0 <= rank < nodes * per_node:
        raise CliError(
            f"--rank: there is no such rank (got {rank}); allowed: 0 to {nodes * per_node - 1}. "
            "hint: ranks = nodes x ranksPerNode",
            status=2,
        )
    found = next((pod for pod in pods if index_of(pod) == rank // per_node), None)
    if found is None:
        raise CliError(
            f"--rank: its pod is not there now (got {rank}). hint: a replacement is on its way, try again"
        )
    return found


def lines(access: Access, pods: list[str], *, follow: bool, tail: int | None) -> Iterator[tuple[str, str]]:
    """(pod, line) of all pods: one after another, or as they come when following."""
    if not follow or len(pods) == 1:
        for pod in pods:
            for text in access.log_lines(pod, follow=follow, tail=tail):
                yield pod, text
        return
    merged: queue.Queue[tuple[str, str | None]] = queue.Queue(maxsize=1000)
    for pod in pods:
        threading.Thread(target=_pump, args=(access, pod, tail, merged), daemon=True).start()
    open_pods = len(pods)
    while open_pods:
        pod, item = merged.get()
        if item is None:
            open_pods -= 1
        else:
            yield pod, item


def _pump(access: Access, pod: str, tail: int | None, merged: queue.Queue[tuple[str, str | None]]) -> None:
    try:
        for text in access.log_lines(pod, follow=True, tail=tail):
            merged.put((pod, text))
    except Exception as problem:  # one pod's end must not end the others
        merged.put((pod, f"(log ended: {type(problem).__name__})"))
    merged.put((pod, None))
