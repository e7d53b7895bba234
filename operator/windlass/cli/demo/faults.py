"""The demo's two accidents: SIGKILL to a rank, and later the loss of a pod.

`Saboteur.look` is called with every new status. What already happened is read from status.recoveries, so a
demo that was interrupted goes on without doing harm twice. It must never touch pods of another run.
"""

from __future__ import annotations

from typing import Any

from windlass.api.meta import Phase, Rung
from windlass.api.status import JobStatus
from windlass.cli.access import Access, index_of
from windlass.cli.demo.console import say

KILL_AT, DELETE_AT = 0.3, 0.6
VICTIM = 1
KILL_RANK = """
import os, signal, sys
for entry in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
    try:
        after = open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()
        words = open(f"/proc/{entry}/cmdline").read()
    except OSError:
        continue
    # A rank is a child of the agent (PID 1) that leads a session of its own; nothing else in the pod does.
    if entry != "1" and after[1] == "1" and after[3] == entry and "windlass_workloads" in words:
        os.kill(int(entry), signal.SIGKILL)
        print("killed", entry)
        break
"""


class Saboteur:
    """Does each accident once, when the run has come far enough and is training."""

    def __init__(self, access: Access, name: str) -> None:
        self._access, self._name = access, name
        self._killed = self._deleted = False

    def look(self, job: dict[str, Any], status: JobStatus) -> None:
        """Act if it is time."""
        kind = due(status, killed=self._killed, deleted=self._deleted)
        if kind == Rung.IN_PLACE:
            self._killed = self._kill()
        elif kind == Rung.RECREATE_POD:
            self._deleted = self._delete(job)

    def _kill(self) -> bool:
        pod = self._victim()
        if pod is None:
            return False
        python = pod.spec.containers[0].command[0]
        said = self._access.run_in(pod.metadata.name, [python, "-S", "-c", KILL_RANK])
        if "killed" in said:
            say(f"!! SIGKILL to the rank in pod {pod.metadata.name}")
        return "killed" in said

    def _delete(self, job: dict[str, Any]) -> bool:
        pod = self._victim()
        if pod is None:
            return False
        say(f"!! deleting pod {pod.metadata.name}")
        self._access.core.delete_namespaced_pod(pod.metadata.name, job["metadata"]["namespace"])
        return True

    def _victim(self) -> Any | None:
        for pod in self._access.pods(self._name):
            alive = pod.metadata.deletion_timestamp is None and pod.status.phase == "Running"
            if alive and index_of(pod) == VICTIM:
                return pod
        return None


def due(status: JobStatus, *, killed: bool, deleted: bool) -> Rung | None:
    """Which accident it is time for: not before a verified checkpoint, never while recovering, one after the other."""
    total = status.progress.total_steps or status.plan.total_steps
    if not total or not status.checkpoints or status.progress.phase != Phase.TRAIN:
        return None
    done = {row.rung for row in status.recoveries}
    share = status.progress.step / total
    if Rung.IN_PLACE not in done:
        return Rung.IN_PLACE if share >= KILL_AT and not killed else None
    if Rung.RECREATE_POD not in done:
        return Rung.RECREATE_POD if share >= DELETE_AT and not deleted else None
    return None
