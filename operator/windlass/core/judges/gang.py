"""Judges about the pods of a run: start, repair, replace, wait, follow.

A judge that gives out tickets only writes status; pods with those tickets are made in a later round. So
a crash between any two writes is just another state that these judges see.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

from windlass.api.meta import ConditionType, Phase, Reason, Rung
from windlass.api.status import FailedRank, Gang, RecoveryRecord
from windlass.core import kueue, names, queues
from windlass.core.decision import Delete
from windlass.core.facts import Facts, Outcome, Slot
from windlass.core.gang import next_attempt, replace_members
from windlass.core.judges.lifecycle import fail, reason_named
from windlass.core.judges.loss import Loss, charge_losses, charges_after, losses, worst
from windlass.core.judges.making import drift, missing_objects, render_member
from windlass.core.judges.nodes import suspects_after, suspicion
from windlass.core.judges.world import waiting_trouble
from windlass.core.observed import Refusal
from windlass.core.plan import arithmetic_plan
from windlass.core.render.run_config import run_config, run_config_name
from windlass.core.status import conditions, messages
from windlass.core.status.conditions import find
from windlass.core.status.progress import RECOVERY_ROWS, reason_of

SILENCE_SECONDS = 60.0
# Phases of a gang whose ranks have not been started yet.
FORMING = (Phase.IMPORTS, Phase.PREPARE)
# Reasons that say already why nothing is made for a while.
TOLD = (Reason.BACKING_OFF, Reason.QUOTA_EXCEEDED, Reason.GANG_NOT_STARTED)
REFUSAL_BASE_SECONDS = 5.0
REFUSAL_LIMIT_SECONDS = 300.0
# Refused so often in a row (two and a half minutes), the rest of a gang is not on its way.
PARTIAL_REFUSALS = 6


def config_name_for(facts: Facts, gang: Gang) -> str:
    """The name of the configuration that an attempt would get now."""
    config = run_config(facts.job, facts.spec, attempt=gang.attempt, settings=facts.settings)
    return run_config_name(facts.job, config)


def has_no_gang(facts: Facts) -> Outcome | None:
    """Nothing was started yet, or it was suspended: give out a gang's tickets. Only a status write."""
    if facts.status.gang.members:
        return None
    gang = next_attempt(facts.status.gang, facts.spec.resources.nodes)
    ranks = facts.spec.resources.nodes * facts.spec.resources.ranks_per_node
    first = facts.status.gang.attempt == 0
    text = messages.accepted(len(gang.members), ranks)
    aspects = conditions.working(Reason.ACCEPTED if first else Reason.STARTING, text)
    plan = arithmetic_plan(facts.spec) if first else facts.status.plan
    # What a queue has to admit has only been put into it by this.
    at_once = facts.now if facts.spec.scheduling.queue is None else None
    status = facts.state(
        aspects,
        gang=gang,
        run_config=config_name_for(facts, gang),
        admitted_at=facts.status.admitted_at or at_once,
        plan=plan,
    )
    return Outcome(status)


def config_is_lost(facts: Facts) -> Outcome | None:
    """The attempt's configuration is not there and would be rendered differently today: note its new name."""
    present = {item.name for item in facts.seen.objects if item.kind == "ConfigMap"}
    name = facts.config_name
    if facts.status.run_config in (name, *present):
        return None
    return Outcome(facts.state((), run_config=name))


def gang_wants_recreation(facts: Facts) -> Outcome | None:
    """The leader says that lower rungs did not help: attempt + 1. Only a status write."""
    if facts.told is None or facts.told.wanted != "RecreateGang":
        return None
    return recreate(facts, "in-place restarts did not help")


def recreate(
    facts: Facts, why: str, rows: tuple[RecoveryRecord, ...] = (), delay_seconds: float = 0.0
) -> Outcome:
    """A new attempt in which every pod is new."""
    gang = next_attempt(facts.status.gang, facts.spec.resources.nodes)
    aspects = conditions.working(Reason.RECOVERING, messages.gang_recreated(gang.attempt, why))
    return waiting(facts, aspects, rows, delay_seconds, gang=gang, run_config=config_name_for(facts, gang))


def waiting(
    facts: Facts,
    aspects: tuple[conditions.Aspect, ...],
    rows: tuple[RecoveryRecord, ...],
    delay_seconds: float,
    **update: object,
) -> Outcome:
    """A status write that gives out tickets, with the pause before they are used."""
    counters = facts.status.counters
    until = None
    if delay_seconds > 0:
        until = facts.now + timedelta(seconds=delay_seconds)
        counters = counters.model_copy(update={"back_off_seconds": counters.back_off_seconds + delay_seconds})
    recoveries = [*facts.status.recoveries, *rows][-RECOVERY_ROWS:]
    status = facts.state(aspects, back_off_until=until, counters=counters, recoveries=recoveries, **update)
    return Outcome(status)


def member_is_lost(facts: Facts) -> Outcome | None:
    """A pod ended or went away: charge it, and give its place a new ticket. Only a status write."""
    lost = losses(facts)
    if not lost:
        return None
    charge = charge_losses(facts, lost)
    cause = worst(lost)
    failure = cause.judgement.failure()
    # Whatever follows: a pod that a cache merely does not show has cost nothing, least of all the run.
    absent = tuple(loss.name for loss in lost if loss.slot.pod is None)
    if charge.stop is not None:
        ended = fail(facts, reason_named(charge.stop), failure, charge.message)
        return dataclasses.replace(ended, confirm_absent=absent)
    whole = len(lost) == len(facts.slots) and len(facts.slots) > 1
    whole = whole or queues.is_over(facts, {loss.slot.member.index for loss in lost})
    moved = suspicion(facts, cause) is not None
    one = Rung.OTHER_NODE if moved else charge.rung or Rung.RECREATE_POD
    rung = Rung.RECREATE_GANG if whole else one
    row = recovery_row(facts, cause, rung)
    if rung is Rung.RECREATE_GANG:
        outcome = recreate(facts, cause.judgement.message, (row,), charge.delay_seconds)
    else:
        outcome = replace(facts, lost, row, charge.delay_seconds)
    update: dict[str, object] = {"suspect_nodes": suspects_after(facts, lost, charge)}
    if cause.is_charged:
        update |= {"last_failure": failure, "charges": charges_after(facts, charge)}
    return Outcome(outcome.status.model_copy(update=update), confirm_absent=absent)


def replace(facts: Facts, lost: tuple[Loss, ...], row: RecoveryRecord, delay_seconds: float) -> Outcome:
    """The same attempt, with new tickets for the lost places."""
    gang = replace_members(facts.status.gang, {loss.slot.member.index for loss in lost})
    cause = worst(lost)
    place = next(member for member in gang.members if member.index == cause.slot.member.index)
    replacement = names.pod_name(facts.job.name, place.index, place.ticket)
    moved = suspicion(facts, cause)
    why = cause.judgement.message if moved is None else messages.moved(cause.name, moved.reason)
    text = messages.member_lost(why, replacement)
    aspects = conditions.working(Reason.RECOVERING, text)
    return waiting(facts, aspects, (row,), delay_seconds, gang=gang)


def recovery_row(facts: Facts, cause: Loss, rung: Rung) -> RecoveryRecord:
    """What the operator knows of a restart; the leader's own row replaces it when the incarnation begins."""
    judged, moved = cause.judgement, suspicion(facts, cause)
    return RecoveryRecord(
        incarnation=life_after(facts, cause),
        rung=rung,
        failure_class=judged.failure_class if moved is None else moved.failure_class,
        first_failed=FailedRank(rank=None, pod=cause.name, node=judged.first_failed.node),
        exit_code=judged.exit_code,
        signal=judged.signal,
        evidence=list(judged.evidence if moved is None else moved.evidence),
        from_step=facts.status.progress.step,
        resumed_step=facts.newest_step,
        at=judged.at,
    )


def life_after(facts: Facts, cause: Loss) -> int:
    """The incarnation that begins with this loss: the next one, unless the leader has claimed it already.

    A leader hears of a dead pod before the kubelet tells us. It has claimed once it misses the pod and its
    ranks wait to be started; while it still stops them its report has no phase.
    """
    report, present = facts.told, facts.status.incarnation
    if report is None or report.incarnation != present or report.phase not in FORMING:
        return present + 1
    pod_uid = cause.slot.pod.uid if cause.slot.pod is not None else cause.slot.member.pod_uid
    listed = any(member.pod_uid == pod_uid for member in report.members)
    return present + 1 if listed or present == 0 else present


def old_pods_are_in_the_way(facts: Facts) -> Outcome | None:
    """Pods of an earlier attempt still live: two attempts never overlap. Those on lost nodes do not count.

    Nor is an attempt over while its queue keeps pods of it: the quota that the new one needs is free after that.
    """
    attempt = facts.status.gang.attempt
    former = [pod for pod in facts.former if pod.attempt != attempt]
    blocking = [pod for pod in former if facts.blocks(pod) or queues.is_kept(pod)]
    if not blocking:
        return None
    ends = [pod.deletion_timestamp for pod in blocking if not queues.is_kept(pod)]
    wait = until_out_of_reach(facts, ends) if ends else queues.until_overdue(facts, blocking)
    ready = find(facts.job.status.conditions, ConditionType.READY)
    aspects: tuple[conditions.Aspect, ...] = ()
    if not ends and wait is None:
        aspects = conditions.stalled(
            Reason.QUEUE_UNAVAILABLE, messages.queue_keeps([pod.name for pod in blocking])
        )
    elif ready is None or ready.reason != Reason.RECOVERING:
        # Else it is told already that every pod is replaced: no write stands before the deletes.
        aspects = conditions.working(Reason.RECOVERING, messages.old_attempt(attempt))
    return Outcome(facts.state(aspects), deletes=facts.deletes(facts.former), requeue_after_seconds=wait)


def until_out_of_reach(facts: Facts, ends: list[datetime | None]) -> float | None:
    """Seconds until the last of these pods counts as out of reach."""
    known = [end for end in ends if end is not None]
    if not known:
        return None
    return max((max(known) - facts.now).total_seconds() + 31.0, 1.0)


def gang_is_partial(facts: Facts) -> Outcome | None:
    """Quota admits a part of the gang only: give it back and wait, so that two halves never block each other.

    Only a status write: every place gets a new ticket, and the pods of the old ones are deleted later.
    """
    made = sum(1 for slot in facts.slots if slot.pod is not None)
    refused = max((item for item in facts.seen.refusals if is_of_quota(item)), key=by_count, default=None)
    if refused is None or refused.count < PARTIAL_REFUSALS or not 0 < made < len(facts.slots):
        return None
    if facts.elastic is not None and facts.leader is not None and made >= facts.elastic.min_nodes:
        return None
    pause = refusal_pause(refused)
    text = messages.quota_partial(made, len(facts.slots), pause, refused.message)
    aspects = conditions.stalled(Reason.QUOTA_EXCEEDED, text)
    if kueue.is_grouped(facts.spec):
        # All pods of the group go, and with them the group.
        gang = next_attempt(facts.status.gang, len(facts.slots))
        return waiting(facts, aspects, (), pause, gang=gang, run_config=config_name_for(facts, gang))
    gang = replace_members(facts.status.gang, {slot.member.index for slot in facts.slots})
    return waiting(facts, aspects, (), pause, gang=gang)


def is_of_quota(refused: Refusal) -> bool:
    """Whether a pod was refused for want of quota."""
    return refused.kind == "Pod" and refused.reason is Reason.QUOTA_EXCEEDED


def by_count(refused: Refusal) -> int:
    """How often in a row."""
    return refused.count


def refusal_pause(refused: Refusal) -> float:
    """Seconds before a refused object is tried again."""
    return min(REFUSAL_BASE_SECONDS * 2.0 ** min(refused.count - 1, 10), REFUSAL_LIMIT_SECONDS)


def is_backing_off(facts: Facts) -> Outcome | None:
    """The next try waits, so that a failing cause is not hammered."""
    until = facts.status.back_off_until
    if until is None or facts.now >= until or all(slot.pod is not None for slot in facts.slots):
        return None
    ready = find(facts.job.status.conditions, ConditionType.READY)
    left = (until - facts.now).total_seconds()
    if ready is not None and ready.reason in TOLD:
        # It is told already why nothing happens.
        return Outcome(facts.state(()), deletes=facts.deletes(facts.former), requeue_after_seconds=left)
    failure = facts.status.last_failure
    text = messages.backing_off(left, failure.message if failure is not None else "repeated failures")
    return Outcome(
        facts.state(conditions.working(Reason.BACKING_OFF, text)),
        deletes=facts.deletes(facts.former),
        requeue_after_seconds=left,
    )


def gang_is_incomplete(facts: Facts) -> Outcome | None:
    """Make what is missing: shared objects, then pods.

    A new leader's pod imports while the old one still saves; it does not lead before the store says that
    the old one has ended (`agent.succession` of the workloads).
    """
    applies = missing_objects(facts)
    empty = [slot for slot in facts.slots if slot.pod is None and not yields(facts, slot)]
    if not empty and not applies:
        return None
    refused = refusal(facts)
    if refused is not None:
        return refused
    if not empty:
        # The pods go on as they are; so does what is said about them.
        return Outcome(facts.state(()), applies=applies, events=drift(facts, applies))
    makeable = queues.fitting(facts, empty)
    if not makeable and (dead := [pod for pod in queues.leaving(facts) if facts.is_out_of_reach(pod)]):
        # The queue would never take a replacement: only a new group can go on.
        return recreate(facts, messages.place_is_lost(dead[0].name))
    if not makeable:
        aspects = waiting_for_end(facts)
    elif is_on_its_way(facts) and not kueue.is_grouped(facts.spec):
        aspects = ()
    else:
        # In a group the text may be about the pod that was waited for.
        aspects = starting(facts, len(facts.slots) - len(empty))
    return Outcome(
        facts.state(aspects),
        applies=applies,
        events=drift(facts, applies),
        creates=tuple(render_member(facts, slot) for slot in makeable),
        deletes=facts.deletes(facts.former),
        requeue_after_seconds=None
        if makeable
        else until_out_of_reach(facts, [pod.deletion_timestamp for pod in queues.leaving(facts)]),
    )


def is_on_its_way(facts: Facts) -> bool:
    """Whether status says why pods are to be made. To say how many would be a write before the first."""
    ready = find(facts.job.status.conditions, ConditionType.READY)
    told = (Reason.ACCEPTED, Reason.STARTING, Reason.RECOVERING)
    return ready is not None and ready.reason in told and facts.has(ConditionType.RECONCILING)


def starting(facts: Facts, made: int) -> tuple[conditions.Aspect, ...]:
    """Pods are being made."""
    return conditions.working(start_reason(facts), messages.starting(made, len(facts.slots)))


def waiting_for_end(facts: Facts) -> tuple[conditions.Aspect, ...]:
    """No pod is made yet for a place that is empty: the one before it has not ended for the queue."""
    text = messages.place_is_counted([pod.name for pod in queues.leaving(facts)])
    return conditions.working(start_reason(facts), text)


def start_reason(facts: Facts) -> Reason:
    """Starting or Recovering."""
    return Reason.STARTING if is_first_start(facts) else Reason.RECOVERING


def yields(facts: Facts, slot: Slot) -> bool:
    """Whether a follower is not made yet: the leader's pod has no node, and would compete with it for one."""
    leader = facts.leader
    lacks_room = leader is not None and leader.unschedulable is not None
    return facts.elastic is not None and lacks_room and slot.member.index != 0


def is_first_start(facts: Facts) -> bool:
    """Whether the run has never got as far as an incarnation."""
    return facts.status.gang.attempt <= 1 and facts.status.incarnation <= 1 and not facts.status.recoveries


def refusal(facts: Facts) -> Outcome | None:
    """The API server refused one of our objects not long ago: say so, and wait longer each time."""
    for item, left in held_by(facts):
        text = messages.refused(item.reason, item.kind, item.name, item.message)
        return Outcome(facts.state(conditions.stalled(item.reason, text)), requeue_after_seconds=left)
    return None


def held_by(facts: Facts) -> list[tuple[Refusal, float]]:
    """Refusals that nothing is tried against yet, each with the seconds until it may be."""
    waits = [
        (item, refusal_pause(item) - (facts.now - item.at).total_seconds()) for item in facts.seen.refusals
    ]
    return [(item, left) for item, left in waits if left > 0]


def gang_is_waiting(facts: Facts) -> Outcome | None:
    """All pods are made and not all run: say why."""
    running = sum(1 for slot in facts.slots if slot.pod is not None and slot.pod.is_running)
    if running == len(facts.slots) or has_ended_members(facts):
        return None
    trouble = waiting_trouble(facts)
    if trouble is None:
        reason = Reason.WAITING_FOR_PODS if is_first_start(facts) else Reason.RECOVERING
        aspects = conditions.working(reason, messages.waiting_for_pods(running, len(facts.slots)))
    elif trouble[0] is Reason.WAITING_FOR_PODS:
        aspects = conditions.working(*trouble)
    else:
        aspects = conditions.stalled(*trouble)
    return Outcome(facts.state(aspects, gang=with_pods(facts)), deletes=facts.deletes(facts.former))


def has_ended_members(facts: Facts) -> bool:
    """Whether members have ended in good order and the leader's last word is still to come."""
    return any(slot.pod is not None and slot.pod.is_terminal for slot in facts.slots)


def with_pods(facts: Facts) -> Gang:
    """The gang with the UIDs of its pods, known once all are there."""
    members = [
        slot.member if slot.pod is None else slot.member.model_copy(update={"pod_uid": slot.pod.uid})
        for slot in facts.slots
    ]
    return facts.status.gang.model_copy(update={"members": members})


def gang_is_running(facts: Facts) -> Outcome:
    """All pods run: follow the leader's reports. The last judge, so it always answers."""
    update = {"gang": with_pods(facts), "started_at": started_at(facts), "back_off_until": None}
    aspects, wait = follow(facts)
    aspects = (*aspects, *whole_again(facts))
    deletes = (*facts.deletes(facts.former), *old_configs(facts))
    return Outcome(facts.state(aspects, **update), deletes=deletes, requeue_after_seconds=wait)


def started_at(facts: Facts) -> datetime:
    """When the run's pods began to run."""
    leader = facts.leader
    return facts.status.started_at or (leader.started_at if leader is not None else None) or facts.now


def whole_again(facts: Facts) -> tuple[conditions.Aspect, ...]:
    """The condition Shrunk taken back, if it was there and the ranks of all nodes train."""
    shrunk = find(facts.job.status.conditions, ConditionType.SHRUNK)
    whole = facts.report is not None and facts.report.nodes == facts.spec.resources.nodes
    if shrunk is None or shrunk.status != "True" or not whole:
        return ()
    return (conditions.Aspect(ConditionType.SHRUNK, "False", Reason.AS_EXPECTED),)


def old_configs(facts: Facts) -> tuple[Delete, ...]:
    """Configurations of earlier attempts, once no pod of those is left."""
    if facts.former:
        return ()
    prefix = names.config_name(facts.job.name, "")
    return tuple(
        Delete(kind="ConfigMap", name=item.name, uid=item.uid)
        for item in facts.seen.objects
        if item.kind == "ConfigMap"
        and item.owner_uid == facts.job.uid
        and item.name.startswith(prefix)
        and item.name != facts.status.run_config
    )


def follow(facts: Facts) -> tuple[tuple[conditions.Aspect, ...], float | None]:
    """The state by the last report, and when silence is to be noticed."""
    heard = heard_at(facts)
    silent = (facts.now - heard).total_seconds() if heard is not None else 0.0
    if silent >= SILENCE_SECONDS:
        return conditions.unheard(Reason.REPORTS_MISSING, messages.reports_missing(SILENCE_SECONDS)), None
    wait = SILENCE_SECONDS - silent
    if facts.report is None:
        # An operator that has just started knows nothing new: what is written stays.
        running = find(facts.job.status.conditions, ConditionType.RUNNING)
        if running is not None and running.status == "True":
            return (), wait
        reason = Reason.STARTING if is_first_start(facts) else Reason.RECOVERING
        return conditions.working(reason, messages.agents_starting(len(facts.slots))), wait
    phase: Phase | None = facts.status.progress.phase
    reason = reason_of(phase, restarted=not is_first_start(facts))
    text = messages.at_work(reason, facts.status.progress, facts.status.incarnation)
    shape = conditions.training if reason in (Reason.TRAINING, Reason.EXPORTING) else conditions.working
    return shape(reason, text), wait


def heard_at(facts: Facts) -> datetime | None:
    """When the leader was last heard, counting from when it could first be heard."""
    leader = facts.leader
    known = [
        facts.seen.heard_at if facts.report is not None else None,
        facts.seen.listening_since,
        leader.started_at if leader is not None else None,
        facts.status.progress.updated_at,
    ]
    return max((time for time in known if time is not None), default=None)
