"""The judge about runs that a guard has paused: no pods, and no step, until somebody changes the spec.

The leader ends with the verdict Paused. That is noted in the condition Suspended, whose generation says which spec it
was judged for; a later one, or suspending and resuming, lets the run go on by `lifecycle.is_resumed`.
"""

from __future__ import annotations

from windlass.api.meta import ConditionType, Reason
from windlass.api.status import Condition
from windlass.core import names
from windlass.core.facts import Facts, Outcome
from windlass.core.failure.numeric import PAUSED
from windlass.core.judges.lifecycle import ended_at, unexplained
from windlass.core.status import conditions, messages
from windlass.core.status.conditions import find


def is_paused(facts: Facts) -> Outcome | None:
    """A guard has stopped the run: note why, remove the pods, forget the gang, then wait for another spec."""
    noted = pause_of(facts)
    if noted is None:
        return begin(facts)
    if facts.pods or facts.status.gang.members:
        return leave(facts)
    if noted.observed_generation == facts.job.generation:
        return Outcome(facts.state(()))
    return None


def pause_of(facts: Facts) -> Condition | None:
    """The condition that says that a guard paused the run, while it does."""
    found = find(facts.job.status.conditions, ConditionType.SUSPENDED)
    paused = found is not None and found.status == "True" and found.reason in PAUSED
    return found if paused and facts.job.status.suspended_at is not None else None


def begin(facts: Facts) -> Outcome | None:
    """The leader has said so: that is written first, and stays true whatever happens to the pods."""
    verdict = facts.verdict(facts.leader)
    if verdict is None or verdict.result != "Paused":
        return None
    failure = verdict.failure or facts.status.last_failure or unexplained()
    reason = next((each for each in PAUSED if each == failure.reason), Reason.NON_FINITE)
    aspects = conditions.paused(reason, messages.failure(failure))
    status = facts.state(aspects, suspended_at=ended_at(facts), last_failure=failure, back_off_until=None)
    return Outcome(status, deletes=facts.deletes(facts.pods))


def leave(facts: Facts) -> Outcome:
    """The pods are removed, whatever the spec says by now; once they are gone the gang is forgotten."""
    if facts.pods:
        return Outcome(facts.state(()), deletes=facts.deletes(facts.pods))
    gang = facts.status.gang.model_copy(update={"members": []})
    absent = tuple(
        names.pod_name(facts.job.name, slot.member.index, slot.member.ticket) for slot in facts.slots
    )
    return Outcome(facts.state((), gang=gang, run_config=None), confirm_absent=absent)
