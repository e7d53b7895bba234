"""Deadlines count from creation, whatever the run was doing, and without suspended time."""

from __future__ import annotations

from typing import Any

import pytest

from unit.core.builders import a_job, a_pod, at, claims, conditions_of, judge, message_of
from windlass.api.status import Counters

ACTIVE, START = "activeDeadlineSeconds", "startDeadlineSeconds"
RUNNING = (a_pod(0, 1), a_pod(1, 2))
PAUSED = {"counters": Counters(suspended_seconds=40)}
STARTED = {"started_at": at(300)}


@pytest.mark.parametrize(
    ("spec", "status", "end", "reason"),
    [
        ({ACTIVE: 600}, {}, 600, "DeadlineExceeded"),
        ({ACTIVE: 600}, STARTED, 600, "DeadlineExceeded"),
        ({ACTIVE: 600}, PAUSED, 640, "DeadlineExceeded"),
        ({ACTIVE: 600}, STARTED | PAUSED, 640, "DeadlineExceeded"),
        ({START: 400}, {}, 400, "StartDeadlineExceeded"),
        ({START: 400}, PAUSED, 440, "StartDeadlineExceeded"),
        ({START: 400, ACTIVE: 600}, {}, 400, "StartDeadlineExceeded"),
        ({START: 600, ACTIVE: 600}, {}, 600, "StartDeadlineExceeded"),
        ({START: 400, ACTIVE: 600}, STARTED, 600, "DeadlineExceeded"),
    ],
)
def test_when_a_run_that_does_not_end_is_ended(
    spec: dict[str, int], status: dict[str, Any], end: float, reason: str
) -> None:
    job = a_job().on_attempt(1, 1, 2, **status)
    for name, seconds in spec.items():
        job = job.with_spec(name, seconds)
    seen = {"pods": RUNNING, "claims": claims()} if "started_at" in status else {"claims": ()}
    before = judge(job, now=at(end - 1), **seen)
    assert before.requeue_after_seconds == pytest.approx(1)
    assert before.status is None or "Failed" not in conditions_of(before)
    assert conditions_of(judge(job, now=at(end), **seen))["Failed"] == ("True", reason)


def test_run_without_a_deadline_waits_for_ever() -> None:
    decision = judge(a_job(), now=at(1_000_000), claims=())
    assert decision.requeue_after_seconds is None
    assert "Failed" not in conditions_of(decision)


def test_run_that_never_started_says_what_it_waited_for() -> None:
    job = a_job().with_spec(ACTIVE, 600)
    job = job.after(judge(job, claims=()))
    text = message_of(judge(job, claims=(), now=at(600)))
    assert text.startswith(
        "the run took longer than activeDeadlineSeconds (600); last: ClaimNotFound: PersistentVolumeClaim "
        "checkpoints does not exist in this namespace. hint: "
    )
