"""Spec block about stalls: runs whose ranks live and get nowhere.

Mounted as `spec.guards.stall` (see `guards`). What counts as progress, and the limits that hold while none
are given here, are the leader's (windlass_workloads.agent.stalls).
"""

from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.rules import Hint

STALL_HINT = Hint("write whole seconds, 300 is five minutes; leave it out to have it learned from the run")


class Stall(Model):
    """What is done about ranks that live and make no progress."""

    action: Literal["Restart", "Notify", "Off"] = "Restart"
    """Restart keeps the stacks of all ranks and restarts them from the newest verified checkpoint; Notify keeps
    the stacks and tells; Off does not watch. Until a limit has been learned from the run, Restart acts as Notify.
    Example: Notify."""
    limit_seconds: Annotated[int, Field(ge=5, le=604_800), STALL_HINT] | None = None
    """Seconds of training without a finished step that count as a stall. If left out: ten times the 95th
    percentile of the run's own step seconds, at least 300. Unit: seconds. Example: 600."""
    phase_limit_seconds: Annotated[int, Field(ge=5, le=604_800), STALL_HINT] | None = None
    """Seconds that any other phase may take: rendezvous, load, first step, validation, save, export. If left
    out: an hour, four for the export, or ten times what the phase has taken so far in the run. Unit: seconds.
    Example: 7200."""
