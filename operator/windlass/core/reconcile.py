"""What to do next for one run.

The shell calls `decide` whenever anything about the run changed or a timer ran out, and carries out the
Decision. Same arguments, same answer: no clock, no I/O, no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from windlass.api.meta import Reason
from windlass.api.status import JobStatus
from windlass.core import queues
from windlass.core.chains import TRAINING_CHAIN
from windlass.core.checkpoints.notice import notices
from windlass.core.cost import Moment, charge
from windlass.core.decision import Decision, Delete, Event
from windlass.core.facts import Facts, Outcome, gather
from windlass.core.goodput import Clock, account
from windlass.core.judges.lifecycle import until_deadline
from windlass.core.judges.nodes import forced_deletes, until_forced, until_node_is_lost
from windlass.core.judges.queued import until_given_up
from windlass.core.observed import Job, Observed
from windlass.core.pace import progress_interval, standing_interval
from windlass.core.planning.estimate import with_memory_advice
from windlass.core.settings import RenderSettings
from windlass.core.status import messages
from windlass.core.status.events import events_between
from windlass.core.suspects import until_expiry

MOVING: Final = frozenset({"progress", "goodput", "cost"})
"""Fields of a status that alone are no reason to write it at once."""
TOLD: Final = frozenset({*MOVING, "checkpoints", "tracking"})
"""Fields of a status that repeat what a leader says, or count it."""


def decide(job: Job, seen: Observed, now: datetime, settings: RenderSettings) -> Decision:
    """Say what to do next for one run. Pure."""
    facts = gather(job, seen, now, settings)
    for judge in TRAINING_CHAIN:
        outcome = judge(facts)
        if outcome is not None:
            return conclude(facts, outcome)
    raise ValueError("chains: no judge had an answer (the last one must always have one)")


def conclude(facts: Facts, outcome: Outcome) -> Decision:
    """The decision that an outcome comes to: status only if it changed, and the nearest timer."""
    written, held_seconds = None, None
    if not outcome.quiet:
        written, held_seconds = status_to_write(facts, outcome.status)
    status = written.to_wire() if written is not None else None
    told = status is not None and only_tells(facts.job.stored_status, status)
    if status is not None and not told:
        # Copies of models are not validated: what we could not read again must not be stored.
        JobStatus.model_validate(status)
    annotates, notice_seconds = notices(facts, outcome)
    waits = [outcome.requeue_after_seconds, held_seconds, deadline_wait(facts, outcome), notice_seconds]
    waits += [suspicion_wait(facts, outcome), until_forced(facts), until_node_is_lost(facts)]
    waits += [None if outcome.quiet else until_given_up(facts)]
    forced = forced_deletes(facts)
    return Decision(
        status=status,
        applies=outcome.applies,
        creates=outcome.creates,
        deletes=(*outcome.deletes, *forced, *queues.released(facts)),
        events=(
            *outcome.events,
            *force_events(forced),
            *(events_between(facts.job.status, written) if written is not None else ()),
        ),
        requeue_after_seconds=min((wait for wait in waits if wait is not None), default=None),
        orders=outcome.orders,
        confirm_absent=outcome.confirm_absent if status is not None else (),
        annotates=annotates,
        only_tells=told,
    )


def only_tells(stored: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether two statuses in wire form are alike but for what leaders tell and what is counted from it.

    No judge may decide by what is stored of that where a report says the same: another look right after the write
    would find nothing, and is not made (tests/unit/core/test_only_told.py).
    """
    names = {*stored, *status} - TOLD
    return all(stored.get(name) == status.get(name) for name in names)


def force_events(forced: tuple[Delete, ...]) -> tuple[Event, ...]:
    """One event, however many pods a node took with it."""
    text = messages.force_deleted([item.name for item in forced])
    return (Event("Warning", Reason.POD_FORCE_DELETED, text),) if forced else ()


def deadline_wait(facts: Facts, outcome: Outcome) -> float | None:
    """Seconds to the run's own deadline, while it is neither finished nor suspended or paused."""
    rests = facts.job.spec is None or facts.job.spec.suspend or outcome.status.suspended_at is not None
    if outcome.quiet or rests or outcome.status.finished_at:
        return None
    return until_deadline(facts)


def suspicion_wait(facts: Facts, outcome: Outcome) -> float | None:
    """Seconds until the run avoids a node less, while it may still make pods."""
    if outcome.quiet or outcome.status.finished_at:
        return None
    return until_expiry(outcome.status.suspect_nodes, facts.now)


def status_to_write(facts: Facts, status: JobStatus) -> tuple[JobStatus | None, float | None]:
    """The status if it is to be written now; else None, and when to look again."""
    status = status.model_copy(update={"observed_generation": facts.job.generation})
    if facts.job.spec is not None:
        status = with_memory_advice(queues.accounted(facts, status), facts.job.spec)
    before = facts.job.status
    if weighty(status) == weighty(before):
        wait = progress_wait(facts, status)
        if wait is None or wait > 0:
            return None, wait
    return with_accounts(facts, status), None


def with_accounts(facts: Facts, status: JobStatus) -> JobStatus:
    """The status with its seconds and its money as of this write."""
    account_of_seconds = goodput(facts, status)
    moment = Moment(
        now=facts.now,
        pods=facts.pods,
        seconds=account_of_seconds.seconds,
        left=seconds_left(status),
        watched_since=facts.seen.listening_since,
    )
    cost = charge(facts.settings.prices, facts.job.status.cost, moment)
    return status.model_copy(update={"goodput": account_of_seconds, "cost": cost})


def seconds_left(status: JobStatus) -> tuple[float, float] | None:
    """The band until the last step, while there is one ahead."""
    low, high = status.progress.eta_low_seconds, status.progress.eta_high_seconds
    if status.finished_at is not None or low is None or high is None:
        return None
    return low, high


def weighty(status: JobStatus) -> dict[str, Any]:
    """What is written at once when it changes."""
    data = status.to_wire(without=MOVING)
    tracking = data.get("tracking")
    if isinstance(tracking, dict):
        tracking.pop("spooled", None)
    return data


def progress_wait(facts: Facts, status: JobStatus) -> float | None:
    """Seconds until moved progress may be written; None when it has not moved."""
    new, old = status.progress, facts.job.status.progress
    if new == old:
        return None
    if old.updated_at is None:
        return 0.0
    standing = new.model_copy(update={"updated_at": old.updated_at}) == old
    runs, uid, busy = facts.seen.runs_heard, facts.job.uid, facts.seen.busy
    longest = standing_interval(runs, uid, busy=busy)
    due = old.updated_at + (longest if standing else progress_interval(runs, uid, busy=busy))
    left = (due - facts.now).total_seconds()
    # A clock ahead of ours must not hold writes back for long.
    return max(min(left, longest.total_seconds()), 0.0)


def goodput(facts: Facts, status: JobStatus) -> Any:
    """The account of all seconds as of this write."""
    timeline = facts.told.timeline if facts.told is not None else None
    before = status.goodput
    if facts.told is not None:
        before = before.model_copy(update={"lost_steps": max(before.lost_steps, facts.told.lost_steps)})
    if timeline is None and before.seconds.training > 0:
        return before
    finished = status.finished_at is not None
    until = facts.now if timeline is None else min(timeline.until, facts.now)
    until = status.finished_at or until
    leader = facts.leader
    clock = Clock(
        created_at=facts.job.created_at,
        until=until,
        admitted_at=status.admitted_at,
        scheduled_at=leader.scheduled_at if leader is not None else None,
        started_at=status.started_at,
        suspended_seconds=status.counters.suspended_seconds,
        back_off_seconds=status.counters.back_off_seconds,
        queued_seconds=status.counters.queued_seconds,
        finished=finished,
        was_started=facts.job.status.started_at is not None,
    )
    return account(clock, timeline, before)
