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
from windlass.core.status import messages

SAME_FAILURE_LIMIT: Final = 3
TRIES_PER_RUNG: Final = 2
BACK_OFF_LIMIT_SECONDS: Final = 300.0
JITTER: Final = 0.2
# A slow mount looks like a missing file: one retry, then it is what it looks like.
CONFIGURATION_RETRIES: Final = 1
RUNGS: Final = (Rung.IN_PLACE, Rung.RECREATE_POD, Rung.RECREATE_GANG)


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
    use = BudgetUse(
        used=use.used | {judgement.failure_class: used},
        since_step=use.since_step,
        signature=mark,
        signature_count=count,
    )
    ended = limit(judgement, recovery.budgets, used=used, same=count)
    if ended is not None:
        return Charge(use, stop=ended[0], message=ended[1])
    rung = next_rung(recovery.ladder, judgement, used, memory_group=place.memory_group)
    if rung is None:
        return Charge(use, stop=judgement.reason, message=messages.no_rung(judgement.message))
    total = sum(use.used.values())
    return Charge(use, rung=rung, delay_seconds=delay(recovery.back_off_seconds, total, place.seed))


def same_mark(judgement: Judgement, at_step: int) -> str:
    """The signature that counts towards the breaker.

    A bare signal says nothing about its cause, so such ends are the same only at the same step.
    """
    if judgement.evidence:
        return judgement.signature
    return f"{judgement.signature}@{at_step}"


def limit(judgement: Judgement, budgets: Budgets, *, used: int, same: int) -> tuple[Reason | str, str] | None:
    """Why there is no further try, if so."""
    budget = budget_of(judgement.failure_class, budgets)
    if judgement.failure_class is FailureClass.CONFIGURATION:
        text = messages.hinted(judgement.message.rstrip("."), judgement.hint)
        return (judgement.reason, text) if used > CONFIGURATION_RETRIES else None
    if budget is not None and used > budget:
        return Reason.BUDGET_EXHAUSTED, messages.budget_exhausted(
            judgement.failure_class, budget, judgement.message
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


def next_rung(ladder: list[Rung], judgement: Judgement, used: int, *, memory_group: bool) -> Rung | None:
    """The lowest rung of the ladder that can help, one higher after every second try.

    A ladder that ends below that is used to its top; but what is gone does not come back in place.
    """
    gone = judgement.whole_pod or (judgement.failure_class is FailureClass.OUT_OF_MEMORY and memory_group)
    first = 1 if gone else 0
    possible = [rung for rung in RUNGS[first:] if rung in ladder]
    if not possible:
        return None
    wanted = first + (used - 1) // TRIES_PER_RUNG
    return next((rung for rung in possible if RUNGS.index(rung) >= wanted), possible[-1])


def delay(base_seconds: float, failures: int, seed: str) -> float:
    """Seconds before the next try: none after the first failure, then doubling up to 300, with jitter."""
    if failures <= 1 or base_seconds <= 0:
        return 0.0
    plain = min(base_seconds * 2.0 ** min(failures - 2, 20), BACK_OFF_LIMIT_SECONDS)
    noise = int.from_bytes(hashlib.sha256(f"{seed}/{failures}".encode()).digest()[:4], "big") / 2**32
    return float(plain * (1.0 - JITTER + 2.0 * JITTER * noise))
