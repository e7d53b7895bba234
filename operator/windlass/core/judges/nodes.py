"""Judges and helpers about the nodes that a run's pods are on: which to suspect, and what follows.

Suspicions are written in the same write that gives out the ticket of the pod's successor, so that no
successor is ever rendered without them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from windlass.api.contract import Suspicion
from windlass.api.meta import Exclusion, FailureClass, Reason, Rung, SuspectReason
from windlass.api.running import Toleration
from windlass.api.status import SuspectNode
from windlass.core import queues
from windlass.core.decision import Delete
from windlass.core.facts import DEAD_KUBELET, Facts, Outcome, parse_verdict
from windlass.core.failure.budget import Charge
from windlass.core.failure.nodes import SUSPICION_CHARACTERS, blames_node, is_bad_node, suspicion_of
from windlass.core.gang import replace_members
from windlass.core.judges.loss import Loss, worst
from windlass.core.observed import PodView, Taint
from windlass.core.pace import unheard_after
from windlass.core.status import conditions, messages
from windlass.core.suspects import excluded, suspected


def suspicion(facts: Facts, loss: Loss) -> Suspicion | None:
    """What speaks against the node of a pod that was let go for it, by the leader or because of a taint."""
    pod = loss.slot.pod
    if pod is None or Rung.OTHER_NODE not in facts.spec.recovery.ladder:
        return None
    verdict = parse_verdict(pod.termination_message)
    if verdict is not None and verdict.suspicion is not None:
        return verdict.suspicion
    taint = health_taint(facts, pod)
    return tainted(taint) if taint is not None and not loss.is_charged else None


def suspects_after(facts: Facts, lost: tuple[Loss, ...], charge: Charge) -> list[SuspectNode]:
    """The nodes to be avoided once these members are lost: at most one new suspicion for each node."""
    found: dict[str, Suspicion] = {}
    for loss in lost:
        node = loss.slot.pod.node if loss.slot.pod is not None else None
        why = suspicion(facts, loss) or judged(facts, lost, loss, charge)
        if node is not None and why is not None and not is_known(facts, node, why):
            found.setdefault(node, why)
    suspects = list(facts.status.suspect_nodes)
    for node, why in found.items():
        seconds = facts.spec.recovery.suspect_node_seconds
        suspects = suspected(suspects, node, why, now=facts.now, seconds=seconds)
    return suspects


def judged(facts: Facts, lost: tuple[Loss, ...], loss: Loss, charge: Charge) -> Suspicion | None:
    """What the operator's own judgement of a loss says against its node."""
    if Rung.OTHER_NODE not in facts.spec.recovery.ladder or not blames_node(loss.judgement):
        return None
    moved = loss is worst(lost) and charge.rung is Rung.OTHER_NODE
    return suspicion_of(loss.judgement) if moved or is_bad_node(loss.judgement, {}) else None


def is_known(facts: Facts, node: str, why: Suspicion) -> bool:
    """Whether the node is avoided for this taint already: a taint is one piece of evidence while it stays."""
    known = next((item for item in facts.status.suspect_nodes if item.name == node), None)
    return known is not None and why.reason is SuspectReason.HEALTH_TAINT and known.reason is why.reason


def health_taint(facts: Facts, pod: PodView) -> Taint | None:
    """The taint that says that the devices of the pod's node are not sound, unless the user tolerates it."""
    node = facts.node(pod)
    for taint in node.taints if node is not None else ():
        if any(matches(pattern, taint.key) for pattern in facts.settings.health_taints) and not any(
            tolerates(item, taint) for item in facts.spec.pod.tolerations
        ):
            return taint
    return None


def matches(pattern: str, key: str) -> bool:
    """Whether a taint's key is meant; a trailing * stands for anything."""
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern


def tolerates(item: Toleration, taint: Taint) -> bool:
    """Whether a toleration of the user's is for this taint."""
    if item.effect is not None and item.effect != taint.effect:
        return False
    return item.key == taint.key and (item.operator == "Exists" or (item.value or "") == taint.value)


def tainted(taint: Taint) -> Suspicion:
    """What a health taint says against its node. Moving off it in time costs no step, and no budget."""
    return Suspicion(
        reason=SuspectReason.HEALTH_TAINT,
        exclusion=Exclusion.REQUIRED,
        failure_class=FailureClass.PREEMPTED,
        evidence=[f"taint {taint.key}={taint.value}:{taint.effect}"[:SUSPICION_CHARACTERS]],
    )


def node_is_unhealthy(facts: Facts) -> Outcome | None:
    """The devices of a member's node are not sound, by its taints: save, and go on elsewhere.

    The pod is asked to leave like in a drain; what follows is the loss of a member that nobody is charged for.
    """
    if Rung.OTHER_NODE not in facts.spec.recovery.ladder:
        return None
    leaving = [
        (slot.pod, taint)
        for slot in facts.slots
        if slot.pod is not None and slot.pod.deletion_timestamp is None and not slot.pod.is_terminal
        if (taint := health_taint(facts, slot.pod)) is not None and not facts.is_on_lost_node(slot.pod)
    ]
    if not leaving:
        return None
    suspects = list(facts.status.suspect_nodes)
    seconds = facts.spec.recovery.suspect_node_seconds
    for node, taint in {pod.node or "": taint for pod, taint in leaving}.items():
        if not is_known(facts, node, tainted(taint)):
            suspects = suspected(suspects, node, tainted(taint), now=facts.now, seconds=seconds)
    pod, taint = leaving[0]
    text = messages.node_unhealthy(pod.name, pod.node or "", taint.key)
    aspects = conditions.working(Reason.RECOVERING, text)
    return Outcome(
        facts.state(aspects, suspect_nodes=suspects), deletes=facts.deletes(pod for pod, _ in leaving)
    )


def forced_deletes(facts: Facts) -> tuple[Delete, ...]:
    """Pods that outlived their grace period on a dead node, if the user wants them removed all the same."""
    return tuple(
        Delete(kind="Pod", name=pod.name, uid=pod.uid, force=True)
        for pod, due in stuck(facts)
        if facts.now >= due and is_on_dead_node(facts, pod)
    )


def until_forced(facts: Facts) -> float | None:
    """Seconds until a leaving pod may be removed by force, None if none may."""
    return min(
        (left for _, due in stuck(facts) if (left := (due - facts.now).total_seconds()) > 0), default=None
    )


def stuck(facts: Facts) -> list[tuple[PodView, datetime]]:
    """Pods that are being deleted, and from when on each may be removed by force."""
    spec = facts.job.spec
    after = spec.recovery.force_delete_after_seconds if spec is not None else None
    if after is None or facts.job.deleting:
        return []
    return [
        (pod, pod.deletion_timestamp + (max(DEAD_KUBELET, wait) if facts.node(pod) is None else wait))
        for wait in (timedelta(seconds=after),)
        for pod in facts.pods
        # What has ended and is kept by its queue alone is the queue's to let go.
        if pod.deletion_timestamp is not None and not queues.is_kept(pod)
    ]


def is_on_dead_node(facts: Facts, pod: PodView) -> bool:
    """Whether nobody is there who could end the pod. Where nodes are not watched, its own silence tells."""
    node = facts.node(pod)
    return not node.ready if node is not None else facts.is_out_of_reach(pod)


def until_node_is_lost(facts: Facts) -> float | None:
    """Seconds until an agent on a node that is not ready has been silent for too long, None if there is none."""
    if facts.settings.report_url is None:
        return None
    alive = [slot.pod for slot in facts.slots if slot.pod is not None and not slot.pod.is_terminal]
    doubtful = [pod for pod in alive if (node := facts.node(pod)) is not None and not node.ready]
    pause = unheard_after(facts.seen.runs_heard).total_seconds()
    return pause if any(facts.is_heard(pod) for pod in doubtful) else None


def exclusion_is_over(facts: Facts) -> Outcome | None:
    """A pod waits for a node although one that it was kept off is free of suspicion: make it anew.

    Where a pod may be placed cannot be changed once it is made. Only a status write, and no failure.
    """
    strict = set(excluded(facts.status.suspect_nodes, Exclusion.REQUIRED))
    stale = [
        (slot, tuple(node for node in slot.pod.avoids if node not in strict))
        for slot in facts.slots
        if slot.pod is not None and slot.pod.node is None and slot.pod.unschedulable is not None
    ]
    stale = [(slot, free) for slot, free in stale if free]
    if not stale:
        return None
    gang = replace_members(facts.status.gang, {slot.member.index for slot, _ in stale})
    slot, free = stale[0]
    text = messages.exclusion_over(slot.pod.name if slot.pod is not None else "", free)
    # A gang that trains without the pod goes on doing so.
    trains = facts.report is not None and facts.report.nodes is not None
    aspects = () if trains else conditions.working(Reason.RECOVERING, text)
    return Outcome(facts.state(aspects, gang=gang))
