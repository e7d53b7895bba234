"""When a gang goes on with fewer nodes than it should have, and when it takes the others back.

Pure; owned by `course`. Going on needs the leader and `minNodes`; the missing have been waited for by then. Taking
back costs a save and a restart, so that newcomers are gathered for a moment first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from windlass.api.contract import RunConfig
from windlass.api.meta import Rung
from windlass_workloads.agent.roster import Member, Roster

GATHER_SECONDS: Final = 10.0
"""How long the first newcomer is kept waiting for further ones before training is interrupted for them."""

FIRST_WAIT_SECONDS: Final = 30.0
"""What a new leader waits at least: the others are still starting, or still looking for it."""


@dataclass(slots=True)
class Elastic:
    """The policy of one gang, and since when each index is away. A gang that may not shrink waits for ever."""

    nodes: int
    min_nodes: int
    wait_seconds: float
    _away: dict[int, float] = field(default_factory=dict)
    _newcomers_at: float | None = None
    _has_led: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> Elastic:
        """The policy of a run."""
        nodes, recovery = config.spec.resources.nodes, config.spec.recovery
        if recovery.elastic is None or Rung.SHRINK not in recovery.ladder:
            return cls(nodes=nodes, min_nodes=nodes, wait_seconds=0.0)
        return cls(
            nodes=nodes, min_nodes=recovery.elastic.min_nodes, wait_seconds=recovery.elastic.wait_seconds
        )

    @property
    def may_shrink(self) -> bool:
        """Whether the policy allows fewer nodes at all."""
        return self.min_nodes < self.nodes

    def watch(self, roster: Roster, now: float) -> None:
        """Takes note of who is away: not there, still importing, or leaving. Asked at every turn."""
        here = {member.hello.index for member in roster if member.ready and member.leaving_at is None}
        for index in range(self.nodes):
            if index in here:
                self._away.pop(index, None)
            else:
                self._away.setdefault(index, now)

    def waits(self, now: float) -> bool:
        """Whether somebody who is away is still waited for."""
        if not self.may_shrink:
            return bool(self._away)
        wait = self.wait_seconds if self._has_led else max(self.wait_seconds, FIRST_WAIT_SECONDS)
        return any(now - since < wait for since in self._away.values())

    def led(self) -> None:
        """Ranks were started: who is away from now on has gone."""
        self._has_led = True

    def crew(self, roster: Roster, now: float) -> list[Member]:
        """Who can start now: everybody, or those that are left; empty while others are waited for or too few."""
        present = [
            member for member in roster if member.ready and not member.busy and member.leaving_at is None
        ]
        if len(present) == self.nodes:
            return present
        too_few = len(present) < self.min_nodes or not any(member.hello.index == 0 for member in present)
        return [] if too_few or roster.busy or self.waits(now) else present

    def returning(self, roster: Roster, crew: tuple[int, ...], now: float) -> tuple[str, ...]:
        """Pods to take back now into a gang that trains on `crew` (indices); none, or all that are ready."""
        ready = [
            member
            for member in roster
            if member.ready and member.leaving_at is None and member.hello.index not in crew
        ]
        if not ready:
            self._newcomers_at = None
            return ()
        if self._newcomers_at is None:
            self._newcomers_at = now
        if len(ready) + len(crew) < self.nodes and now - self._newcomers_at < GATHER_SECONDS:
            return ()
        self._newcomers_at = None
        return tuple(member.hello.pod for member in ready)
