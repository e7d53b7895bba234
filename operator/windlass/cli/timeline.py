"""A run's life on one axis of time: what it was doing when, and what happened at which instant.

Pure: `windlass status` draws it as text, `windlass report` as HTML, both from a `Story`. Status keeps sums of
seconds and the instants of recoveries and checkpoints; what lies between those instants is told as running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from textwrap import wrap
from typing import Any, Final

from windlass.api.status import CheckpointRecord, GoodputSeconds, JobStatus, RecoveryRecord
from windlass.core.observed import parse_time

WIDTH: Final = 64
LETTERS: Final = {
    "queued": "q",
    "scheduling": "c",
    "pulling": "p",
    "starting": "s",
    "loading": "l",
    "training": "#",
    "validating": "v",
    "checkpoint_stall": "k",
    "recovering": "R",
    "reworked": "w",
    "back_off": "b",
    "suspended": "z",
    "finishing": "f",
}
"""One letter for each part of goodput, in the order in which a run meets them."""
TRACK: Final = {"waiting": "-", "starting": "s", "running": "=", "recovering": "R", "suspended": "z"}


@dataclass(frozen=True, slots=True)
class Span:
    """What the run was doing from `begin` to `end`, in seconds since its creation."""

    what: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Story:
    """A run from its creation over `length` seconds; spans touch each other and fill the length."""

    begin: datetime
    length: float
    spans: tuple[Span, ...]
    recoveries: tuple[tuple[float, RecoveryRecord], ...]
    checkpoints: tuple[tuple[float, CheckpointRecord], ...]


def tell(job: dict[str, Any], status: JobStatus) -> Story | None:
    """The story as far as status knows it; None before anything has a time."""
    begin = created_at(job)
    if begin is None:
        return None
    length = max(status.goodput.since_creation, *(seconds(begin, one) for one in instants(status)))
    if length <= 0:
        return None
    recoveries = [(seconds(begin, row.at), row) for row in status.recoveries if row.at is not None]
    checkpoints = [(seconds(begin, row.committed_at), row) for row in status.checkpoints if row.committed_at]
    return Story(
        begin=begin,
        length=length,
        spans=fill(length, painted(begin, length, status)),
        recoveries=tuple((clamp(when, length), row) for when, row in recoveries),
        checkpoints=tuple((clamp(when, length), row) for when, row in checkpoints),
    )


def created_at(job: dict[str, Any]) -> datetime | None:
    """When the job was created; None in a manifest that no API server has seen, or with a mangled time."""
    stamp = (job.get("metadata") or {}).get("creationTimestamp")
    if isinstance(stamp, datetime):  # YAML reads an unquoted time by itself
        return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    try:
        found = parse_time(stamp if isinstance(stamp, str) else None)
    except ValueError:
        return None
    return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)


def seconds(begin: datetime, when: datetime | None) -> float:
    """Seconds from the creation to an instant; 0 for one that is unknown or earlier."""
    if when is None:
        return 0.0
    return max(((when if when.tzinfo else when.replace(tzinfo=UTC)) - begin) / timedelta(seconds=1), 0.0)


def clamp(value: float, length: float) -> float:
    """The value inside the story."""
    return min(max(value, 0.0), length)


def instants(status: JobStatus) -> list[datetime | None]:
    """Everything dated in the status."""
    rows = [row.committed_at for row in status.checkpoints] + [row.at for row in status.recoveries]
    marks = [status.admitted_at, status.started_at, status.finished_at, status.suspended_at]
    return [*rows, *marks, status.progress.updated_at]


def painted(begin: datetime, length: float, status: JobStatus) -> list[Span]:
    """What is known, later ones over earlier ones."""
    admitted = seconds(begin, status.admitted_at) if status.admitted_at else length
    started = seconds(begin, status.started_at) if status.started_at else length
    spans = [Span("waiting", 0, length), Span("starting", admitted, length), Span("running", started, length)]
    for row in status.recoveries:
        if row.at is not None:
            when = seconds(begin, row.at)
            # The newest row has no total until it is over.
            under_way = row is status.recoveries[-1] and status.finished_at is None
            took = row.seconds.total or (length if under_way else 0.0)
            spans.append(Span("recovering", when, when + took))
    if status.suspended_at is not None:
        spans.append(Span("suspended", seconds(begin, status.suspended_at), length))
    return spans


def fill(length: float, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans that touch and do not overlap, from overlapping ones painted in order."""
    edges = sorted({0.0, length} | {clamp(edge, length) for one in spans for edge in (one.begin, one.end)})
    made: list[Span] = []
    for begin, end in pairwise(edges):
        what = next(one.what for one in reversed(spans) if one.begin <= begin and one.end >= end)
        if made and made[-1].what == what:
            made[-1] = Span(what, made[-1].begin, end)
        else:
            made.append(Span(what, begin, end))
    return tuple(made)


def cells(shares: Sequence[float], width: int) -> list[int]:
    """Whole cells for each share, exactly `width` in all; what is there at all gets one where there is room."""
    total = sum(shares)
    if total <= 0:
        return [0] * len(shares)
    exact = [share / total * width for share in shares]
    counts = [int(one) for one in exact]
    by_rest = sorted(range(len(shares)), key=lambda one: exact[one] - counts[one], reverse=True)
    for one in by_rest[: width - sum(counts)]:
        counts[one] += 1
    for one in range(len(shares)):
        richest = max(range(len(shares)), key=lambda other: counts[other])
        if shares[one] > 0 and counts[one] == 0 and counts[richest] > 1:
            counts[one], counts[richest] = 1, counts[richest] - 1
    return counts


def parts(goodput: GoodputSeconds) -> list[tuple[str, float]]:
    """Parts of goodput in the order of LETTERS; one of another version is not among them."""
    return [(name, max(getattr(goodput, name, 0.0), 0.0)) for name in LETTERS]


def draw(story: Story, status: JobStatus, width: int = WIDTH) -> list[str]:
    """Three bars of the same width: what it was doing when, which checkpoints, and shares of the seconds."""
    track = "".join(
        TRACK[one.what] * count
        for one, count in zip(
            story.spans, cells([one.end - one.begin for one in story.spans], width), strict=True
        )
    )
    marks = [" "] * width
    for when, _ in story.checkpoints:
        marks[column(when, story.length, width)] = "^"
    shown = [pair for pair in parts(status.goodput.seconds) if pair[1] > 0]
    counts = cells([value for _, value in shown], width)
    share = "".join(LETTERS[name] * count for (name, _), count in zip(shown, counts, strict=True))
    lines = [f"  when   [{track}]"]
    if story.checkpoints:
        lines.append(f"  saves  [{''.join(marks)}]")
    if share:
        lines.append(f"  share  [{share}]")
    return [*lines, *(f"{' ' * 10}{text}" for text in wrap(legend(story, [name for name, _ in shown]), 90))]


def legend(story: Story, shown: Sequence[str]) -> str:
    """What the letters mean, of those that are there."""
    tracks = {TRACK[one.what]: one.what for one in story.spans}
    shares = {LETTERS[name]: name.replace("_", " ") for name in shown}
    return ", ".join(f"{letter} {name}" for letter, name in (tracks | shares).items())


def column(when: float, length: float, width: int) -> int:
    """The column of an instant."""
    return min(int(when / length * width), width - 1) if length > 0 else 0
