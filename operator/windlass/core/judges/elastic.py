"""Judges about a gang that may go on with fewer nodes: it trains while others are missing, and its leader needs room.

The leader decides to go on with whom it has. The operator keeps making the missing pods, says in the condition Shrunk
why they are not there, and gives a follower's room to a leader that finds none, since nothing trains without one.
"""

from __future__ import annotations

from datetime import timedelta

from windlass.api.meta import ConditionType, Reason
from windlass.core import queues
from windlass.core.facts import Facts, Outcome
from windlass.core.judges import gang, making, world
from windlass.core.observed import PodView
from windlass.core.status import conditions, messages
from windlass.core.status.conditions import Aspect


def gang_is_shrunk(facts: Facts) -> Outcome | None:
    """The leader trains with fewer nodes: follow it, and go on making what is missing, however long that takes."""
    report, leader = facts.report, facts.leader
    nodes = facts.spec.resources.nodes
    if facts.elastic is None or report is None or leader is None or not leader.is_running:
        return None
    if report.nodes is None or report.nodes >= nodes:
        return None
    empty = [slot for slot in facts.slots if slot.pod is None]
    applies = making.missing_objects(facts)
    held = pause(facts) if empty or applies else 0.0
    aspects, wait = gang.follow(facts)
    text = messages.shrunk(report.nodes, nodes, why_missing(facts))
    shrunk = Aspect(ConditionType.SHRUNK, "True", Reason.NODES_MISSING, text)
    waits = [each for each in (wait, held or None) if each is not None]
    return Outcome(
        facts.state((*aspects, shrunk), gang=gang.with_pods(facts), started_at=gang.started_at(facts)),
        applies=applies if not held else (),
        creates=tuple(making.render_member(facts, slot) for slot in queues.fitting(facts, empty))
        if not held
        else (),
        deletes=facts.deletes(facts.former),
        requeue_after_seconds=min(waits, default=None),
    )


def pause(facts: Facts) -> float:
    """Seconds until something may be made again: after a refusal, or while a failing cause is not to be hammered."""
    until = facts.status.back_off_until
    backing_off = (until - facts.now).total_seconds() if until is not None else 0.0
    return max(0.0, backing_off, *(left for _, left in gang.held_by(facts)))


def why_missing(facts: Facts) -> str:
    """Why the others are not there, as far as anybody has said."""
    for refused in facts.seen.refusals:
        return messages.refused(refused.reason, refused.kind, refused.name, refused.message)
    trouble = world.waiting_trouble(facts)
    return trouble[1] if trouble is not None else "their pods are being made"


def leader_finds_no_room(facts: Facts) -> Outcome | None:
    """No node takes the leader's pod, and nothing trains without one: free the room of the last follower.

    Its place gets a new ticket like that of any pod that goes; it is made once the leader has a node.
    """
    elastic, leader = facts.elastic, facts.leader
    if elastic is None or leader is None or leader.unschedulable is None or leader.created_at is None:
        return None
    followers = [slot.pod for slot in facts.slots if slot.member.index != 0 and slot.pod is not None]
    placed = [pod for pod in followers if pod.scheduled_at is not None and not pod.is_terminal]
    if len(placed) < elastic.min_nodes or any(pod.deletion_timestamp is not None for pod in followers):
        return None
    if any(slot.pod is None for slot in facts.slots):
        return None
    left = (leader.created_at + timedelta(seconds=elastic.wait_seconds) - facts.now).total_seconds()
    text = messages.unschedulable(leader.name, leader.unschedulable)
    aspects = conditions.stalled(Reason.UNSCHEDULABLE, text)
    if left > 0:
        return Outcome(facts.state(aspects), requeue_after_seconds=left)
    return Outcome(facts.state(aspects), deletes=facts.deletes([last_of(placed)]))


def last_of(pods: list[PodView]) -> PodView:
    """The one of the highest index: the rank numbers of the others stay."""
    return max(pods, key=lambda pod: pod.index)
