"""The operator beside a gang that may shrink: it follows, keeps making what is missing, and gives the leader room."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from unit.core.builders import (
    NOW,
    JobBuilder,
    a_job,
    a_pod,
    a_report,
    at,
    conditions_of,
    judge,
    message_of,
)
from windlass.api.meta import Phase, Reason
from windlass.core.judges.gang import PARTIAL_REFUSALS
from windlass.core.observed import Refusal

NO_ROOM = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
SAID = 'pods "triage-2-4" is forbidden: exceeded quota: small, used: pods=2, limited: pods=2'


def a_run(**elastic: Any) -> JobBuilder:
    policy = {"minNodes": 2, "waitSeconds": 60} | elastic
    return a_job().on_attempt(1, 1, 2, 4).with_spec("recovery.elastic", policy)


def pending(index: int, ticket: int, **fields: Any) -> Any:
    waiting = {
        "phase": "Pending",
        "node": None,
        "scheduled_at": None,
        "started_at": None,
        "unschedulable": NO_ROOM,
    }
    return a_pod(index, ticket, **(waiting | fields))


LEFT = (a_pod(0, 1), a_pod(1, 2))
SHRUNK = a_report(nodes=2)


def refused(count: int) -> Refusal:
    return Refusal("Pod", "triage-2-4", Reason.QUOTA_EXCEEDED, SAID, at=NOW, count=count)


# --- training with fewer ------------------------------------------------------------------------------------


def test_training_goes_on_and_says_with_how_many_and_why() -> None:
    decision = judge(a_run(), pods=(*LEFT, pending(2, 4)), report=SHRUNK)
    found = conditions_of(decision)
    assert found["Running"] == ("True", "Training") and found["Stalled"][0] == "False"
    assert found["Shrunk"] == ("True", "NodesMissing")
    assert message_of(decision, "Shrunk") == (
        "training on 2 of 3 nodes; no node takes pod triage-2-4: 0/4 nodes are available: 4 Insufficient "
        "nvidia.com/gpu. hint: the others are taken back when they come; global batch and order of samples are "
        "unchanged"
    )
    assert decision.status is not None and decision.status["nodes"] == 2
    assert not decision.creates and not decision.deletes


def test_missing_pod_is_made_while_the_others_train() -> None:
    job = a_run().with_unmade_pods()
    decision = judge(job, pods=LEFT, report=SHRUNK)
    assert [item["metadata"]["name"] for item in decision.creates] == ["triage-2-4"]
    assert conditions_of(decision)["Running"] == ("True", "Training")


def test_a_node_that_is_free_again_is_offered_to_the_missing_pod() -> None:
    kept_off = pending(2, 4, avoids=("node-2",))
    decision = judge(a_run(), pods=(*LEFT, kept_off), report=SHRUNK)
    assert decision.status is not None
    assert [each["ticket"] for each in decision.status["gang"]["members"]] == [1, 2, 5]
    after = judge(a_run().after(decision), pods=(*LEFT, kept_off), report=SHRUNK)
    assert [item["metadata"]["name"] for item in after.creates] == ["triage-2-5"]
    assert [each.name for each in after.deletes] == ["triage-2-4"]
    assert conditions_of(after)["Running"] == ("True", "Training")


@pytest.mark.fault("F18")
def test_quota_that_refuses_the_missing_pod_does_not_cost_the_others_theirs() -> None:
    job = a_run().with_unmade_pods()
    decision = judge(job, pods=LEFT, report=SHRUNK, refusals=(refused(PARTIAL_REFUSALS),))
    assert not decision.creates and not decision.deletes
    assert conditions_of(decision)["Shrunk"] == ("True", "NodesMissing")
    assert "exceeded quota" in message_of(decision, "Shrunk")
    assert decision.requeue_after_seconds is not None and decision.requeue_after_seconds <= 160
    assert decision.status is not None
    assert [each["ticket"] for each in decision.status["gang"]["members"]] == [1, 2, 4]


def test_quota_that_admits_enough_for_a_start_is_kept() -> None:
    job = a_run().with_unmade_pods()
    decision = judge(job, pods=LEFT, refusals=(refused(PARTIAL_REFUSALS),))
    assert decision.status is None or [each["ticket"] for each in decision.status["gang"]["members"]] == [
        1,
        2,
        4,
    ]
    fewer = judge(job, pods=LEFT[:1], refusals=(refused(PARTIAL_REFUSALS),))
    assert fewer.status is not None
    assert [each["ticket"] for each in fewer.status["gang"]["members"]] == [5, 6, 7], "too few: given back"


def test_pause_after_failures_is_kept_for_the_missing_pod_only() -> None:
    job = a_run().with_unmade_pods()
    job = job.with_status({**job.body["status"], "backOffUntil": "2026-11-23T12:01:40Z"})
    decision = judge(job, pods=LEFT, report=SHRUNK)
    assert not decision.creates and decision.requeue_after_seconds == 40
    assert conditions_of(decision)["Running"] == ("True", "Training")
    later = judge(job, pods=LEFT, report=a_report(nodes=2, sent_at=at(101)), now=at(101))
    assert [item["metadata"]["name"] for item in later.creates] == ["triage-2-4"]


def test_whole_again_takes_the_condition_back() -> None:
    whole = (*LEFT, a_pod(2, 4))
    job = a_run().after(judge(a_run(), pods=(*LEFT, pending(2, 4)), report=SHRUNK))
    importing = job.after(judge(job, pods=whole, report=a_report(nodes=2, sent_at=at(70)), now=at(70)))
    shrunk = next(each for each in importing.body["status"]["conditions"] if each["type"] == "Shrunk")
    assert shrunk["status"] == "True", "it is there and does not train yet"
    again = judge(job, pods=whole, report=a_report(nodes=3, incarnation=2, sent_at=at(80)), now=at(80))
    assert conditions_of(again)["Shrunk"] == ("False", "AsExpected")
    assert again.status is not None and again.status["nodes"] == 3


@pytest.mark.parametrize(
    "job",
    [a_job().on_attempt(1, 1, 2, 4), a_run(minNodes=3), a_run().with_spec("recovery.ladder", ["InPlace"])],
    ids=["no policy", "not fewer than all", "no such rung"],
)
def test_gang_without_the_policy_is_told_as_waiting(job: JobBuilder) -> None:
    decision = judge(job, pods=(*LEFT, pending(2, 4)), report=a_report(phase=Phase.IMPORTS))
    assert conditions_of(decision)["Ready"] == ("False", "Unschedulable")
    assert "Shrunk" not in conditions_of(decision)


# --- a leader without a node -----------------------------------------------------------------------------------


def homeless(seconds: float) -> Any:
    return pending(0, 5, created_at=NOW - timedelta(seconds=seconds))


def lost_leader(**elastic: Any) -> JobBuilder:
    policy = {"minNodes": 2, "waitSeconds": 60} | elastic
    return a_job().on_attempt(1, 5, 2, 3).with_spec("recovery.elastic", policy)


FOLLOWERS = (a_pod(1, 2), a_pod(2, 3))


def test_leader_is_given_time_to_find_a_node() -> None:
    decision = judge(lost_leader(), pods=(homeless(20), *FOLLOWERS))
    assert not decision.deletes and decision.requeue_after_seconds == 40
    assert conditions_of(decision)["Stalled"] == ("True", "Unschedulable")


def test_last_follower_gives_its_room_to_a_leader_that_finds_none() -> None:
    decision = judge(lost_leader(), pods=(homeless(60), *FOLLOWERS))
    assert [(each.name, each.uid) for each in decision.deletes] == [("triage-2-3", "pod-2-3")]


def test_follower_that_gave_its_room_is_made_again_after_the_leader_has_a_node() -> None:
    going = a_pod(2, 3, deletion_timestamp=NOW)
    job, leader = lost_leader(), homeless(61)
    decision = judge(job, pods=(leader, FOLLOWERS[0], going))
    assert not [each for each in decision.deletes if each.name != "triage-2-3"]
    job = job.after(decision)
    assert [each["ticket"] for each in job.body["status"]["gang"]["members"]] == [5, 2, 6]
    waiting = judge(job, pods=(leader, FOLLOWERS[0]))
    assert not waiting.creates and not waiting.deletes, "it would compete with the leader for the room"
    placed = judge(job, pods=(a_pod(0, 5, phase="Pending", started_at=None), FOLLOWERS[0]))
    assert [item["metadata"]["name"] for item in placed.creates] == ["triage-2-6"]


@pytest.mark.parametrize(
    ("job", "pods"),
    [
        (lost_leader(minNodes=3), (homeless(3600), *FOLLOWERS)),
        (lost_leader(), (homeless(3600), FOLLOWERS[0], pending(2, 3))),
        (a_job().on_attempt(1, 5, 2, 3), (homeless(3600), *FOLLOWERS)),
        (lost_leader(), (a_pod(0, 5), FOLLOWERS[0], pending(2, 3))),
    ],
    ids=["all are needed", "a follower has no room to give", "no policy", "the leader has a node"],
)
def test_no_follower_goes_for_nothing(job: JobBuilder, pods: tuple[Any, ...]) -> None:
    assert not judge(job, pods=pods).deletes
