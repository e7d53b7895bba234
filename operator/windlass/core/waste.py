"""Accelerator seconds that a run paid for and got nothing from.

Shown by the metrics and by `windlass report`, so that both say the same. Pure arithmetic.
"""

from __future__ import annotations

from windlass.api.status import GoodputSeconds


def wasted_accelerator_seconds(nodes: int, per_node: int, seconds: GoodputSeconds) -> float:
    """Devices of the whole gang times the seconds of recovering, of steps done again and of waiting between attempts.

    0 for a run on the CPU. A gang that is shrunk for a while counts as whole, so this is the most that it can be.
    Seconds before the first start are not counted: nothing had failed yet.
    """
    return nodes * per_node * (seconds.recovering + seconds.reworked + seconds.back_off)
