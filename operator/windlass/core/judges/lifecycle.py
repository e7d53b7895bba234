"""Judges about a run's beginning and end: deletion, verdict, suspend and resume, deadlines.

Asked first, in the order of `core.chains`. What has ended stays ended, whatever spec or reports say later.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from windlass.api.contract import Orders, Verdict
from windlass.api.meta import ConditionType, FailureClass, Reason
from windlass.api.status import Failure, Output
from windlass.core import names
from windlass.core.decision import Delete
from windlass.core.facts import Facts, Outcome
from windlass.core.failure.numeric import PAUSED
from windlass.core.status import conditions, messages
from windlass.core.status.conditions import Aspect, find

# Agents leave by themselves once the run has ended; whoever has not by then is helped.
LEAVE_SECONDS = 60.0
FRESH_REPORT = timedelta(seconds=60)


def being_deleted(facts: Facts) -> Outcome | None:
    """A deleted job is left alone: owner references remove what is its."""
    if not facts.job.deleting:
        return None
    return Outcome(facts.job.status, orders=Orders(action="Stop", reason="deleted"), quiet=True)


def is_finished(facts: Facts) -> Outcome | None:
    """A finished job stays as it is. Pods stay for their logs until the TTL takes the whole job."""
    ended = next(
        (type for type in (ConditionType.COMPLETE, ConditionType.FAILED) if facts.has(type)),
        None,
    )
    if ended is None:
        return None
    condition = find(facts.job.status.conditions, ended)
    # The time to live counts from when the end was told: an operator that was away tells it late.
    stamps = [facts.job.status.finished_at, condition.last_transition_time if condition else None]
    finished = max((stamp for stamp in stamps if stamp is not None), default=facts.now)
    orders = Orders(action="Stop", reason=condition.reason if condition else "")
    since = (facts.now - finished).total_seconds()
    ttl = facts.job.spec.ttl_seconds_after_finished if facts.job.spec is not None else None
    if ttl is not None and since >= ttl:
        whole = Delete(kind=facts.job.kind, name=facts.job.name, uid=facts.job.uid)
        return Outcome(facts.job.status, deletes=(whole,), orders=orders, quiet=True)
    waits = [] if ttl is None else [ttl - since]
    stragglers = [pod for pod in facts.pods if not pod.is_terminal]
    deletes: tuple[Delete, ...] = ()
    if stragglers:
        if since >= LEAVE_SECONDS or not is_leaving(facts):
            deletes = facts.deletes(stragglers)
        else:
            waits.append(LEAVE_SECONDS - since)
    wait = min(waits, default=None)
    return Outcome(facts.job.status, deletes=deletes, requeue_after_seconds=wait, orders=orders, quiet=True)


def is_leaving(facts: Facts) -> bool:
    """Whether the pods are about to end by themselves: their leader did, or will hear the order to."""
    leader = facts.leader
    return leader is not None and (leader.is_terminal or is_at_work(facts))


def verdict_reached(facts: Facts) -> Outcome | None:
    """The leader has said how the run ended. This is one write; cleaning up comes after it."""
    verdict = facts.verdict(facts.leader)
    if verdict is None or verdict.result not in ("Succeeded", "Failed"):
        return None
    if verdict.result == "Succeeded":
        return succeed(facts, verdict)
    found = verdict.failure or facts.status.last_failure or unexplained()
    return fail(facts, reason_named(found.reason), found, at=ended_at(facts), started_at=started_at(facts))


def started_at(facts: Facts) -> datetime | None:
    """When the run started: at the latest when this leader did, whose start nobody may have seen."""
    leader = facts.leader
    return facts.status.started_at or (leader.started_at if leader is not None else None)


def ended_at(facts: Facts) -> datetime:
    """When the leader ended, as far as its pod tells; an operator may have been away since.

    Its node's clock may be wrong: never later than now, nor before what is accounted for already.
    """
    leader, told = facts.leader, facts.told
    if leader is None or leader.finished_at is None:
        return facts.now
    accounted = facts.job.created_at + timedelta(seconds=facts.status.goodput.since_creation)
    # The kubelet's stamp has whole seconds only; the last word is a little later.
    known = (leader.finished_at, told.sent_at if told is not None else None, accounted, started_at(facts))
    return min(max(stamp for stamp in known if stamp is not None), facts.now)


def reason_named(text: str) -> Reason:
    """The reason of this name; an agent of another version may know names that we do not."""
    return next((reason for reason in Reason if reason == text), Reason.CRASH)


def unexplained() -> Failure:
    """A failed verdict without a reason, which no agent of ours writes."""
    return Failure(
        reason=Reason.CRASH, failure_class=FailureClass.CRASH, message="the leader failed without a reason"
    )


def succeed(facts: Facts, verdict: Verdict) -> Outcome:
    """The end with a result."""
    status = facts.status
    output = status.output or default_output(facts)
    steps = max(verdict.step, status.progress.step)
    left = dict.fromkeys(("eta_seconds", "eta_low_seconds", "eta_high_seconds"), 0.0 if steps else None)
    done = status.progress.model_copy(update={"step": steps, **left})
    aspects = conditions.complete(messages.completed(steps, output.uri if output else None))
    update = {
        "started_at": started_at(facts),
        "finished_at": ended_at(facts),
        "output": output,
        "progress": done,
        "back_off_until": None,
    }
    return Outcome(facts.state(aspects, **update), orders=Orders(action="Stop", reason=Reason.COMPLETED))


def default_output(facts: Facts) -> Output | None:
    """Where agents export to, for a leader whose last report never arrived."""
    spec = facts.job.spec
    if spec is None or spec.custom is not None or spec.checkpoint.export == "None":
        return None
    parts = [spec.checkpoint.store.rstrip("/"), facts.job.namespace, facts.job.name, facts.job.uid, "output"]
    return Output(uri="/".join(parts))


def fail(
    facts: Facts,
    reason: Reason,
    found: Failure,
    message: str = "",
    *,
    at: datetime | None = None,
    **update: object,
) -> Outcome:
    """The end without a result, now or `at`. `message` replaces the failure's own sentence."""
    at = at or facts.now
    found = found if found.at is not None else found.model_copy(update={"at": at})
    aspects = conditions.failed(reason, message or messages.failure(found))
    status = facts.state(aspects, finished_at=at, last_failure=found, back_off_until=None, **update)
    return Outcome(status, orders=Orders(action="Stop", reason=reason))


def spec_is_invalid(facts: Facts) -> Outcome | None:
    """The stored spec does not parse: say which field, make nothing, and leave running pods alone."""
    if facts.job.spec is not None:
        return None
    aspects = conditions.stalled(
        Reason.INVALID_SPEC, messages.invalid_spec(facts.job.spec_error or "spec: unreadable")
    )
    return Outcome(facts.state(aspects))


def is_suspended(facts: Facts) -> Outcome | None:
    """No pods while suspended. A gang at work is asked to save and leave before its pods are deleted."""
    if not facts.spec.suspend:
        return None
    since = facts.status.suspended_at or facts.now
    if not facts.pods:
        return rest(facts, since)
    text = messages.suspending()
    aspects = [
        *conditions.working(Reason.SUSPENDING, text),
        Aspect(ConditionType.SUSPENDED, "False", Reason.SUSPENDING, text),
    ]
    grace = facts.spec.recovery.termination_grace_period_seconds
    left = grace - (facts.now - since).total_seconds()
    leaving = is_at_work(facts) and left > 0
    gone = facts.pods if not leaving else [pod for pod in facts.pods if pod.is_terminal]
    return Outcome(
        facts.state(aspects, suspended_at=since),
        deletes=facts.deletes(gone),
        requeue_after_seconds=left if leaving else None,
        orders=Orders(action="SaveAndExit", reason=Reason.SUSPENDED),
    )


def is_at_work(facts: Facts) -> bool:
    """Whether a leader is there that will hear the order to save."""
    leader = facts.leader
    if leader is None or not leader.is_running or leader.deletion_timestamp is not None:
        return False
    heard = facts.seen.heard_at or facts.status.progress.updated_at
    if facts.seen.heard_at is None and heard is not None and facts.seen.listening_since is not None:
        # What an operator before this one wrote may be old; the leader has not had the time to speak to this one.
        heard = max(heard, facts.seen.listening_since)
    return heard is not None and facts.now - heard < FRESH_REPORT


def rest(facts: Facts, since: datetime) -> Outcome:
    """All pods are gone: suspended, and the gang forgotten (its tickets are not)."""
    already = facts.has(ConditionType.SUSPENDED)
    begun = facts.status.gang.attempt > 0
    aspects = conditions.suspended(messages.suspended(facts.newest_step, begun))
    status = facts.state(
        aspects,
        suspended_at=since if already else facts.now,
        gang=facts.status.gang.model_copy(update={"members": []}),
        run_config=None,
        back_off_until=None,
    )
    absent = tuple(
        names.pod_name(facts.job.name, slot.member.index, slot.member.ticket) for slot in facts.slots
    )
    return Outcome(
        status, confirm_absent=absent, orders=Orders(action="SaveAndExit", reason=Reason.SUSPENDED)
    )


def is_resumed(facts: Facts) -> Outcome | None:
    """Suspend was taken back, or a paused run got another spec: count the pause and go on. Only a status write."""
    since = facts.job.status.suspended_at
    if since is None:
        return None
    counters = facts.status.counters
    if facts.has(ConditionType.SUSPENDED):
        paused = max((facts.now - since).total_seconds(), 0.0)
        counters = counters.model_copy(update={"suspended_seconds": counters.suspended_seconds + paused})
    before = find(facts.job.status.conditions, ConditionType.SUSPENDED)
    text = messages.resumed(paused=before is not None and before.reason in PAUSED)
    aspects = [
        *conditions.working(Reason.RESUMED, text),
        Aspect(ConditionType.SUSPENDED, "False", Reason.RESUMED, text),
    ]
    return Outcome(facts.state(aspects, suspended_at=None, counters=counters))


def deadline_passed(facts: Facts) -> Outcome | None:
    """Neither waiting nor working lasts longer than the spec allows; suspended time does not count."""
    nearest = next_deadline(facts)
    if nearest is None or facts.now < nearest[0]:
        return None
    reason = nearest[1]
    waited_for = last_words(facts) if facts.status.started_at is None else ""
    if reason is Reason.START_DEADLINE_EXCEEDED:
        text = messages.start_deadline_exceeded(facts.spec.start_deadline_seconds or 0, waited_for)
    else:
        text = messages.deadline_exceeded(facts.spec.active_deadline_seconds or 0, waited_for)
    message, _, hint = text.partition(". hint: ")
    found = Failure(reason=reason, failure_class=FailureClass.CONFIGURATION, message=message, hint=hint)
    return fail(facts, reason, found, text)


def last_words(facts: Facts) -> str:
    """What the run was waiting for, without the hint."""
    ready = find(facts.job.status.conditions, ConditionType.READY)
    text = f"{ready.reason}: {ready.message}" if ready is not None else "nothing was made yet"
    return text.split(". hint: ")[0]


def next_deadline(facts: Facts) -> tuple[datetime, Reason] | None:
    """The next deadline and what it means to miss it, None if there is none. Both count from creation."""
    spec, status = facts.spec, facts.status
    limits = [(spec.active_deadline_seconds, Reason.DEADLINE_EXCEEDED)]
    if status.started_at is None:
        limits.insert(0, (spec.start_deadline_seconds, Reason.START_DEADLINE_EXCEEDED))
    begin = facts.job.created_at + timedelta(seconds=status.counters.suspended_seconds)
    ends = [(begin + timedelta(seconds=limit), reason) for limit, reason in limits if limit is not None]
    return min(ends, key=lambda end: end[0], default=None)


def until_deadline(facts: Facts) -> float | None:
    """Seconds until the next deadline, None if there is none."""
    nearest = next_deadline(facts)
    return None if nearest is None else max((nearest[0] - facts.now).total_seconds(), 0.0)
