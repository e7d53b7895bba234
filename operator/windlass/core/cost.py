"""What a run has cost: price per hour of what its pods ask for, times the seconds for which they held it.

`reconcile` calls `charge` with each status write, as it does `goodput.account`. Exact: money is Decimal, and only
what is shown is rounded. A pod holds its request from the moment it is scheduled until its container ends.
A job is charged by the list it was first seen with, so that its total can be checked from its status alone. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from windlass.api.quantities import parse
from windlass.api.status import Cost, GoodputSeconds, HeldPod
from windlass.api.training import DECIMAL
from windlass.core.observed import PodView

CPU: Final = "cpu"
MEMORY: Final = "memoryGiB"
GIB: Final = Decimal(1024**3)
HOUR: Final = Decimal(3600)
SHOWN: Final = Decimal("0.000001")
TAKEOVER: Final = timedelta(seconds=75)
"""What an operator before this one measured so lately counts as watched: one took over from the other."""


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices per hour: of a core (`cpu`), of a GiB of memory (`memoryGiB`), of devices by their resource name."""

    currency: str
    per_hour: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a charge is made from: the pods that are there, and the seconds that goodput calls lost."""

    now: datetime
    pods: tuple[PodView, ...]
    seconds: GoodputSeconds
    left: tuple[float, float] | None = None
    """Seconds until the last step, from and to; None while they are not known, and at the end."""
    watched_since: datetime | None = None
    """Since when this operator sees what there is; None counts as always."""

    def is_watched(self, measured_at: datetime) -> bool:
        """Whether an operator has been there since: a pod that is gone was held until now then, as far as is known."""
        if self.watched_since is None or measured_at >= self.watched_since:
            return True
        return self.now - measured_at <= TAKEOVER


def charge(prices: PriceList | None, before: Cost | None, moment: Moment) -> Cost | None:
    """The account as of now; None as long as there is no price list."""
    if before is None:
        if prices is None or not prices.per_hour:
            return None
        basis = {name: str(price) for name, price in sorted(prices.per_hour.items())}
        before = Cost(currency=prices.currency, basis=basis)
    per_hour = {name: Decimal(price) for name, price in before.basis.items()}
    present = {pod.uid: pod for pod in moment.pods if pod.scheduled_at is not None}
    known = {held.uid for held in before.held}
    fresh = [pod for pod in present.values() if pod.uid not in known]
    begun = [_begin(pod, pod.scheduled_at, per_hour) for pod in fresh if pod.scheduled_at is not None]
    held = [*before.held, *begun]
    settled, held_seconds, open_pods = Decimal(before.settled), before.settled_seconds, []
    for each in held:
        if each.uid in present:
            open_pods.append(_measure(each, present[each.uid], moment.now))
            continue
        gone = _close(each, before.measured_at, moment)
        settled += worth(gone)
        held_seconds += gone.seconds
    total = settled + sum((worth(each) for each in open_pods), Decimal(0))
    rate = sum((Decimal(each.rate_per_hour) for each in open_pods if not each.ended), Decimal(0))
    gang_rate = max(rate, Decimal(before.gang_rate_per_hour))
    return before.model_copy(
        update={
            "total": shown(total / HOUR),
            "wasted": shown(min(gang_rate * lost_seconds(moment.seconds), total) / HOUR),
            **expected(moment.left, total, low_rate=rate, high_rate=gang_rate),
            "rate_per_hour": plain(rate),
            "gang_rate_per_hour": plain(gang_rate),
            "pod_seconds": held_seconds + sum(each.seconds for each in open_pods),
            "settled": plain(settled),
            "settled_seconds": held_seconds,
            "held": open_pods,
            "measured_at": moment.now,
        }
    )


def expected(
    left: tuple[float, float] | None, total: Decimal, *, low_rate: Decimal, high_rate: Decimal
) -> dict[str, str | None]:
    """Cost of the whole run, from and to. Nothing while no pod holds anything: who waits has no pace."""
    if left is None or not low_rate:
        return {"expected_low": None, "expected_high": None}
    low, high = total + low_rate * exact(left[0]), total + high_rate * exact(left[1])
    return {"expected_low": shown(low / HOUR), "expected_high": shown(high / HOUR)}


def price(value: object) -> Decimal:
    """One price; ValueError unless it is a decimal written as a string, which no float has rounded."""
    if not isinstance(value, str) or not re.match(DECIMAL, value):
        raise ValueError(f"{value!r} is no decimal in quotes")
    return Decimal(value)


def pod_rate(requests: Iterable[tuple[str, str]], per_hour: Mapping[str, Decimal]) -> Decimal:
    """Price of one hour of what a pod asks for. What the list does not name is free."""
    total = Decimal(0)
    for name, quantity in requests:
        if name == "memory":
            total += per_hour.get(MEMORY, Decimal(0)) * parse(quantity) / GIB
        else:
            total += per_hour.get(name, Decimal(0)) * parse(quantity)
    return total


def worth(held: HeldPod) -> Decimal:
    """Price per hour times seconds, which is exact; an hour has 3600."""
    return Decimal(held.rate_per_hour) * exact(held.seconds)


def lost_seconds(seconds: GoodputSeconds) -> Decimal:
    """Seconds that a failure cost: recovering, steps done again, back-off."""
    return sum((exact(part) for part in (seconds.recovering, seconds.reworked, seconds.back_off)), Decimal(0))


def exact(seconds: float) -> Decimal:
    """Seconds to the microsecond, which is what the stamps of Kubernetes can tell."""
    return Decimal(seconds).quantize(SHOWN)


def shown(amount: Decimal) -> str:
    """An amount of money, to a millionth."""
    return plain(amount.quantize(SHOWN))


def plain(amount: Decimal) -> str:
    """A decimal without exponent and without zeros at its end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _begin(pod: PodView, since: datetime, per_hour: Mapping[str, Decimal]) -> HeldPod:
    return HeldPod(uid=pod.uid, since=since, rate_per_hour=plain(pod_rate(pod.requests, per_hour)))


def _measure(held: HeldPod, pod: PodView, now: datetime) -> HeldPod:
    """Seconds so far; a stamp from a clock ahead of ours never takes back what was measured."""
    if held.ended:
        return held
    ended = pod.finished_at is not None or pod.is_terminal
    end = pod.finished_at or now
    seconds = max((end - held.since).total_seconds(), 0.0 if pod.finished_at else held.seconds)
    return held.model_copy(update={"seconds": seconds, "ended": ended})


def _close(held: HeldPod, measured_at: datetime | None, moment: Moment) -> HeldPod:
    """A pod that is not there any more. Where nobody watched, what was measured last counts."""
    if held.ended or measured_at is None or not moment.is_watched(measured_at):
        return held
    seconds = (moment.now - held.since).total_seconds()
    return held.model_copy(update={"seconds": max(seconds, held.seconds), "ended": True})
