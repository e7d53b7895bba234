"""Accelerator seconds that a run paid for and got nothing from.

Shown by the metrics and by `windlass report`, so that both say the same. Pure arithmetic.
"""

from __future__ import annotations

from typing import Any

from windlass.api.status import GoodputSeconds


def wasted_accelerator_seconds(nodes: int, per_node: int, seconds: GoodputSeconds) -> float:
    """Devices of the whole gang times the seconds of recovering, of steps done again and of waiting between attempts.

    0 for a run on the CPU. A gang that is shrunk for a while counts as whole, so this is the most that it can be.
    Seconds before the first start are not counted: nothing had failed yet.
    """
    return nodes * per_node * (seconds.recovering + seconds.reworked + seconds.back_off)


def devices(job: dict[str, Any]) -> tuple[int, int]:
    """Pods and accelerators in each; none where the spec does not say so in numbers."""
    spec = job.get("spec")
    resources = spec.get("resources") if isinstance(spec, dict) else None
    resources = resources if isinstance(resources, dict) else {}
    accelerator = resources.get("accelerator")
    count = accelerator.get("count", 0) if isinstance(accelerator, dict) else 0
    nodes = resources.get("nodes", 1)
    return (nodes, count) if isinstance(nodes, int) and isinstance(count, int) else (1, 0)
