"""What the gang watches while it trains: ranks that stand still, and ranks that slow the others down.

Pure; between `course`, whose calls it uses, and `gang`, which feeds it. A stall is first looked into (the
stacks of all ranks are asked for), then restarted or told. A gang that moves meanwhile is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from windlass.api.contract import RankEvent, RunConfig
from windlass.api.status import FailedRank
from windlass.core.failure.evidence import End
from windlass_workloads.agent import events as ev
from windlass_workloads.agent.course import Course, Mode
from windlass_workloads.agent.events import State
from windlass_workloads.agent.failures import stalled
from windlass_workloads.agent.identity import Limits
from windlass_workloads.agent.life import Life
from windlass_workloads.agent.messages import Dump, Stacks
from windlass_workloads.agent.roster import Member
from windlass_workloads.agent.stacks import Finding, Stack, find, read
from windlass_workloads.agent.stalls import Expectations, Late, Watch
from windlass_workloads.agent.stragglers import Pace

LOOK_SECONDS: Final = 0.5
STACKS_SECONDS: Final = 6.0
"""How long stacks are waited for: longer than a pod takes to collect those of its ranks."""


@dataclass(slots=True)
class Alarm:
    """A stall that is being looked into, or was told."""

    late: Late
    frontier: tuple[int, int] | None
    raised_at: float
    acts: bool
    stacks: dict[int, Stack] = field(default_factory=dict)
    judged: bool = False
    notice: str | None = None


class Guarded(Course):
    """A course whose ranks are watched."""

    def __init__(self, config: RunConfig, limits: Limits, *, memory_group: bool = False) -> None:
        super().__init__(config, limits, memory_group=memory_group)
        self._wish = config.spec.guards.stall
        self._expectations = Expectations(self._wish)
        self._alarm: Alarm | None = None
        self._watched: Life | None = None
        self._watch = Watch.over(self._expectations, (), 0)
        self._pace = Pace((), limits.pace_window_seconds)
        self._look_at = 0.0

    @property
    def stall_notice(self) -> str | None:
        """A stall that nothing is done about, in words, as long as it lasts."""
        alarm = self._alarm
        watched = self.mode is Mode.RUNNING and self.life is self._watched
        return alarm.notice if alarm is not None and watched and not self._moved(alarm) else None

    @property
    def straggler_notice(self) -> str | None:
        """Which ranks slow the others down, in words; the figures are those of when it was found."""
        if self.mode is not Mode.RUNNING or self.life is not self._watched or not self._pace.slow:
            return None
        places = self._places()
        said = []
        for rank, slow in sorted(self._pace.slow.items()):
            place = places.get(rank)
            where = f" (pod {place.pod}, node {place.node or 'unknown'})" if place is not None else ""
            said.append(f"rank {rank}{where} takes {min(slow.ratio, 99.0):.1f} times as long as the others")
        more = f"; and {len(said) - 4} more" if len(said) > 4 else ""
        return "; ".join(said[:4]) + more + ", before it first waits for them in a step"

    def _follow_progress(self, event: RankEvent) -> None:
        """Takes in what a rank that trains says."""
        if self._begin_watch():
            self._watch.hear(event)
            self._pace.hear(event, self._watch.time)

    def _look(self) -> None:
        """Time has passed: does the gang still move?"""
        if not self._begin_watch():
            self._alarm = None
            return
        watch, alarm = self._watch, self._alarm
        watch.tick(self._now)
        if self._wish.action == "Off" or watch.time < self._look_at:
            return
        self._look_at = watch.time + LOOK_SECONDS
        if alarm is not None and self._moved(alarm):
            self._alarm = None
        elif alarm is None:
            late = watch.late()
            if late is not None:
                self._raise(late)
        elif not alarm.judged and watch.time - alarm.raised_at >= STACKS_SECONDS:
            self._judge(alarm)

    def _begin_watch(self) -> bool:
        """Whether ranks train; those of a new incarnation are watched from its beginning."""
        life = self.life
        if life is None or life.task != "train" or self.mode is not Mode.RUNNING or life.exits:
            return False
        if self._watched is not life:
            self._watched, self._alarm, self._look_at = life, None, 0.0
            self._watch = Watch.over(self._expectations, range(life.world), life.resumed_step)
            self._pace = Pace(range(life.world), self.limits.pace_window_seconds)
        return True

    def _moved(self, alarm: Alarm) -> bool:
        """Whether the gang has got any further since."""
        return self._watch.frontier != alarm.frontier

    def _raise(self, late: Late) -> None:
        """Asks all ranks where they are."""
        acts = self._wish.action == "Restart" and late.limit.known
        self._alarm = Alarm(late, self._watch.frontier, self._watch.time, acts)
        for member in self.roster.busy:
            self._tell(member, Dump(incarnation=member.busy))

    def _stacks(self, _: Member, message: Stacks) -> None:
        """Where one rank is."""
        alarm, life = self._alarm, self.life
        if alarm is None or alarm.judged or life is None or message.incarnation != life.incarnation:
            return
        alarm.stacks[message.rank] = read(message.rank, message.state, message.lines)
        if len(alarm.stacks) >= life.world and self._begin_watch():
            self._judge(alarm)

    def _judge(self, alarm: Alarm) -> None:
        """All is known that will be: restarts the ranks, or says what was found."""
        alarm.judged = True
        life = self.life
        if life is None or self._moved(alarm):
            return
        for rank, stack in sorted(alarm.stacks.items()):
            if stack.lines:
                self._out.append(ev.KeepLog(self.incarnation, rank, stack.lines, what="stacks"))
        everyone = {rank: alarm.stacks.get(rank, Stack(rank)) for rank in range(life.world)}
        finding = find(alarm.late, everyone)
        place = self._suspect(finding)
        since = min(alarm.late.since, self._now)
        failure = stalled(alarm.late, finding, place, since)
        if not alarm.acts:
            alarm.notice = "; ".join([failure.message, *finding.places])
            return
        life.lost.append(End(at=since, rank=place.rank, pod=place.pod, node=place.node, failure=failure))
        # The seconds in which nothing moved were no training.
        self._mark(State.RECOVERING, at=since)
        self._stop("Fault", since)

    def _suspect(self, finding: Finding) -> FailedRank:
        if not finding.ranks:
            return FailedRank()
        rank = finding.ranks[0]
        hello = self._places().get(rank)
        return FailedRank(rank=rank, pod=hello.pod if hello else None, node=(hello and hello.node) or None)
