"""Which life of the gang a lost pod's row is about, whoever hears of the loss first."""

from __future__ import annotations

from typing import Any

import pytest

from unit.core.builders import (
    JobBuilder,
    a_job,
    a_pod,
    a_report,
    an_ended_pod,
    at,
    judge,
)
from windlass.api.contract import MemberReport
from windlass.api.meta import FailureClass, Phase, Rung
from windlass.api.status import FailedRank, RecoveryRecord, RecoverySeconds
from windlass.core.status.progress import RECOVERY_ROWS, merge_recoveries

LEADER = MemberReport(index=0, pod="triage-0-1", pod_uid="pod-0-1", ready=True)
FOLLOWER = MemberReport(index=1, pod="triage-1-2", pod_uid="pod-1-2", ready=True)
BOTH, ALONE = [LEADER, FOLLOWER], [LEADER]
KILLED = an_ended_pod(1, 2, exit_code=137, terminated_reason="OOMKilled")


def a_run(incarnation: int = 2) -> JobBuilder:
    return a_job().on_attempt(1, 1, 2, incarnation=incarnation, started_at=at(5))


def numbers(job: JobBuilder) -> list[tuple[int, str]]:
    return [(row.incarnation, str(row.failure_class)) for row in job.build().status.recoveries]


@pytest.mark.parametrize(
    ("told", "number"),
    [
        (None, 3),
        ({"incarnation": 2, "members": BOTH, "phase": Phase.TRAIN}, 3),
        # The leader knows of the loss and stops the other ranks: its next claim is still to come.
        ({"incarnation": 2, "members": ALONE, "phase": None}, 3),
        # It has claimed, and waits for the place to be filled.
        ({"incarnation": 3, "members": ALONE, "phase": Phase.IMPORTS}, 3),
        ({"incarnation": 2, "members": ALONE, "phase": Phase.PREPARE}, 2),
        # It was killed again, in the life that began with the last recovery.
        ({"incarnation": 3, "members": BOTH, "phase": Phase.TRAIN}, 4),
        ({"incarnation": 0, "members": ALONE, "phase": Phase.IMPORTS}, 3),
    ],
    ids=["no report", "unnoticed", "stopping", "claimed", "preparing", "lost again", "no claim yet"],
)
def test_row_is_about_the_life_that_the_loss_begins(told: dict[str, Any] | None, number: int) -> None:
    report = a_report(**told) if told is not None else None
    job = a_run().after(judge(a_run(), pods=(a_pod(0, 1), KILLED), report=report))
    assert numbers(job) == [(number, "OutOfMemory")]


def test_row_of_a_lost_leader_is_about_its_successors_life() -> None:
    lost = a_pod(0, 1, deletion_timestamp=at(90))
    report = a_report(incarnation=2, members=ALONE, phase=Phase.IMPORTS)
    job = a_run().after(judge(a_run(), pods=(lost, a_pod(1, 2)), report=report))
    assert numbers(job) == [(3, "Preempted")]


def row(incarnation: int, rung: Rung, kind: FailureClass, **first: Any) -> RecoveryRecord:
    return RecoveryRecord(
        incarnation=incarnation,
        rung=rung,
        failure_class=kind,
        first_failed=FailedRank(**first),
        seconds=RecoverySeconds(total=4.0),
        at=at(60),
    )


def test_leader_that_was_faster_gets_no_row_of_a_life_that_never_was() -> None:
    """Its claim was told 0.3 s after the kill, before the kubelet's word; then a rank crashed."""
    job = a_run(1)
    told = a_report(incarnation=2, members=ALONE, phase=Phase.IMPORTS)
    job = job.after(judge(job, pods=(a_pod(0, 1), a_pod(1, 2)), report=told))
    job = job.after(judge(job, now=at(61), pods=(a_pod(0, 1), KILLED), report=told))
    recovered = row(2, Rung.RECREATE_POD, FailureClass.INFRASTRUCTURE, pod="triage-1-2")
    crashed = row(3, Rung.IN_PLACE, FailureClass.CRASH, rank=0, pod="triage-0-1")
    present = (a_pod(0, 1), a_pod(1, 3))
    for number, rows in ((2, [recovered]), (3, [recovered, crashed])):
        report = a_report(incarnation=number, members=BOTH, recoveries=rows)
        job = job.after(judge(job, now=at(70 + number), pods=present, report=report))
    assert numbers(job) == [(2, "OutOfMemory"), (3, "Crash")]


def test_row_of_the_newest_life_stays_when_there_are_too_many() -> None:
    """A row of the present life may be written after one of the next, when the leader hears of it later."""
    older = [
        row(2, Rung.RECREATE_POD, FailureClass.CRASH, pod=f"triage-1-{ticket}") for ticket in range(2, 12)
    ]
    newest = row(3, Rung.RECREATE_POD, FailureClass.INFRASTRUCTURE, pod="triage-2-1")
    merged = merge_recoveries([newest, *older], [])
    assert len(merged) == RECOVERY_ROWS
    assert merged[-1] == newest
