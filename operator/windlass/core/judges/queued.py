"""Judges about a gang that is not let through, or not wholly there: queues, and the limit for a start.

A gang that waits in a queue holds nothing. One that has only some of its nodes holds those, and two such gangs can
wait for each other; `scheduling.gangStartSeconds` is the limit for that.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from windlass.api.meta import ConditionType, FailureClass, Reason, Rung
from windlass.api.status import FailedRank, RecoveryRecord
from windlass.core import queues
from windlass.core.facts import Facts, Outcome
from windlass.core.failure.budget import delay
from windlass.core.failure.classify import Judgement
from windlass.core.gang import next_attempt
from windlass.core.judges import gang
from windlass.core.judges.lifecycle import fail, reason_named
from windlass.core.judges.loss import charge_for, charges_after, seed
from windlass.core.judges.world import waiting_trouble
from windlass.core.observed import PodView
from windlass.core.status import conditions, messages
from windlass.core.status.conditions import find

# What `delay` is to think of as the number of the failure: from the second on there is a pause.
SECOND = 2


def queue_is_closed(facts: Facts) -> Outcome | None:
    """The operator has no right to tidy up after this kind of queue: make nothing that could get stuck."""
    queue = facts.spec.scheduling.queue
    if queue is None or facts.settings.kueue or all_are_made(facts):
        return None
    text = messages.queue_not_enabled(queue.kind)
    return Outcome(facts.state(conditions.stalled(Reason.QUEUE_UNAVAILABLE, text)))


def all_are_made(facts: Facts) -> bool:
    """Whether there is a pod in every place."""
    return bool(facts.slots) and all(slot.pod is not None for slot in facts.slots)


def gang_is_queued(facts: Facts) -> Outcome | None:
    """The pods are made and the queue has not admitted them: say so, and wait for as long as it takes."""
    if not queues.is_waiting(facts):
        return None
    known = gang.with_pods(facts)
    if queues.is_unnoticed(facts):
        aspects = conditions.stalled(Reason.QUEUE_UNAVAILABLE, messages.queue_unnoticed(facts.job.namespace))
        return Outcome(facts.state(aspects, gang=known), deletes=facts.deletes(facts.former))
    aspects = conditions.working(Reason.QUEUED, queues.waiting_text(facts))
    noticed = any(slot.pod is not None and slot.pod.is_held for slot in facts.slots)
    wait = None if noticed or facts.spec.scheduling.queue is None else queues.UNNOTICED.total_seconds()
    return Outcome(
        facts.state(aspects, gang=known), deletes=facts.deletes(facts.former), requeue_after_seconds=wait
    )


def gang_is_not_whole(facts: Facts) -> Outcome | None:
    """Some pods of the gang do not run and their time is over: give back what the others hold, and try again later."""
    due = give_up_at(facts)
    if due is None or facts.now < due:
        return None
    found = judgement(facts)
    made = charge_for(facts, found)
    if made.stop is not None:
        return fail(facts, reason_named(made.stop), found.failure(), made.message)
    # Never at once: whoever waits for the same nodes is to have them first, and no two gangs come back together.
    pause = max(
        made.delay_seconds, delay(facts.spec.recovery.back_off_seconds, SECOND, f"{seed(facts)}/whole")
    )
    text = messages.gang_given_back(found.message, pause, found.hint)
    renewed = next_attempt(facts.status.gang, facts.spec.resources.nodes)
    return gang.waiting(
        facts,
        conditions.stalled(Reason.GANG_NOT_STARTED, text),
        (row(facts, found),),
        pause,
        gang=renewed,
        run_config=gang.config_name_for(facts, renewed),
        last_failure=found.failure(),
        charges=charges_after(facts, made),
    )


def give_up_at(facts: Facts) -> datetime | None:
    """When a gang that is not whole gives back what it holds; None when it is whole, queued, or may wait."""
    limit = facts.spec.scheduling.gang_start_seconds
    late = laggards(facts)
    if limit is None or not late or queues.is_waiting(facts) or has_started(facts):
        return None
    since = min(pod.created_at for pod in late if pod.created_at is not None)
    told = find(facts.job.status.conditions, ConditionType.QUEUED)
    if told is not None:
        # Still true in what is stored: the gang has just been let through.
        since = max(since, facts.now if told.status == "True" else told.last_transition_time)
    return since + timedelta(seconds=limit)


def has_started(facts: Facts) -> bool:
    """Whether the gang needs no more pods to train: its leader says that ranks run, or it may go on with fewer.

    Pods say it too, since a new operator has heard no report yet, and a leader between two lives of its ranks counts
    none; the report, since a cache of pods may be behind.
    """
    if facts.report is not None and facts.report.nodes:
        return True
    if facts.elastic is None:
        return False
    running = sum(slot.pod is not None and slot.pod.is_running for slot in facts.slots)
    leads = facts.leader is not None and facts.leader.is_running
    return leads and running >= facts.elastic.min_nodes


def laggards(facts: Facts) -> list[PodView]:
    """Pods of the gang that have yet to run."""
    pods = [slot.pod for slot in facts.slots if slot.pod is not None]
    return [
        pod
        for pod in pods
        if not pod.is_running
        and not pod.is_terminal
        and pod.deletion_timestamp is None
        and pod.created_at is not None
    ]


def until_given_up(facts: Facts) -> float | None:
    """Seconds until a gang that is not whole gives back what it holds; None if it does not, or should have by now.

    Then another judge had the word, and knows itself when to look again.
    """
    resting = facts.job.spec is None or facts.job.spec.suspend or facts.status.finished_at is not None
    due = None if resting else give_up_at(facts)
    return None if due is None or due <= facts.now else (due - facts.now).total_seconds()


def judgement(facts: Facts) -> Judgement:
    """A gang that did not become whole, as a failure: an outage of what it needs, not of its program."""
    late = laggards(facts)
    trouble = waiting_trouble(facts)
    why, _, hint = trouble[1].partition(". hint: ") if trouble is not None else ("", "", "")
    seconds = facts.spec.scheduling.gang_start_seconds or 0
    text = messages.gang_not_started(len(facts.slots) - len(late), len(facts.slots), seconds, why)
    return Judgement(
        failure_class=FailureClass.INFRASTRUCTURE,
        reason=Reason.GANG_NOT_STARTED,
        message=text,
        hint=hint or messages.GANG_NOT_STARTED_HINT,
        first_failed=FailedRank(rank=None, pod=late[0].name),
        evidence=(why,) if why else (),
        signature=f"{FailureClass.INFRASTRUCTURE}/{Reason.GANG_NOT_STARTED}",
        whole_pod=True,
        at=facts.now,
    )


def row(facts: Facts, found: Judgement) -> RecoveryRecord:
    """What is told of it among the run's recoveries."""
    return RecoveryRecord(
        incarnation=facts.status.incarnation + 1,
        rung=Rung.RECREATE_GANG,
        failure_class=found.failure_class,
        first_failed=found.first_failed,
        evidence=list(found.evidence),
        from_step=facts.status.progress.step,
        resumed_step=facts.newest_step,
        at=found.at,
    )
