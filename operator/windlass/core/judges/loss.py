"""Which members of a gang are lost, why, and what that costs.

Used by the judge `member_is_lost`. The leader charges what its ranks do; the operator charges pods that
never came to an incarnation, and deaths that only it can explain (killed for memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass
from windlass.api.status import Charges
from windlass.core import names
from windlass.core.facts import LOST_NODE, Facts, Slot, parse_verdict
from windlass.core.failure.budget import Charge, Place, charge
from windlass.core.failure.classify import Judgement, classify
from windlass.core.failure.evidence import End
from windlass.core.observed import PodView

# A member that ended in good order is waited for: the leader's word on the run follows.
LAST_WORD = timedelta(seconds=60)
MESSAGE_LINES = 20


@dataclass(frozen=True, slots=True)
class Loss:
    """A place whose pod is gone or ended, and why."""

    slot: Slot
    name: str
    judgement: Judgement

    @property
    def is_charged(self) -> bool:
        """Whether it counts as a failure."""
        return self.judgement.failure_class is not FailureClass.PREEMPTED


def losses(facts: Facts) -> tuple[Loss, ...]:
    """All lost members, by index."""
    leader_lost = any(
        slot.member.index == 0 and is_lost(facts, slot, leader_lost=False) for slot in facts.slots
    )
    return tuple(
        loss_of(facts, slot) for slot in facts.slots if is_lost(facts, slot, leader_lost=leader_lost)
    )


def is_lost(facts: Facts, slot: Slot, *, leader_lost: bool) -> bool:
    """Whether the place needs a new pod. One that was never made is not lost."""
    pod = slot.pod
    if pod is None:
        return slot.member.pod_uid is not None
    if not pod.is_terminal:
        return pod.deletion_timestamp is not None or facts.is_on_lost_node(pod)
    verdict = parse_verdict(pod.termination_message)
    in_good_order = verdict is not None and verdict.result in ("Succeeded", "Failed", "Paused")
    if slot.member.index == 0 or not in_good_order or leader_lost:
        return True
    return pod.finished_at is not None and facts.now - pod.finished_at >= LAST_WORD


def loss_of(facts: Facts, slot: Slot) -> Loss:
    """Why this place is lost."""
    name = names.pod_name(facts.job.name, slot.member.index, slot.member.ticket)
    return Loss(slot, name, classify([pod_end(facts, slot.pod, name)]))


def pod_end(facts: Facts, pod: PodView | None, name: str) -> End:
    """The evidence about a pod, in the terms of the table."""
    if pod is None:
        return End(at=facts.now.timestamp(), pod=name, whole_pod=True)
    verdict = parse_verdict(pod.termination_message)
    said = [] if verdict is not None else pod.termination_message.splitlines()[-MESSAGE_LINES:]
    if pod.message:
        said.append(pod.message)
    preempted = verdict is not None and verdict.result == "Preempted"
    asked = pod.deletion_timestamp is not None and pod.terminated_reason != "OOMKilled"
    return End(
        at=(pod.finished_at or facts.now).timestamp(),
        pod=name,
        node=pod.node,
        exit_code=pod.exit_code,
        signal=pod.signal,
        log_tail=tuple(said),
        failure=verdict.failure if verdict is not None else None,
        whole_pod=True,
        container_reason=pod.terminated_reason,
        pod_reason=pod.reason,
        disruption=disruption(facts, pod) or ("Deleted" if asked or preempted else None),
    )


def disruption(facts: Facts, pod: PodView) -> str | None:
    """What the cluster did to the pod. A taint that evicts need not mean that the node is lost."""
    node = facts.node(pod)
    if node is None or pod.is_terminal:
        return pod.disruption
    if facts.is_on_lost_node(pod):
        return "NodeLost"
    return "EvictionByTaint" if pod.disruption in LOST_NODE and node.ready else pod.disruption


def worst(lost: tuple[Loss, ...]) -> Loss:
    """The loss that explains the others: charged before not, a named cause before a mere absence."""
    return min(lost, key=lambda loss: (not loss.is_charged, is_vague(loss.judgement), loss.slot.member.index))


def is_vague(judgement: Judgement) -> bool:
    """Whether it says no more than that the pod is gone."""
    return judgement.failure_class is FailureClass.INFRASTRUCTURE


def charge_losses(facts: Facts, lost: tuple[Loss, ...]) -> Charge:
    """Charge the worst of them; one event is one failure, however many pods it took."""
    return charge_for(facts, worst(lost).judgement)


def charge_for(facts: Facts, judgement: Judgement) -> Charge:
    """Charge one failure."""
    place = Place(verified_step=facts.newest_step, at_step=facts.status.progress.step, seed=seed(facts))
    return charge(charged_before(facts), judgement, facts.spec.recovery, place)


def seed(facts: Facts) -> str:
    """What the jitter of a pause is made from: another for every run and every gang of it."""
    return f"{facts.job.uid}/{facts.status.gang.last_ticket}"


def charged_before(facts: Facts) -> BudgetUse:
    """The count so far. An incarnation that followed proves the pods sound, but not memory, nor the nodes."""
    stored = facts.status.charges or Charges()
    over = facts.status.incarnation > stored.incarnation
    kinds = (FailureClass.OUT_OF_MEMORY,) if over else tuple(FailureClass)
    used = {kind: stored.used[kind] for kind in kinds if kind in stored.used}
    recent = {kind: stored.recent[kind] for kind in used if kind in stored.recent}
    return BudgetUse(used=used, since_step=stored.since_step, nodes=dict(stored.nodes), recent=recent)


def charges_after(facts: Facts, made: Charge) -> Charges:
    """The count as status keeps it: rows of recoveries are too few to count by."""
    used = {str(kind): count for kind, count in made.use.used.items()}
    return Charges(
        since_step=made.use.since_step,
        incarnation=facts.status.incarnation,
        used=used,
        nodes=made.use.nodes,
        recent={str(kind): times for kind, times in made.use.recent.items()},
    )
