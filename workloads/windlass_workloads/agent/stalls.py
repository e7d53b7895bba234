"""When ranks that live make no progress: how far each has come, and how long that may take.

Pure; owned by `guarding`. All ranks of a gang go through the same phases and steps in the same order, so
the gang is where its last rank is, and stalls when that rank stays longer than its phase may take. Times
are seconds of `Watch.time`, which only counts what the leader lived through: a clock that jumps or a
leader that was frozen makes nobody late.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from windlass.api.contract import RankEvent
from windlass.api.meta import Phase
from windlass.api.stall import Stall

TICK_LIMIT_SECONDS: Final = 1.0
STEP_FLOOR_SECONDS: Final = 300.0
FACTOR: Final = 10.0
PERCENTILE: Final = 0.95
STEPS_KEPT: Final = 512
STEPS_NEEDED: Final = 20
LOOSE_SECONDS: Final = 3600.0
LOOSE_EXPORT_SECONDS: Final = 4 * LOOSE_SECONDS
LOCKSTEP: Final = 16
"""Ranks so many steps behind another are not waited for by it: they do not tell of their steps."""
FIRST_STEP: Final = "FirstStep"
STEPS: Final = "Steps"

Span = str
"""What a rank is at: a phase, FIRST_STEP, or STEPS once it has finished a step in this incarnation."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a span may take, and whether that is known (given or learned) rather than assumed."""

    seconds: float
    known: bool


class Expectations:
    """How long spans may take: as the user says, else as the run has shown so far, else loosely.

    Belongs to the run, not to an incarnation: what one has shown holds for the next.
    """

    def __init__(self, wish: Stall) -> None:
        self._wish = wish
        self._steps: deque[float] = deque(maxlen=STEPS_KEPT)
        self._longest: dict[Span, float] = {}

    def stepped(self, seconds: float) -> None:
        """A step took so long on one rank; the first of an incarnation is a span of its own."""
        self._steps.append(seconds)

    def passed(self, span: Span, seconds: float) -> None:
        """A rank has passed a span, which took so long."""
        self._longest[span] = max(seconds, self._longest.get(span, 0.0))

    def limit(self, span: Span) -> Limit:
        """How long a span may take."""
        if span == STEPS:
            return self._step_limit()
        if self._wish.phase_limit_seconds is not None:
            return Limit(float(self._wish.phase_limit_seconds), known=True)
        loose = LOOSE_EXPORT_SECONDS if span == Phase.EXPORT else LOOSE_SECONDS
        longest = self._longest.get(span)
        return Limit(max(loose, FACTOR * (longest or 0.0)), known=longest is not None)

    def _step_limit(self) -> Limit:
        if self._wish.limit_seconds is not None:
            return Limit(float(self._wish.limit_seconds), known=True)
        if len(self._steps) < STEPS_NEEDED:
            return Limit(LOOSE_SECONDS, known=False)
        ordered = sorted(self._steps)
        slow = ordered[math.ceil(PERCENTILE * len(ordered)) - 1]
        return Limit(max(STEP_FLOOR_SECONDS, FACTOR * slow), known=True)


@dataclass(slots=True)
class Track:
    """One rank: how far it has come, what it is at, and since when. `spans` orders what lies between two steps."""

    step: int
    spans: int = 0
    span: Span = Phase.RENDEZVOUS
    since: float = 0.0
    stepped: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the order that all ranks go through."""
        return self.step, self.spans


@dataclass(frozen=True, slots=True)
class Late:
    """The gang's last ranks have been at one span for longer than it may take."""

    span: Span
    limit: Limit
    seconds: float
    since: float
    """When they came there, by the clock that ticks tell; for accounts, since it may jump."""
    step: int
    behind: tuple[int, ...]
    """Ranks that others have got past; none when all are at the same place."""
    oldest: int
    """The rank whose last sign of progress is the oldest."""
    ahead_seconds: float
    """How much older that is than the next rank's."""


@dataclass(slots=True)
class Watch:
    """The ranks of one incarnation. Events move tracks, ticks move time."""

    expectations: Expectations
    tracks: dict[int, Track]
    first: int
    """The rank whose steps are learned from."""
    time: float = 0.0
    _ticked: float | None = None
    _place: tuple[int, int] = (-1, 0)
    _reached: float = 0.0
    _reached_at: float = 0.0
    _spoken: bool = False

    @classmethod
    def over(cls, expectations: Expectations, ranks: Iterable[int], step: int) -> Watch:
        """A watch over ranks that have just been started, and resume from a step."""
        tracks = {rank: Track(step) for rank in ranks}
        return cls(expectations, tracks, min(tracks, default=0))

    def tick(self, now: float) -> None:
        """Time has passed until `now`, on a clock that may jump."""
        if self._ticked is not None:
            self.time += min(max(now - self._ticked, 0.0), TICK_LIMIT_SECONDS)
        self._ticked = now

    def hear(self, event: RankEvent) -> None:
        """What a rank says. Only words of its main thread count: saves and metrics go on beside it."""
        track = self.tracks.get(event.rank)
        if track is None:
            return
        if event.type == "Phase" and event.phase is not None:
            self._move(track, self._span_of(track, event.phase), track.step)
        elif event.type == "Forward":
            self._move(track, track.span, track.step)
        elif event.type == "Step" and event.step is not None and event.step > track.step:
            # What compiles in the first step would make all others look quick.
            if track.stepped and event.seconds is not None and event.rank == self.first:
                self.expectations.stepped(event.seconds)
            track.stepped = True
            self._move(track, STEPS, event.step)
        elif event.type == "Done":
            del self.tracks[event.rank]

    def late(self) -> Late | None:
        """Whether the gang stands still, and for whom it waits. Asked often: movement is noticed here."""
        waited = self._waited_for()
        # A script of the user's own may tell nothing at all.
        if not waited or not self._spoken:
            return None
        place = min(track.place for track in waited.values())
        if place != self._place:
            # Its last rank may have come here long after those that have not gone on.
            self._place, self._reached, self._reached_at = place, self.time, self._ticked or 0.0
        last = {rank: track for rank, track in waited.items() if track.place == place}
        span = next(iter(last.values())).span
        limit = self.expectations.limit(span)
        if self.time - self._reached <= limit.seconds:
            return None
        order = sorted(waited, key=lambda rank: waited[rank].since)
        ages = [waited[rank].since for rank in order]
        return Late(
            span=span,
            limit=limit,
            seconds=self.time - self._reached,
            since=self._reached_at,
            step=place[0],
            behind=tuple(sorted(last)) if len(last) < len(waited) else (),
            oldest=order[0],
            ahead_seconds=ages[1] - ages[0] if len(ages) > 1 else 0.0,
        )

    @property
    def frontier(self) -> tuple[int, int] | None:
        """The place of the last rank; a gang that moves, moves it."""
        return min((track.place for track in self._waited_for().values()), default=None)

    def _waited_for(self) -> dict[int, Track]:
        """Ranks that the others cannot get away from. One that never tells of steps is not known to be late."""
        most = max((track.step for track in self.tracks.values()), default=0)
        return {rank: track for rank, track in self.tracks.items() if most - track.step <= LOCKSTEP}

    def _span_of(self, track: Track, phase: Phase) -> Span:
        if phase is not Phase.TRAIN:
            return phase
        return STEPS if track.stepped else FIRST_STEP

    def _move(self, track: Track, span: Span, step: int) -> None:
        """A rank has come to another place."""
        self._spoken = True
        before, began = track.span, track.since
        track.spans = 0 if step > track.step else track.spans + 1
        track.step, track.span, track.since = step, span, self.time
        if before not in (STEPS, span):
            self.expectations.passed(before, self.time - began)
