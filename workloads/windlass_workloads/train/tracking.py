"""What the loop needs of experiment tracking, and the tracker that does nothing.

The real one is tracking/mlflow.py; it is opened on rank 0 of a job that names a server. No method may block
training or raise.
"""

from __future__ import annotations

from typing import Protocol

from windlass.api.contract import RankContext
from windlass.api.status import Output, Plan, TrackingStatus
from windlass_workloads.data.sources import Roots
from windlass_workloads.train.ports import Reporter


class Tracker(Protocol):
    """Records a run somewhere."""

    def metrics(self, step: int, figures: dict[str, float]) -> None:
        """Figures of a step; those of a step done twice are recorded once."""
        ...

    def keep(self) -> None:
        """Called with every checkpoint: what is recorded so far must outlive a kill."""
        ...

    def finish(self, output: Output | None, checkpoint_digest: str | None) -> Output | None:
        """Records the result; returns the output with registered model and version filled in."""
        ...

    def close(self, status: str) -> None:
        """Ends recording before the run is complete: KILLED or FAILED. The first end counts."""
        ...


class NoTracker:
    """For ranks other than the first, and for jobs without tracking."""

    def metrics(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def keep(self) -> None:
        """Nothing."""

    def finish(self, output: Output | None, checkpoint_digest: str | None) -> Output | None:
        """The output as it is."""
        return output

    def close(self, status: str) -> None:
        """Nothing."""


def open_tracker(
    context: RankContext, report: Reporter, plan: Plan, *, resumed_step: int, roots: Roots
) -> Tracker:
    """The job's tracker on rank 0, one that does nothing elsewhere."""
    tracking = context.config.spec.tracking
    if tracking is None or context.rank != 0:
        return NoTracker()
    from windlass_workloads.tracking.mlflow import MLflowTracker, read_credential

    try:
        credential = read_credential(tracking.mlflow, roots.secrets)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"its value {error}"
        report.tracking(TrackingStatus(), f"spec.tracking.mlflow.secretRef: cannot be read ({why})")
        return NoTracker()
    return MLflowTracker(context, report, plan, resumed_step=resumed_step, credential=credential)
