"""What a queue does to a run, told by its pods: waiting for admission, pods that count, and letting go.

Judges, and `conclude`, ask here. The operator reads no object of the queue's: gates, finalizers and conditions of
its own pods say all that decisions need.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from windlass.api.meta import ConditionType, Reason
from windlass.api.status import JobStatus
from windlass.core import kueue
from windlass.core.decision import Delete
from windlass.core.facts import Facts, Slot
from windlass.core.observed import PodView
from windlass.core.status import messages
from windlass.core.status.conditions import Aspect, find, is_true, merge

# Kueue takes note of a new pod within moments; after this long it is not there, or not for this namespace.
UNNOTICED = timedelta(seconds=60)
# An operator that is there sees that a pod got its node within moments; stamps of pods have whole seconds.
AWAY = timedelta(seconds=5)


def is_waiting(facts: Facts) -> bool:
    """Whether the gang waits for admission as a whole: pods are there, and none may be given a node."""
    pods = [slot.pod for slot in facts.slots if slot.pod is not None and slot.pod.deletion_timestamp is None]
    return bool(pods) and all(pod.is_gated for pod in pods)


def is_unnoticed(facts: Facts) -> bool:
    """Whether Kueue has had time to take note of the pods, and has not."""
    pods = [slot.pod for slot in facts.slots if slot.pod is not None]
    made = [pod.created_at for pod in pods if pod.created_at is not None]
    late = bool(made) and facts.now - max(made) >= UNNOTICED
    return facts.spec.scheduling.queue is not None and late and not any(pod.is_held for pod in pods)


def waiting_text(facts: Facts) -> str:
    """What the gang waits for."""
    queue = facts.spec.scheduling.queue
    if queue is None:
        gates = sorted({gate for slot in facts.slots if slot.pod is not None for gate in slot.pod.gates})
        return messages.gated(gates)
    grouped = kueue.is_grouped(facts.spec)
    group = kueue.group_name(facts.job.name, facts.job.uid, facts.status.gang.attempt)
    return messages.queued(queue.name, group if grouped else None)


# --- which pods count ---------------------------------------------------------------------------------


def is_counted(pod: PodView) -> bool:
    """Whether Kueue counts a pod of a group as one that lives or has succeeded; one too many is deleted by it."""
    never_runs = pod.deletion_timestamp is not None and pod.node is None
    return pod.phase != "Failed" and not never_runs


def fitting(facts: Facts, empty: Sequence[Slot]) -> list[Slot]:
    """Those of the empty places that may be filled now without one pod too many in Kueue's group."""
    if not kueue.is_grouped(facts.spec):
        return list(empty)
    attempt = facts.status.gang.attempt
    counted = sum(pod.attempt == attempt and is_counted(pod) for pod in facts.pods)
    return list(empty)[: max(facts.spec.resources.nodes - counted, 0)]


def leaving(facts: Facts) -> list[PodView]:
    """Pods that keep their places in Kueue's group although they are no members any more."""
    attempt = facts.status.gang.attempt
    return [pod for pod in facts.former if pod.attempt == attempt and is_counted(pod)]


def is_over(facts: Facts, lost: Collection[int]) -> bool:
    """Whether the group cannot go on without these places, so that the gang needs another: a new attempt.

    Kueue takes a group for finished once none of its pods lives, and never replaces a pod that has succeeded. A pod
    that waits at its gate beside others that had been admitted came too late.
    """
    if not kueue.is_grouped(facts.spec):
        return False
    pods = [(slot.member.index in lost, slot.pod) for slot in facts.slots]
    gone = [pod for is_lost, pod in pods if is_lost]
    if any(pod is not None and pod.phase == "Succeeded" for pod in gone):
        return True
    alive = any(
        pod is not None and not pod.is_gated and not pod.is_terminal for is_lost, pod in pods if not is_lost
    )
    return not alive and any(pod is None or not pod.is_gated for pod in gone)


# --- letting go ---------------------------------------------------------------------------------------


def is_kept(pod: PodView) -> bool:
    """Whether only the queue keeps the pod in the API: it has ended, or will never run."""
    return pod.is_held and (pod.is_terminal or pod.node is None)


def until_overdue(facts: Facts, kept: Iterable[PodView]) -> float | None:
    """Seconds until the queue should have let go of pods that have ended, None if that is so now.

    One that was deleted before it had a node has ended with that.
    """
    ends = [pod.finished_at or pod.deletion_timestamp for pod in kept]
    known = [end for end in ends if end is not None]
    left = (max(known) + UNNOTICED - facts.now).total_seconds() if known else UNNOTICED.total_seconds()
    return left if left > 0 else None


def released(facts: Facts) -> tuple[Delete, ...]:
    """Workloads to be deleted, of this run's groups that nobody will complete."""
    if not facts.settings.kueue:
        return ()
    return tuple(abandoned(facts.job.name, facts.job.uid, facts.pods, facts.is_out_of_reach))


def abandoned(
    run: str, uid: str, pods: Iterable[PodView], is_out_of_reach: Callable[[PodView], bool]
) -> list[Delete]:
    """The Workloads of groups all of whose pods leave, and some of which Kueue will never see end.

    That is a pod that never had a node, or whose node does not answer. Kueue waits for its replacement for ever, and
    keeps it: deleting the Workload is the documented way out. The name is made from the run, never read from a pod,
    whose labels others may have written.
    """
    groups: dict[int, list[PodView]] = {}
    for pod in pods:
        if pod.in_group:
            groups.setdefault(pod.attempt, []).append(pod)
    return [
        Delete(kind="Workload", name=kueue.group_name(run, uid, attempt), uid="")
        for attempt, members in sorted(groups.items())
        if all(pod.deletion_timestamp is not None or pod.is_terminal for pod in members)
        and any(
            pod.is_held and not pod.is_terminal and (pod.node is None or is_out_of_reach(pod))
            for pod in members
        )
    ]


# --- the account --------------------------------------------------------------------------------------


def accounted(facts: Facts, status: JobStatus) -> JobStatus:
    """The status with the condition Queued, the first admission, and the seconds of waits that are over."""
    waits = status.finished_at is None and is_waiting(facts)
    before = find(facts.job.status.conditions, ConditionType.QUEUED)
    waited = is_true(facts.job.status.conditions, ConditionType.QUEUED)
    has_queue = facts.spec.scheduling.queue is not None
    update: dict[str, object] = {}
    if waits != waited:
        aspect = (
            Aspect(ConditionType.QUEUED, "True", Reason.QUEUED, waiting_text(facts))
            if waits
            else Aspect(ConditionType.QUEUED, "False", Reason.AS_EXPECTED)
        )
        update["conditions"] = merge(
            status.conditions, [aspect], now=facts.now, generation=facts.job.generation
        )
    seconds, over = status.counters.queued_seconds, wait_over_at(facts)
    if status.admitted_at is None and has_queue and not waits and is_through(facts):
        update["admitted_at"] = over
        since = facts.job.created_at + timedelta(seconds=status.counters.suspended_seconds)
        seconds = max((over - since).total_seconds(), 0.0)
    elif has_queue and status.admitted_at is not None and waited and not waits and before is not None:
        seconds = (seconds or 0.0) + max((over - before.last_transition_time).total_seconds(), 0.0)
    if seconds != status.counters.queued_seconds:
        update["counters"] = status.counters.model_copy(update={"queued_seconds": seconds})
    return status.model_copy(update=update) if update else status


def wait_over_at(facts: Facts) -> datetime:
    """When the queue let the gang go, if that was a moment ago; else an operator was away, and pods tell."""
    stamps = [slot.pod.scheduled_at for slot in facts.slots if slot.pod is not None]
    first = min((stamp for stamp in stamps if stamp is not None), default=facts.now)
    return first if facts.now - first >= AWAY else facts.now


def is_through(facts: Facts) -> bool:
    """Whether some pod of the gang is not held back any more."""
    return any(slot.pod is not None and not slot.pod.is_gated for slot in facts.slots)
