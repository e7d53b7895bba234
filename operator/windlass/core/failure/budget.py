"""What a failure costs and what is tried next: budgets, the breaker, back-off and the ladder.

The leader calls `charge` before it claims the next incarnation (the count lives in the incarnation file,
so a crash-looping leader stops even while the operator is away); the operator calls it for pods that
never got as far as an agent. Pure: jitter comes from a seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from windlass.api.contract import BudgetUse
from windlass.api.meta import FailureClass, Reason, Rung
from windlass.api.running import Budgets, Recovery
from windlass.core.failure.classify import Judgement
from windlass.core.failure.nodes import blames_node, is_bad_node
from windlass.core.failure.windows import WINDOWED, WINDOWS, counts, recent_with
from windlass.core.status import messages

SAME_FAILURE_LIMIT: Final = 3
BACK_OFF_LIMIT_SECONDS: Final = 300.0
JITTER: Final = 0.2
# A slow mount looks like a missing file: one retry, then it is what it looks like.
CONFIGURATION_RETRIES: Final = 1
RUNGS: Final = (Rung.IN_PLACE, Rung.RECREATE_POD, Rung.OTHER_NODE, Rung.RECREATE_GANG)
"""From least to most."""
TRIES: Final = {Rung.IN_PLACE: 2, Rung.RECREATE_POD: 1, Rung.OTHER_NODE: 1}
"""Tries before the next rung; the highest has no limit of its own."""


@dataclass(frozen=True, slots=True)
class Charge:
    """The count after a failure, and what follows: `rung` after `delay_seconds`, or the end with `stop`."""

    use: BudgetUse
    rung: Rung | None = None
    delay_seconds: float = 0.0
    stop: Reason | str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the run a failure happened.

    `verified_step` is the newest verified checkpoint's, `at_step` the last step begun; `seed` makes the
    jitter; `memory_group` says that the kernel kills a whole container for memory (cgroup v2).
    """

    verified_step: int
    at_step: int
    seed: str
    memory_group: bool = False


def budget_of(failure_class: FailureClass, budgets: Budgets) -> int | None:
    """Failures of this class that a run survives without progress; None is without limit."""
    table = {
        FailureClass.CRASH: budgets.crash,
        FailureClass.INFRASTRUCTURE: budgets.infrastructure,
        FailureClass.OUT_OF_MEMORY: budgets.out_of_memory,
        FailureClass.STORAGE: budgets.storage,
        FailureClass.STALL: budgets.stall,
        FailureClass.NUMERIC: budgets.numeric,
        FailureClass.CONFIGURATION: CONFIGURATION_RETRIES,
    }
    return table.get(failure_class)


def after_progress(use: BudgetUse, verified_step: int) -> BudgetUse:
    """The count, begun anew if a newer checkpoint was verified since it last began."""
    return BudgetUse(since_step=verified_step) if verified_step > use.since_step else use


def charge(use: BudgetUse, judgement: Judgement, recovery: Recovery, place: Place) -> Charge:
    """Charge one failure to the count, and say what follows."""
    use = after_progress(use, place.verified_step)
    if judgement.failure_class is FailureClass.PREEMPTED:
        return Charge(use, rung=Rung.RECREATE_POD)
    mark = same_mark(judgement, place.at_step)
    count = use.signature_count + 1 if use.signature == mark else 1
    used = use.used.get(judgement.failure_class, 0) + 1
    recent = recent_with(use, judgement.failure_class, judgement.at, recovery.budgets.window_seconds)
    node = judgement.first_failed.node
    nodes = use.nodes | {node: use.nodes.get(node, 0) + 1} if node else use.nodes
    use = BudgetUse(
        used=use.used | {judgement.failure_class: used},
        since_step=use.since_step,
        signature=mark,
        signature_count=count,
        nodes=nodes,
        recent=recent,
    )
    counted = counts(use.used, recent)
    late = counted[judgement.failure_class]
    ended = limit(judgement, recovery.budgets, used=late, same=count, total=used)
    if ended is not None:
        return Charge(use, stop=ended[0], message=ended[1])
    bad = is_bad_node(judgement, nodes)
    rung = next_rung(recovery.ladder, judgement, late, memory_group=place.memory_group, bad_node=bad)
    if rung is None:
        return Charge(use, stop=judgement.reason, message=messages.no_rung(judgement.message))
    total = sum(counted.values())
    return Charge(use, rung=rung, delay_seconds=delay(recovery.back_off_seconds, total, place.seed))


def same_mark(judgement: Judgement, at_step: int) -> str:
    """The signature that counts towards the breaker.

    A bare signal says nothing about its cause, so such ends are the same only at the same step.
    """
    if judgement.evidence:
        return judgement.signature
    return f"{judgement.signature}@{at_step}"


def limit(
    judgement: Judgement, budgets: Budgets, *, used: int, same: int, total: int = 0
) -> tuple[Reason | str, str] | None:
    """Why there is no further try, if so. `used` counts of late, `total` since the last progress."""
    budget = budget_of(judgement.failure_class, budgets)
    if judgement.failure_class is FailureClass.CONFIGURATION:
        text = messages.hinted(judgement.message.rstrip("."), judgement.hint)
        return (judgement.reason, text) if used > CONFIGURATION_RETRIES else None
    if budget is not None and (used > budget or total > budget * WINDOWS):
        return Reason.BUDGET_EXHAUSTED, messages.budget_exhausted(
            judgement.failure_class,
            budget,
            judgement.message,
            count=used if used > budget else total,
            within_seconds=budgets.window_seconds
            if judgement.failure_class in WINDOWED and used > budget
            else 0,
        )
    if same >= SAME_FAILURE_LIMIT and not lies_outside(judgement):
        return Reason.NO_PROGRESS, messages.no_progress(same, judgement.message)
    return None


def lies_outside(judgement: Judgement) -> bool:
    """Whether the cause is an outage, which says the same each time until it is over; its budget bounds it.

    A checkpoint that cannot be loaded is no outage: it stays as it is.
    """
    outages = (FailureClass.INFRASTRUCTURE, FailureClass.STORAGE)
    return judgement.failure_class in outages and judgement.reason != Reason.CHECKPOINT_UNUSABLE


def next_rung(
    ladder: list[Rung], judgement: Judgement, used: int, *, memory_group: bool, bad_node: bool = False
) -> Rung | None:
    """The lowest rung of the ladder that can help, a higher one when its tries are used up.

    A ladder that ends below that is used to its top; but what is gone does not come back in place, and
    another node helps only where the node may be at fault.
    """
    gone = judgement.whole_pod or (judgement.failure_class is FailureClass.OUT_OF_MEMORY and memory_group)
    first = 1 if gone else 0
    wanted = height(first, used)
    if bad_node and Rung.OTHER_NODE in ladder:
        wanted = max(wanted, RUNGS.index(Rung.OTHER_NODE))
    helpful = [rung for rung in RUNGS[first:] if rung is not Rung.OTHER_NODE or blames_node(judgement)]
    possible = [rung for rung in helpful if rung in ladder]
    if not possible:
        return None
    if RUNGS[wanted] is Rung.OTHER_NODE and Rung.OTHER_NODE not in possible:
        # Where no other node can help, another new pod has its try.
        wanted = RUNGS.index(Rung.RECREATE_POD)
    return next((rung for rung in possible if RUNGS.index(rung) >= wanted), possible[-1])


def height(first: int, used: int) -> int:
    """Index of the rung that the failure of this number (from 1) is due, when climbing begins at `first`."""
    tries = [index for index in range(first, len(RUNGS)) for _ in range(TRIES.get(RUNGS[index], 0))]
    return tries[used - 1] if used <= len(tries) else len(RUNGS) - 1


def delay(base_seconds: float, failures: int, seed: str) -> float:
    """Seconds before the next try: none after the first failure, then doubling up to 300, with jitter."""
    if failures <= 1 or base_seconds <= 0:
        return 0.0
    plain = min(base_seconds * 2.0 ** min(failures - 2, 20), BACK_OFF_LIMIT_SECONDS)
    noise = int.from_bytes(hashlib.sha256(f"{seed}/{failures}".encode()).digest()[:4], "big") / 2**32
    return float(plain * (1.0 - JITTER + 2.0 * JITTER * noise))
