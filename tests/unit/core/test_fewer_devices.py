"""A node has fewer devices than before, in the scheduler's own words: the job waits, says why, and pays nothing."""

from __future__ import annotations

import pytest

from unit.core.builders import a_job, a_pod, conditions_of, judge, message_of
from windlass.api.meta import Reason

WORDS = (
    "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
    "2 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, "
    "2 No preemption victims found for incoming pod."
)


@pytest.mark.fault("F31")
def test_a_pod_that_finds_too_few_devices_waits_with_the_counts() -> None:
    job = a_job().with_spec("resources", {"nodes": 2, "accelerator": {"count": 8}}).on_attempt(1, 1, 2)
    waits = a_pod(1, 2, phase="Pending", node=None, scheduled_at=None, started_at=None, unschedulable=WORDS)
    decision = judge(
        job,
        pods=(a_pod(0, 1), waits),
    )
    assert conditions_of(decision)["Stalled"] == ("True", Reason.UNSCHEDULABLE)
    assert "2 Insufficient nvidia.com/gpu" in message_of(decision)
    assert "hint: " in message_of(decision)
    assert decision.creates == decision.deletes == ()
    assert "Failed" not in conditions_of(decision)
