"""When failures happened, and how often the run came back from one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from unit.core.builders import NOW, a_job, a_pod, a_report, an_ended_pod, at, judge
from windlass.api.status import Counters, JobStatus
from windlass.core.failure.classify import classify
from windlass.core.failure.evidence import End
from windlass.core.observed import PodView
from windlass.core.status.progress import fold


def test_failure_that_is_survived_knows_when_it_was() -> None:
    ends = [End(at=at(20).timestamp(), rank=1, exit_code=1), End(at=at(30).timestamp(), rank=0, exit_code=1)]
    assert classify(ends).failure().at == at(20)


@pytest.mark.parametrize(
    ("pods", "when"),
    [
        ((a_pod(0, 1), an_ended_pod(1, 2, exit_code=1, finished_at=at(50))), at(50)),
        ((a_pod(0, 1),), NOW + timedelta(seconds=600)),
        ((a_pod(0, 1), an_ended_pod(1, 2, exit_code=1, finished_at=None)), NOW + timedelta(seconds=600)),
    ],
    ids=["ended", "gone", "ended, time unknown"],
)
def test_lost_pod_was_lost_when_it_ended_not_when_it_was_seen(
    pods: tuple[PodView, ...], when: object
) -> None:
    """An operator that was away for ten minutes says when the pod ended, if that is known."""
    job = a_job().on_attempt(1, 1, 2)
    job = job.after(judge(job, now=NOW + timedelta(seconds=600), pods=pods))
    status = job.build().status
    assert status.last_failure is not None
    assert status.last_failure.at == when
    assert [row.at for row in status.recoveries] == [when]


@pytest.mark.parametrize(
    ("before", "told", "incarnation", "after"),
    [(0, 0, 1, 0), (0, 2, 3, 2), (5, 2, 8, 5), (0, 0, 4, 0), (1, 1, 9, 1)],
    ids=["none", "two", "an older count", "suspended three times", "suspended after one"],
)
def test_incarnations_after_a_pause_are_no_restarts(
    before: int, told: int, incarnation: int, after: int
) -> None:
    status = JobStatus(counters=Counters(restarts=before))
    assert fold(status, a_report(restarts=told, incarnation=incarnation)).counters.restarts == after
