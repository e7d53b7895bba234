"""A run's life as one HTML page: summary, where the time went, timeline, recoveries, checkpoints.

Pure: `windlass report` writes what `render` returns. The page loads nothing and runs nothing (its own policy forbids
both), and every text of the job is escaped: names of nodes and lines of logs are written by strangers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from windlass.api.status import CheckpointRecord, JobStatus, RecoveryRecord
from windlass.cli import timeline, view
from windlass.cli.page_style import STYLE
from windlass.core.observed import parse_status
from windlass.core.planning.estimate import bytes_text
from windlass.core.waste import devices, wasted_accelerator_seconds

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
UNITS: Final = 100_000
"""A bar's whole width in thousandths of a percent; integers, so that its parts sum to exactly the whole."""
PHASES: Final = ("detect", "decide", "stop", "place", "rendezvous", "load", "first_step", "total")


def render(job: dict[str, Any]) -> str:
    """The whole page."""
    status = parse_status(plain(job.get("status") or {}))
    story = timeline.tell(job, status)
    name = f"{job['metadata'].get('namespace', 'default')}/{job['metadata']['name']}"
    sections = [
        summary(job, status),
        time_spent(status),
        life(story) if story else "",
        recoveries(job, status),
        checkpoints(status),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(name)}</h1>\n{''.join(sections)}"
        "</main>\n</body>\n</html>\n"
    )


def plain(value: Any) -> Any:
    """Times as zoned text, as the API server writes them: YAML reads unquoted ones as datetimes."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value


def section(title: str, *content: str) -> str:
    """One block of the page; `content` is HTML already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(content)}</section>\n"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: frozenset[int] = frozenset(),
    wide: int | None = None,
) -> str:
    """A table of texts, which are escaped here; columns in `numbers` stand right, the one called `wide` may wrap."""

    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="number"' if index in numbers else ' class="wide"' if index == wide else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", index, text) for index, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(cell('td', index, text) for index, text in enumerate(row))}</tr>\n" for row in rows
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'


def facts(pairs: Iterable[tuple[str, str | None]]) -> str:
    """A list of names and values; those without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    return (
        f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in shown)}</dl>\n"
    )


def bar(label: str, shares: Sequence[tuple[str, float, str]]) -> str:
    """A stacked bar of (name, share, title); its widths sum to exactly the whole."""
    widths = timeline.cells([share for _, share, _ in shares], UNITS)
    parts = "".join(
        f'<span class="part-{name}" style="width:{width // 1000}.{width % 1000:03d}%" title="{escape(title)}"></span>'
        for (name, _, title), width in zip(shares, widths, strict=True)
        if width
    )
    return f'<div class="bar" role="img" aria-label="{escape(label)}">{parts}</div>\n'


def key(names: Iterable[tuple[str, str]]) -> str:
    """What the colours mean: (name, text)."""
    items = "".join(f'<li><i class="part-{name}"></i>{escape(text)}</li>' for name, text in names)
    return f'<ul class="key">{items}</ul>\n'


# --- sections -------------------------------------------------------------------------------------


def summary(job: dict[str, Any], status: JobStatus) -> str:
    """How it stands, what it made, and the last failure."""
    progress, goodput = status.progress, status.goodput
    total = progress.total_steps or status.plan.total_steps
    wasted = wasted_accelerator_seconds(*devices(job), goodput.seconds)
    output = status.output
    pairs = [
        ("State", view.heading(job, status).split("  ", 1)[1]),
        ("Step", f"{progress.step}{f' of {total}' if total else ''}"),
        ("Loss", number(progress.loss)),
        ("Validation loss", number(progress.validation_loss)),
        ("Goodput", f"{goodput.ratio:.1%}" if goodput.ratio is not None else None),
        ("Wall time", view.duration(goodput.since_creation) if goodput.since_creation else None),
        ("Restarts", str(status.counters.restarts)),
        ("Steps done again", str(goodput.lost_steps)),
        ("Wasted accelerator seconds", f"{wasted:,.0f}" if wasted else None),
        ("Output", output.uri if output else None),
        ("Tracking", status.tracking.url if status.tracking else None),
    ]
    return section("Summary", facts(pairs), failure(status))


def failure(status: JobStatus) -> str:
    """The last failure with evidence and hint, as `windlass status` shows it."""
    lines = view.trouble_lines(status)
    return f"<pre>{escape(chr(10).join(lines))}</pre>\n" if lines else ""


def number(value: float | None) -> str | None:
    """A loss, as the text view writes it."""
    return f"{value:.4f}" if value is not None else None


def time_spent(status: JobStatus) -> str:
    """Parts of goodput as one bar and a table."""
    shown = [(name, value) for name, value in timeline.parts(status.goodput.seconds) if value > 0]
    whole = sum(value for _, value in shown)
    if not shown:
        return ""
    rows = [(name.replace("_", " "), view.duration(value), f"{value / whole:.1%}") for name, value in shown]
    shares = [
        (name, value, f"{text}: {spent} ({share})")
        for (name, value), (text, spent, share) in zip(shown, rows, strict=True)
    ]
    total = ("wall time", view.duration(status.goodput.since_creation), "")
    return section(
        "Where the time went",
        bar("Shares of wall time", shares),
        key((name, name.replace("_", " ")) for name, _ in shown),
        table(("Part", "Time", "Share"), [*rows, total], numbers=frozenset({1, 2})),
    )


def life(story: timeline.Story) -> str:
    """What it was doing when, with a mark for each checkpoint."""
    spans = [
        (
            f"at-{one.what}",
            one.end - one.begin,
            f"{one.what}: {view.duration(one.begin)} to {view.duration(one.end)}",
        )
        for one in story.spans
    ]
    marks = "".join(
        f'<b style="left:{when / story.length:.4%}" title="{escape(f"checkpoint of step {row.step}")}"></b>'
        for when, row in story.checkpoints
    )
    names = dict.fromkeys(one.what for one in story.spans)
    return section(
        "Timeline",
        bar("What the run was doing when", spans),
        f'<div class="marks">{marks}</div>\n' if marks else "",
        f"<p>{story.begin.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC and {view.duration(story.length)} from then; "
        "marks are checkpoints that are still in the ledger.</p>\n",
        key((f"at-{name}", name) for name in names),
    )


def recoveries(job: dict[str, Any], status: JobStatus) -> str:
    """A row for each of the last recoveries, its evidence below."""
    if not status.recoveries:
        return ""
    begin = timeline.created_at(job)
    heads = (
        "After",
        "Rung",
        "Class",
        "First failed",
        "Steps",
        "Lost",
        *(one.replace("_", " ") for one in PHASES),
    )
    rows = [recovery_row(begin, row) for row in status.recoveries]
    said = [evidence(row) for row in status.recoveries if row.evidence]
    return section("Recoveries", table(heads, rows, numbers=frozenset(range(5, len(heads))), wide=3), *said)


def recovery_row(begin: datetime | None, row: RecoveryRecord) -> list[str]:
    """Cells of one recovery; phases in seconds."""
    first = row.first_failed
    who = [f"rank {first.rank}" if first.rank is not None else "", first.pod or "", first.node or ""]
    how = (
        f"signal {row.signal}"
        if row.signal
        else f"exit {row.exit_code}"
        if row.exit_code is not None
        else "lost"
    )
    spent = [getattr(row.seconds, name) for name in PHASES]
    return [
        view.duration(timeline.seconds(begin, row.at)) if begin and row.at else "?",
        str(row.rung),
        str(row.failure_class),
        f"{', '.join(filter(None, who)) or 'unknown'} ({how})",
        f"{row.from_step} → {row.resumed_step}",
        str(row.lost_steps),
        *(f"{value:.1f}" if value else "–" for value in spent),
    ]


def evidence(row: RecoveryRecord) -> str:
    """The lines that a recovery was judged by."""
    lines = "\n".join(row.evidence)
    return (
        f"<details open><summary>Evidence of incarnation {row.incarnation}</summary>\n"
        f"<pre>{escape(lines)}</pre></details>\n"
    )


def checkpoints(status: JobStatus) -> str:
    """The ledger; the column of losses only where one is known."""
    rows = status.checkpoints
    if not rows:
        return ""
    known = any(row.validation_loss is not None for row in rows)
    heads = ["Step", "Incarnation", "Size", "Committed", "Digest", *(["Validation loss"] if known else [])]
    body = [[*checkpoint_row(row), *([number(row.validation_loss) or "–"] if known else [])] for row in rows]
    return section("Verified checkpoints", table(heads, body, numbers=frozenset({0, 1, 2, 5})))


def checkpoint_row(row: CheckpointRecord) -> list[str]:
    """Cells of one checkpoint."""
    when = f"{row.committed_at:%Y-%m-%d %H:%M:%S}" if row.committed_at else "?"
    return [str(row.step), str(row.incarnation), bytes_text(row.bytes), when, row.digest[:19]]
