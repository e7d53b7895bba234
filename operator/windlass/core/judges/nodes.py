"""Judges and helpers about the nodes that a run's pods are on: which to suspect, and what follows.

Suspicions are written in the same write that gives out the ticket of the pod's successor, so that no
successor is ever rendered without them.
"""

from __future__ import annotations

from windlass.api.contract import Suspicion
from windlass.api.meta import Exclusion, Reason, Rung
from windlass.api.status import SuspectNode
from windlass.core.facts import Facts, Outcome, parse_verdict
from windlass.core.failure.budget import Charge
from windlass.core.failure.nodes import blames_node, is_bad_node, suspicion_of
from windlass.core.gang import replace_members
from windlass.core.judges.loss import Loss, worst
from windlass.core.status import conditions, messages
from windlass.core.suspects import excluded, suspected


def suspicion(facts: Facts, loss: Loss) -> Suspicion | None:
    """What the leader says against the node of a pod that it let go, if that is why it did."""
    if loss.slot.pod is None or Rung.OTHER_NODE not in facts.spec.recovery.ladder:
        return None
    verdict = parse_verdict(loss.slot.pod.termination_message)
    return verdict.suspicion if verdict is not None else None


def suspects_after(facts: Facts, lost: tuple[Loss, ...], charge: Charge) -> list[SuspectNode]:
    """The nodes to be avoided once these members are lost: at most one new suspicion for each node."""
    found: dict[str, Suspicion] = {}
    for loss in lost:
        node = loss.slot.pod.node if loss.slot.pod is not None else None
        why = suspicion(facts, loss) or judged(facts, lost, loss, charge)
        if node is not None and why is not None:
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
    return Outcome(facts.state(conditions.working(Reason.RECOVERING, text), gang=gang))
