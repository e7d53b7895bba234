"""A job as text: progress with a bar, ledger, recoveries, goodput and the last failure.

Pure: `windlass status` and the demo print what `describe` returns. It must never fail on a status that an
older or newer operator wrote.
"""

from __future__ import annotations

from typing import Any

from windlass.api.meta import ConditionType, Exclusion, Reason
from windlass.api.rules import look_up
from windlass.api.status import Condition, JobStatus, Progress, RecoveryRecord
from windlass.cli import timeline
from windlass.core.names import store_uri
from windlass.core.observed import parse_status
from windlass.core.planning.estimate import bytes_text
from windlass.core.status import messages
from windlass.core.status.events import DEGRADATIONS

BAR_WIDTH = 32


def describe(job: dict[str, Any]) -> str:
    """The whole view, several lines."""
    status = parse_status(job.get("status") or {})
    blocks = [
        [heading(job, status), *progress_lines(status)],
        plan_lines(status),
        timeline_lines(job, status),
        ledger_lines(job, status),
        recovery_lines(job, status),
        suspect_lines(status),
        [*goodput_lines(status), *cost_lines(status)],
        trouble_lines(status),
        result_lines(status),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def condition(status: JobStatus, kind: ConditionType) -> Condition | None:
    """The condition of a type."""
    return next((item for item in status.conditions if item.type == kind), None)


def is_true(status: JobStatus, kind: ConditionType) -> bool:
    """Whether the condition is there and True."""
    found = condition(status, kind)
    return found is not None and found.status == "True"


def is_finished(status: JobStatus) -> bool:
    """Whether nothing more will happen."""
    return is_true(status, ConditionType.COMPLETE) or is_true(status, ConditionType.FAILED)


def heading(job: dict[str, Any], status: JobStatus) -> str:
    """Name and the summarising condition; while training goes on, the bar says more than its message."""
    metadata = job["metadata"]
    ready = condition(status, ConditionType.READY)
    reason = "not seen yet"
    if ready is not None:
        plain = ready.reason == Reason.TRAINING or not ready.message
        reason = ready.reason if plain else f"{ready.reason}: {ready.message}"
    return f"{metadata.get('namespace', 'default')}/{metadata['name']}  {reason}"


def bar(done: int, total: int | None, width: int = BAR_WIDTH) -> str:
    """A progress bar of fixed width; empty while the total is not known."""
    filled = min(width, width * done // total) if total else 0
    return "[" + "#" * filled + "." * (width - filled) + "]"


def duration(seconds: float | None) -> str:
    """Seconds for people: 42 s, 3 min 10 s, 2 h 05 min."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def progress_lines(status: JobStatus) -> list[str]:
    """Bar, step, loss, speed and what is left."""
    progress = status.progress
    total = progress.total_steps or status.plan.total_steps
    facts = [f"step {progress.step}{f'/{total}' if total else ''}"]
    if progress.loss is not None:
        facts.append(f"loss {progress.loss:.4f}")
    if progress.validation_loss is not None:
        facts.append(f"validation {progress.validation_loss:.4f}")
    if progress.tokens_per_second:
        facts.append(f"{progress.tokens_per_second:.0f} tokens/s")
    if progress.eta_seconds is not None and not is_finished(status):
        facts.append(f"about {duration(progress.eta_seconds)} left{eta_band(progress)}")
    if is_true(status, ConditionType.SHRUNK) and status.nodes is not None:
        facts.append(f"{status.nodes} of {len(status.gang.members)} nodes")
    if progress.phase is not None and not is_finished(status):
        facts.append(f"phase {progress.phase}")
    return [f"{bar(progress.step, total)}  {'  '.join(facts)}"]


def eta_band(progress: Progress) -> str:
    """From when to when the last step is expected; nothing while that is not known."""
    if progress.eta_low_seconds is None or progress.eta_high_seconds is None:
        return ""
    return f" ({duration(progress.eta_low_seconds)} to {duration(progress.eta_high_seconds)})"


def plan_lines(status: JobStatus) -> list[str]:
    """What preflight found."""
    plan = status.plan
    facts = []
    if plan.train_samples:
        facts.append(f"{plan.train_samples} samples")
    if plan.world_size:
        facts.append(f"{plan.world_size} ranks")
    if plan.trainable_parameters and plan.parameters:
        facts.append(f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters trained")
    if plan.precision:
        facts.append(f"{plan.precision}{f' ({plan.precision_reason})' if plan.precision_reason else ''}")
    lines = [f"plan        {', '.join(facts)}"] if facts else []
    return lines + [f"warning     {text}" for text in plan.warnings]


def ledger_lines(job: dict[str, Any], status: JobStatus) -> list[str]:
    """Verified checkpoints, newest first, and where they are: what another job's resume.from may name."""
    lines = [
        f"  step {row.step:<7} incarnation {row.incarnation:<3} {bytes_text(row.bytes):>10}  {row.digest[:19]}"
        for row in status.checkpoints
    ]
    return [f"checkpoints (verified, newest first){place(job)}", *lines] if lines else []


def place(job: dict[str, Any]) -> str:
    """The run's directory in its store, as far as the object tells it."""
    metadata, store = job["metadata"], look_up(job.get("spec"), "checkpoint.store")
    if not isinstance(store, str) or not metadata.get("uid"):
        return ""
    namespace = metadata.get("namespace", "default")
    return f" in {store_uri(store, namespace=namespace, name=metadata['name'], uid=metadata['uid'])}"


def timeline_lines(job: dict[str, Any], status: JobStatus) -> list[str]:
    """The run's life as bars over time; nothing before anything has a time."""
    story = timeline.tell(job, status)
    if story is None:
        return []
    return [
        f"timeline    {duration(story.length)} since {story.begin:%Y-%m-%d %H:%M:%S} UTC",
        *timeline.draw(story, status),
    ]


def recovery_lines(job: dict[str, Any], status: JobStatus) -> list[str]:
    """When what died, how the run went on and what it cost."""
    begin = timeline.created_at(job)
    lines = [
        recovery_line(row)
        + (f", {duration(timeline.seconds(begin, row.at))} after creation" if begin and row.at else "")
        for row in status.recoveries
    ]
    return ["recoveries", *lines] if lines else []


def recovery_line(row: RecoveryRecord) -> str:
    """One recovery."""
    who = (
        f"rank {row.first_failed.rank}"
        if row.first_failed.rank is not None
        else row.first_failed.pod or "unknown"
    )
    how = (
        f"signal {row.signal}"
        if row.signal
        else f"exit {row.exit_code}"
        if row.exit_code is not None
        else "lost"
    )
    parts = [
        f"{name} {value:.1f}"
        for name, value in row.seconds.model_dump().items()
        if name != "total" and value >= 0.05
    ]
    return (
        f"  {row.rung:<12} {who} ({how}, {row.failure_class})  step {row.from_step} -> {row.resumed_step}, "
        f"{row.lost_steps} lost, {row.seconds.total:.1f} s ({', '.join(parts)})"
        + (f"; {messages.skipped(row.skipped)}" if row.skipped is not None else "")
    )


def suspect_lines(status: JobStatus) -> list[str]:
    """Nodes that the run avoids, until when and why."""
    lines = [
        f"  {row.name}  {row.reason}, {'excluded' if row.exclusion is Exclusion.REQUIRED else 'avoided'} "
        f"until {row.until:%Y-%m-%d %H:%M:%S} UTC, suspected {row.count}x"
        + (f": {row.evidence[0]}" if row.evidence else "")
        for row in status.suspect_nodes
    ]
    return ["suspect nodes", *lines] if lines and not is_finished(status) else []


def goodput_lines(status: JobStatus) -> list[str]:
    """Where the time went."""
    goodput = status.goodput
    if goodput.ratio is None:
        return []
    parts = sorted(goodput.seconds.model_dump().items(), key=lambda item: -item[1])
    spent = ", ".join(f"{name.replace('_', ' ')} {duration(value)}" for name, value in parts if value >= 0.5)
    return [f"goodput     {goodput.ratio:.1%} of {duration(goodput.since_admission)}: {spent}"]


def cost_lines(status: JobStatus) -> list[str]:
    """Money so far, if the operator has prices."""
    cost = status.cost
    if cost is None:
        return []
    facts = [f"{cost.total} {cost.currency}", f"{cost.rate_per_hour} {cost.currency} per hour now"]
    if cost.expected_low is not None and cost.expected_high is not None:
        facts.append(f"{cost.expected_low} to {cost.expected_high} {cost.currency} expected in all")
    if cost.wasted != "0":
        facts.append(f"{cost.wasted} {cost.currency} lost to failures")
    return [f"cost        {', '.join(facts)}"]


def trouble_lines(status: JobStatus) -> list[str]:
    """Degradations and, while it matters, the last failure with its hint."""
    degraded = (*DEGRADATIONS, ConditionType.SHRUNK, ConditionType.STALLED)
    lines = [
        f"{kind}: {found.reason}: {found.message}"
        for kind in degraded
        if (found := condition(status, kind)) is not None and found.status == "True"
    ]
    failure = status.last_failure
    if failure is not None and not is_true(status, ConditionType.COMPLETE):
        lines.append(f"last failure {failure.reason}: {failure.message}")
        lines += [f"    {line}" for line in failure.evidence]
        lines += [f"hint        {failure.hint}"] if failure.hint else []
    return lines


def result_lines(status: JobStatus) -> list[str]:
    """Where the result and its record are."""
    lines = []
    if status.output is not None:
        lines.append(f"output      {status.output.uri}")
        if status.output.registered_model:
            lines.append(
                f"model       {status.output.registered_model} version {status.output.model_version}"
            )
    if status.tracking is not None and status.tracking.url:
        lines.append(f"tracking    {status.tracking.url}")
    return lines
