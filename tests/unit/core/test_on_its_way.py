"""No status write comes between tickets and pods: what is said with the tickets stands until pods are there."""

from __future__ import annotations

import pytest

from unit.core.builders import NOW, a_job, a_pod, a_report, conditions_of, judge, message_of, shared
from windlass.api.meta import Reason
from windlass.core.status import conditions


def test_a_new_job_is_written_once_before_its_pods() -> None:
    """Tickets first, pods next; the second round writes nothing that the first pod would have to wait for."""
    accepted = judge(a_job().with_nodes(2))
    assert conditions_of(accepted)["Ready"] == ("False", "Accepted") and not accepted.creates
    making = judge(a_job().with_nodes(2).after(accepted), objects=())
    assert making.status is None and making.events == ()
    assert len(making.creates) == 2 and len(making.applies) == 4


def test_pods_that_are_made_are_counted_by_the_round_after() -> None:
    job = a_job().with_nodes(2).after(judge(a_job().with_nodes(2)))
    found = judge(job, pods=(a_pod(0, 1, phase="Pending"), a_pod(1, 2, phase="Pending")))
    assert conditions_of(found)["Ready"] == ("False", "WaitingForPods")
    assert message_of(found) == "0 of 2 pods running"
    assert [member["podUid"] for member in (found.status or {})["gang"]["members"]] == ["pod-0-1", "pod-1-2"]


def test_a_whole_new_gang_is_written_once_before_its_pods() -> None:
    job = a_job().on_attempt(1, 1, 2)
    recreated = judge(job, pods=(a_pod(0, 1), a_pod(1, 2)), report=a_report(wanted="RecreateGang"))
    assert conditions_of(recreated)["Ready"] == ("False", "Recovering") and not recreated.creates
    making = judge(job.after(recreated))
    assert making.status is None and len(making.creates) == 2


@pytest.mark.parametrize(
    ("aspects", "told"),
    [
        (conditions.working(Reason.ACCEPTED, "m"), True),
        (conditions.working(Reason.STARTING, "m"), True),
        (conditions.working(Reason.RECOVERING, "m"), True),
        (conditions.working(Reason.BACKING_OFF, "m"), False),
        (conditions.working(Reason.WAITING_FOR_PODS, "m"), False),
        (conditions.stalled(Reason.QUOTA_EXCEEDED, "m"), False),
        (conditions.stalled(Reason.CLAIM_NOT_FOUND, "m"), False),
        (conditions.training(Reason.TRAINING, "m"), False),
        (conditions.suspended("m"), False),
        ((), False),
    ],
    ids=lambda value: str(value[0].reason) if isinstance(value, tuple) and value else str(value),
)
def test_what_says_why_pods_are_made_is_left_and_what_does_not_is_replaced(
    aspects: tuple[conditions.Aspect, ...], told: bool
) -> None:
    job = a_job().on_attempt(1, 1, 2).with_unmade_pods()
    status = job.build().status
    merged = conditions.merge(status.conditions, aspects, now=NOW, generation=1)
    job = job.with_status(status.model_copy(update={"conditions": merged}))
    decision = judge(job, pods=(a_pod(0, 1),), objects=shared(job.build()))
    assert [pod["metadata"]["name"] for pod in decision.creates] == ["triage-1-2"]
    if told:
        assert decision.status is None or conditions_of(decision)["Ready"][1] == aspects[0].reason
    else:
        assert conditions_of(decision)["Ready"][1] == "Starting"
        assert message_of(decision) == "1 of 2 pods made"
