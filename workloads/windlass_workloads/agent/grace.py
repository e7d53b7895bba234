"""Whether a pod that is told to leave has time for the step at hand and a save, by what both have taken.

Pure; used by `view`, which puts the answer among the plan's warnings.
"""

from __future__ import annotations

import math

from windlass_workloads.agent.identity import GRACE_RESERVE_SECONDS

FIELD = "spec.recovery.terminationGracePeriodSeconds"
SLACK = 1.5
"""A busy volume is slower than a quiet one."""


def grace_warning(grace_seconds: int, *, step_seconds: float, save_seconds: float) -> str | None:
    """What is wrong with a grace period, None while it is long enough."""
    taken = step_seconds + save_seconds
    if taken <= grace_seconds - GRACE_RESERVE_SECONDS:
        return None
    enough = 10 * math.ceil((SLACK * taken + GRACE_RESERVE_SECONDS) / 10)
    return (
        f"{FIELD}: a pod that is told to leave has no time to save (got {grace_seconds}; a step takes "
        f"{step_seconds:.0f} s and a save {save_seconds:.0f} s), so that steps since the last checkpoint are lost. "
        f"hint: set it to {enough} or more"
    )
