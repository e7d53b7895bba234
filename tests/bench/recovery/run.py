"""One run of Windlass on the cluster: disturbed again and again, with the times of each recovery.

The clock begins at the fault's own time and ends when the slowest rank enters the forward of the step after the
resumed one, which the leader keeps in forward.jsonl of the run's store.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from bench.recovery.figures import gang_began, noticed
from bench.recovery.ground import Ground, seldom
from e2e.support import eventually
from windlass.api.uris import split_claim_uri
from windlass_workloads.agent.memoir import FORWARD
from windlass_workloads.checkpoint import choose
from windlass_workloads.checkpoint.store import TIMELINE, RunStore, parse_checkpoint_name

WORLD = 2
NAME = "recovery"
START_SECONDS, RECOVERY_SECONDS = 420.0, 240.0
IMPORTS = re.compile(r"warm parent is ready seconds=([0-9.]+)")
CHANGES: dict[str, Any] = {
    "training": {
        "globalBatchSize": 2,
        "microBatchSize": 1,
        "maxSteps": 100_000,
        "scheduler": {"type": "Constant"},
        "precision": "FP32",
    },
    "checkpoint": {"everySteps": 2, "export": "None", "mergeAdapter": False},
    "tracking": None,
}


@dataclass(frozen=True, slots=True)
class Run:
    """The job and its store."""

    ground: Ground
    store: RunStore

    # --- its life -------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Save and give the processors back."""
        jobs = self.ground.jobs
        jobs.patch(NAME, {"suspend": True})
        jobs.await_condition(NAME, "Suspended", seconds=RECOVERY_SECONDS)
        eventually(lambda: not jobs.pods(NAME), "the suspended gang's pods are gone", RECOVERY_SECONDS)

    def resume(self) -> None:
        """Go on, until all ranks train; nothing when it is not suspended."""
        if not (self.ground.jobs.get(NAME) or {})["spec"].get("suspend"):
            return
        before = self.incarnation()
        self.ground.jobs.patch(NAME, {"suspend": False})
        self.await_began(before, START_SECONDS)

    def delete(self) -> None:
        """Remove the job and wait for its pods to go."""
        self.ground.jobs.delete(NAME)
        eventually(lambda: not self.ground.jobs.pods(NAME), "the job's pods are gone", RECOVERY_SECONDS)

    # --- what its store says --------------------------------------------------------------------

    def incarnation(self) -> int:
        """The newest that trained; 0 before the first."""
        return max((int(str(row["incarnation"])) for row in self.store.read_lines(FORWARD)), default=0)

    def await_began(self, before: int, seconds: float = RECOVERY_SECONDS) -> tuple[int, int, float]:
        """(incarnation, step, time) at which a gang after incarnation `before` began."""

        check = seldom(lambda: self.ground.jobs.fail_early(NAME))

        def look() -> tuple[int, int, float] | None:
            check()
            return gang_began(self.store.read_lines(FORWARD), after=before, world=WORLD)

        return eventually(look, f"an incarnation after {before} trains", seconds)

    def await_progress(self) -> None:
        """Wait for a verified checkpoint of the present incarnation that is newer than any before it."""
        number = self.incarnation()

        def look() -> bool:
            names = self.store.list_checkpoints()
            if not any((parse_checkpoint_name(name) or (0, 0))[1] == number for name in names):
                return False
            sound = [each for each in choose.candidates(self.store) if each.problem is None]
            mine = max((each.step for each in sound if each.incarnation == number), default=0)
            return mine > max((each.step for each in sound if each.incarnation < number), default=0)

        eventually(look, f"a newer checkpoint in incarnation {number}", RECOVERY_SECONDS)

    def record(self, incarnation: int) -> dict[str, Any]:
        """The row of status.recoveries with which this incarnation began, as the leader wrote it down."""

        def look() -> dict[str, Any] | None:
            found = [row["recovery"] for row in self.store.read_lines(TIMELINE) if "recovery" in row]
            return next((row for row in found if row["incarnation"] == incarnation), None)

        return eventually(look, f"the account of incarnation {incarnation}", 60)

    # --- faults ---------------------------------------------------------------------------------

    def kill_rank(self, rank: int) -> dict[str, Any]:
        """SIGKILL to one rank from inside its pod."""
        before = self.incarnation()
        pod = self.ground.jobs.pod_at(NAME, rank)
        if pod is None:
            raise AssertionError(f"{NAME}: no running pod of index {rank}")
        killed_at = self.ground.kill(pod.metadata.name, f"windlass-rank-{rank}"[:15])
        return {"rank": rank, **self._recovered(before, killed_at)}

    def delete_pod(self, index: int) -> dict[str, Any]:
        """An ordinary delete of one pod, as `kubectl delete pod` does it; with the imports of its replacement.

        A leader knows of its own end by its signal and writes it down when it is gone, so nothing is said of `detect`.
        """
        jobs, before = self.ground.jobs, self.incarnation()
        pod = jobs.pod_at(NAME, index)
        if pod is None:
            raise AssertionError(f"{NAME}: no running pod of index {index}")
        deleted_at = time.time()
        jobs.core.delete_namespaced_pod(pod.metadata.name, jobs.namespace)
        found = self._recovered(before, deleted_at)
        if index == 0:
            found["detect"] = None
        return {"index": index, **found, "importSeconds": self.import_seconds(index, not_in=pod.metadata.uid)}

    def import_seconds(self, index: int, *, not_in: str = "") -> float:
        """What the imports of a member's present pod took, as its agent logged."""

        def look() -> float | None:
            pod = self.ground.jobs.pod_at(NAME, index)
            if pod is None or pod.metadata.uid == not_in:
                return None
            lines = self.ground.access.log_lines(pod.metadata.name, follow=False)
            found = [match for line in lines if (match := IMPORTS.search(line))]
            return float(found[0][1]) if found else None

        return eventually(look, f"import seconds of the pod of index {index}", 60)

    def _recovered(self, before: int, fault_at: float) -> dict[str, Any]:
        number, step, began_at = self.await_began(before)
        record = self.record(number)
        if record["resumedStep"] + 1 != step:
            raise AssertionError(
                f"incarnation {number} resumed at {record['resumedStep']}, began with {step}"
            )
        return {
            "seconds": round(began_at - fault_at, 4),
            "detect": round(noticed(record, fault_at), 4),
            "rung": record["rung"],
            "incarnations": number - before,
            "fromStep": record["fromStep"],
            "resumedStep": record["resumedStep"],
            "lostSteps": record["lostSteps"],
            "phases": record["seconds"],
        }


def start(ground: Ground) -> Run:
    """Apply the job and wait until both ranks train."""
    job = ground.jobs.create(ground.manifest(NAME, CHANGES))
    claim, path = split_claim_uri(job["spec"]["checkpoint"]["store"])
    where = ground.jobs.volumes / claim / path / ground.access.namespace / NAME / job["metadata"]["uid"]
    run = Run(ground, RunStore(where))
    run.await_began(0, START_SECONDS)
    return run
