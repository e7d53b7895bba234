"""Whether a failure speaks against the node it happened on, and how strongly.

Used by `budget` for the entry to the ladder, by the leader for the verdict of a pod that it lets go, and by
the operator for pods it lost. Must never look at anything but a judgement and counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from windlass.api.contract import Suspicion
from windlass.api.meta import Exclusion, FailureClass, SuspectReason
from windlass.core.failure.classify import Judgement

# Failures of the infrastructure on one node, without progress between, that are no accident any more.
NODE_HITS: Final = 2
# A termination message holds 4096 bytes.
SUSPICION_LINES: Final = 4
SUSPICION_CHARACTERS: Final = 200
# What a node has no part in: a full claim, a wrong setting and too little memory are the same everywhere.
NODE_INDEPENDENT: Final = (
    FailureClass.OUT_OF_MEMORY,
    FailureClass.CONFIGURATION,
    FailureClass.STORAGE,
    FailureClass.PREEMPTED,
    FailureClass.NUMERIC,
)
BAD_NODE_ROWS: Final = ("node lost", "hardware")
XID: Final = re.compile(r"\bxid\b\s*(?:\([^)]*\))?\s*[:=]?\s*(?P<number>\d+)", re.IGNORECASE)
# Memory, bus, link and firmware of the device. Others (13, 31, 43, 45, ...) are as often the program's fault.
DEVICE_XIDS: Final = frozenset(
    (46, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 109, 110, 119, 120, 136, 140, 142, 143)
)
DEVICE: Final = re.compile(
    r"uncorrectable ecc|ecc error|gpu has fallen off the bus|nvlink error|device-side hardware", re.IGNORECASE
)


def blames_node(judgement: Judgement) -> bool:
    """Whether another node may help: it is known which one failed, and it may have had a part in it."""
    return judgement.first_failed.node is not None and judgement.failure_class not in NODE_INDEPENDENT


def is_bad_node(judgement: Judgement, failures: Mapping[str, int]) -> bool:
    """Whether there is evidence of a bad node; `failures` counts by node, this failure included."""
    if judgement.failure_class is not FailureClass.INFRASTRUCTURE or not blames_node(judgement):
        return False
    node = judgement.first_failed.node or ""
    return judgement.row in BAD_NODE_ROWS or failures.get(node, 0) >= NODE_HITS


def suspicion_of(judgement: Judgement) -> Suspicion:
    """What this failure says about its node. Only a device that says itself that it is broken excludes it."""
    said = judgement.evidence[:SUSPICION_LINES] or (judgement.message,)
    lines = [line[:SUSPICION_CHARACTERS] for line in said]
    reason, exclusion = SuspectReason.REPEATED_FAILURES, Exclusion.PREFERRED
    if judgement.row == "node lost":
        reason = SuspectReason.NODE_LOST
    elif judgement.row == "hardware":
        reason = SuspectReason.DEVICE_ERROR
        if is_broken_device("\n".join([judgement.message, *judgement.evidence])):
            exclusion = Exclusion.REQUIRED
    return Suspicion(
        reason=reason, exclusion=exclusion, failure_class=judgement.failure_class, evidence=lines
    )


def is_broken_device(text: str) -> bool:
    """Whether the text reports a fault of the device itself."""
    if DEVICE.search(text):
        return True
    return any(int(found["number"][:6]) in DEVICE_XIDS for found in XID.finditer(text))
