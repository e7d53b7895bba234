"""The faults in their order: each is caused, the run is waited for, and the promises are checked.

`plan` deals kinds evenly and shuffles them by a seed; the moments within a step and the ranks are the same seed's.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.faults import promises
from bench.faults.gang import Gang, Stuck
from bench.faults.kinds import KINDS, Kind
from bench.recovery.figures import gang_began, moment, noticed
from windlass_workloads.agent.memoir import FORWARD

SECOND = (
    "rank-killed",
    "warm-parent-killed",
    "follower-killed",
    "leader-killed",
    "follower-leaves",
    "leader-leaves",
    "connection-cut",
)
"""What can happen at any moment, also while the gang is not at work."""
FIRST = (*SECOND[:1], *SECOND[2:], "checkpoint-damaged", "zombie-leader", "partition", "killed-in-a-save")
PAUSE_SECONDS = 0.4
WITHIN_SECONDS = 2.0
NOTICED_SECONDS = 1.0
CUT_SHORT = frozenset({"Crash", "Infrastructure", "Preempted"})


def deal(names: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` names, each as often as the others or once more, in random order."""
    names = list(names)
    rng.shuffle(names)
    dealt = [names[number % len(names)] for number in range(count)]
    rng.shuffle(dealt)
    return dealt


def tell(text: str) -> None:
    """Progress, for the reader who waits."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Campaign:
    """What was done and found."""

    gang: Gang
    rng: random.Random
    until: float
    """Monotonic seconds after which no further fault is caused."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    stuck: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done."""
        return self.stuck is not None or time.monotonic() > self.until

    def singles(self, names: Sequence[str]) -> None:
        """One fault after the other."""
        for name in names:
            if self.over:
                return
            self.round([KINDS[name]])

    def doubles(self, count: int) -> None:
        """A second fault within the recovery from the first."""
        firsts = deal([name for name in FIRST if KINDS[name].possible(self.gang)], count, self.rng)
        for first, second in zip(firsts, deal(SECOND, count, self.rng), strict=True):
            if self.over:
                return
            self.round([KINDS[first], KINDS[second]])

    def round(self, kinds: list[Kind]) -> None:
        """Causes one fault, or one within another's recovery, and checks what is to be true."""
        row: dict[str, Any] = {"kinds": [kind.name for kind in kinds]}
        try:
            time.sleep(self.rng.uniform(0.0, PAUSE_SECONDS))
            before = promises.look(self.gang)
            row |= {"at": before.at, "step": before.step}
            row["facts"] = self.cause(kinds)
            self.settle(before, kinds)
            row |= self.measure(before, row)
            row["broken"] = promises.broken(self.gang, before, self.judged(kinds), row["facts"])
            self.gang.empty_trash()
        except Stuck as error:
            row["stuck"] = self.stuck = str(error)
        row["took"] = round(time.time() - row.get("at", time.time()), 2)
        self.rows.append(row)
        tell(self.line(row))

    def cause(self, kinds: list[Kind]) -> list[dict[str, Any]]:
        """The deeds. The second comes at a random moment after the first."""
        facts = [kinds[0].deed(self.gang, self.rng)]
        for kind in kinds[1:]:
            time.sleep(self.rng.uniform(0.0, WITHIN_SECONDS))
            facts.append(kind.deed(self.gang, self.rng))
        return facts

    def judged(self, kinds: list[Kind]) -> list[Kind]:
        """What may follow: two faults at once may also look like losses of pods and ranks that they are not."""
        if len(kinds) == 1:
            return kinds
        both = frozenset().union(CUT_SHORT, *(kind.classes for kind in kinds))
        charges = sum(kind.charges for kind in kinds) + 1
        return [Kind("two", "", kinds[0].deed, both, None, charges), *kinds]

    def settle(self, before: promises.Before, kinds: list[Kind]) -> None:
        """Waits until the run is at work again and has verified something newer than ever before."""
        gang = self.gang
        must = all(kind.restarts for kind in kinds)
        highest = max((promises.key_of(name)[0] for name in before.sound), default=0)

        def look() -> bool:
            number = gang.newest().incarnation
            if (must and number == before.incarnation) or not gang.at_work():
                return False
            return any(
                each.incarnation == number and each.step > max(highest, before.step) for each in gang.sound()
            )

        what = f"training after {[kind.name for kind in kinds]}"
        gang.wait(what, look)
        while len(kinds) > 1:
            # The second fault may have come when all was well again, and not be noticed yet.
            number = gang.newest().incarnation
            time.sleep(NOTICED_SECONDS)
            gang.wait(what, look)
            if gang.newest().incarnation == number:
                break
        if all(kind.restarts is False for kind in kinds) and gang.newest().incarnation != before.incarnation:
            raise Stuck(f"{kinds[0].name}: restarted, which was not called for: {gang.run.recoveries()[-1]}")

    def measure(self, before: promises.Before, row: dict[str, Any]) -> dict[str, Any]:
        """Seconds from the fault to the first step of the gang that went on."""
        newest = self.gang.newest()
        rows = self.gang.run.recoveries()[before.recoveries :]
        facts: dict[str, Any] = {
            "incarnations": newest.incarnation - before.incarnation,
            "recoveries": [
                {key: row.get(key) for key in ("class", "rung", "fromStep", "resumedStep", "seconds")}
                for row in rows
            ],
        }
        began = gang_began(self.gang.run.rows(FORWARD), after=newest.incarnation - 1, world=self.gang.world)
        if newest.incarnation > before.incarnation and began is not None:
            at = row["facts"][0].get("at")
            told = moment(rows[0]["at"]) if rows else before.at
            facts["seconds"] = round(began[2] - (at or told), 3)
            facts["lostSteps"] = promises.steps_done(self.gang, newest.incarnation) - began[1] + 1
            if rows and at:
                facts["detect"] = round(noticed(rows[0], at), 3)
        return facts

    def line(self, row: dict[str, Any]) -> str:
        """A row for the reader."""
        number = f"{len(self.rows):>4}"
        state = "STUCK" if "stuck" in row else "; ".join(row["broken"]) or "ok"
        classes = ",".join(each["class"] for each in row.get("recoveries", []))
        names = " + ".join(row["kinds"])
        return (
            f"{number} {names:<40} {row.get('seconds', '-'):>7} s  {row['took']:>6} s  {classes:<24} {state}"
        )
