"""Where the seconds of a run went, and which share of them were new steps.

The operator calls `account` at each status write, `windlass status` shows the result. Parts sum exactly
to the time since creation, whatever the clocks of different machines say. Pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from windlass.api.contract import Timeline
from windlass.api.status import Goodput, GoodputSeconds

BEFORE_START = ("queued", "scheduling", "pulling")
OF_AGENTS = (
    "starting",
    "loading",
    "training",
    "validating",
    "checkpoint_stall",
    "recovering",
    "reworked",
    "back_off",
    "finishing",
)


@dataclass(frozen=True, slots=True)
class Clock:
    """The instants that bound the parts, and what the operator itself has counted.

    `started_at` is the start of the first leader's container; `until` is the instant of the account.
    """

    created_at: datetime
    until: datetime
    admitted_at: datetime | None = None
    scheduled_at: datetime | None = None
    started_at: datetime | None = None
    suspended_seconds: float = 0.0
    back_off_seconds: float = 0.0
    # All waits for a queue that are over; None without a queue, and before the first of them is.
    queued_seconds: float | None = None
    finished: bool = False
    # Whether the last account knew of the start.
    was_started: bool = False


@dataclass(slots=True)
class Purse:
    """Time that is not given to a part yet; nobody can take more than is left."""

    left: float

    def take(self, seconds: float) -> float:
        """As much of this as is left, never less than nothing."""
        taken = min(max(seconds, 0.0), self.left)
        self.left -= taken
        return taken


def account(clock: Clock, timeline: Timeline | None, before: Goodput) -> Goodput:
    """Split the seconds from creation to `until`. `before` is the last account: parts that are over stay."""
    total = max((clock.until - clock.created_at).total_seconds(), 0.0)
    purse = Purse(total)
    parts = dict.fromkeys(GoodputSeconds.model_fields, 0.0)
    if timeline is not None:
        take_agents_parts(parts, purse, clock, timeline, before.seconds)
    else:
        take_first_parts(parts, purse, clock)
    seconds = GoodputSeconds(**parts)
    since_admission = max(total - seconds.queued - seconds.suspended, 0.0) if clock.admitted_at else 0.0
    return Goodput(
        ratio=round(seconds.training / since_admission, 4) if since_admission > 0 else None,
        since_creation=total,
        since_admission=since_admission,
        seconds=seconds,
        lost_steps=before.lost_steps,
    )


def take_first_parts(parts: dict[str, float], purse: Purse, clock: Clock) -> None:
    """Before the first agent has an account of its own: waiting, placing, pulling, starting."""
    parts["suspended"] = purse.take(clock.suspended_seconds)
    parts["back_off"] = purse.take(clock.back_off_seconds)
    for name, span in with_queue(spans_so_far(clock), clock).items():
        parts[name] = purse.take(span)
    if clock.started_at is not None:
        parts["starting"] = purse.take(purse.left)
    else:
        waiting_for = (
            "queued" if clock.admitted_at is None else "pulling" if clock.scheduled_at else "scheduling"
        )
        parts[waiting_for] += purse.take(purse.left)


def spans_so_far(clock: Clock) -> dict[str, float]:
    """The spans before the start, without waits for a queue between the first admission and the leader's node."""
    spans = first_spans(clock)
    if clock.queued_seconds is not None and "scheduling" in spans:
        spans["scheduling"] -= max(clock.queued_seconds - spans["queued"], 0.0)
    return spans


def first_spans(clock: Clock) -> dict[str, float]:
    """Seconds of the parts before the start that are over, by the stamps of the first leader's pod."""
    begin, waited = clock.created_at, clock.suspended_seconds
    spans = {}
    for name, end in zip(
        BEFORE_START, (clock.admitted_at, clock.scheduled_at, clock.started_at), strict=True
    ):
        if end is None:
            break
        spans[name] = max((end - begin).total_seconds() - waited, 0.0)
        begin, waited = max(begin, end), 0.0
    return spans


def with_queue(spans: dict[str, float], clock: Clock) -> dict[str, float]:
    """The spans, with the queue's as it was counted: a run may wait for it more than once."""
    return spans if clock.queued_seconds is None else spans | {"queued": clock.queued_seconds}


def take_agents_parts(
    parts: dict[str, float], purse: Purse, clock: Clock, timeline: Timeline, before: GoodputSeconds
) -> None:
    """With the agents' account: theirs first, what was before them as it was, the rest by who counted it."""
    for name in OF_AGENTS:
        parts[name] = purse.take(getattr(timeline, name))
    # What was counted stays, whichever pod leads now. Of a run that ended before its start was seen too little was.
    unseen = clock.finished and not clock.was_started
    if unseen:
        parts["suspended"] = purse.take(clock.suspended_seconds)
        parts["back_off"] += purse.take(clock.back_off_seconds)
    known = not unseen and any(getattr(before, name) for name in BEFORE_START)
    computed = spans_so_far(clock) if unseen else first_spans(clock)
    spans = computed if not known else {name: getattr(before, name) for name in BEFORE_START}
    for name, span in with_queue(spans, clock).items():
        parts[name] = purse.take(span)
    if clock.started_at is not None:
        parts["starting"] += purse.take((timeline.started_at - clock.started_at).total_seconds())
    if not unseen:
        parts["suspended"] = purse.take(clock.suspended_seconds)
        parts["back_off"] += purse.take(clock.back_off_seconds)
    # What is left is time without a leader, and the moments since its last word.
    since_last_word = purse.take((clock.until - timeline.until).total_seconds())
    parts["finishing" if clock.finished else "recovering"] += since_last_word
    parts["recovering"] += purse.take(purse.left)
