"""What other programs are told about a run's newest checkpoint, by annotations on the leader's pod.

A scheduler that must evict somebody can choose the run that loses least. `notices` is called at the end of each
decision. Only the pod of index 0 carries them: a gang lives and dies as one, and a patch for each pod would cost
as many writes as the gang has pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from windlass.api.meta import CHECKPOINT_ANNOTATIONS
from windlass.api.status import CheckpointRecord
from windlass.core.decision import Annotate
from windlass.core.facts import Facts, Outcome
from windlass.core.pace import announcement_interval


def notices(facts: Facts, outcome: Outcome) -> tuple[tuple[Annotate, ...], float | None]:
    """The annotations to set now, or the seconds until they may be; neither when they are right."""
    leader = facts.leader
    if outcome.quiet or leader is None or leader.is_terminal or leader.deletion_timestamp is not None:
        return (), None
    wanted = notice(outcome.status.checkpoints)
    if wanted is None or wanted == leader.noticed:
        return (), None
    interval = announcement_interval(facts.seen.runs_heard, facts.job.uid, busy=facts.seen.busy)
    wait = wait_seconds(leader.noticed, facts.now, interval)
    if wait > 0:
        return (), wait
    pairs = tuple(zip(CHECKPOINT_ANNOTATIONS, wanted, strict=True))
    return (Annotate(leader.name, leader.uid, pairs),), None


def notice(ledger: Sequence[CheckpointRecord]) -> tuple[str, str] | None:
    """Step and commit time (RFC 3339, UTC, whole seconds) of the newest checkpoint in the ledger."""
    dated = [(row.step, row.committed_at) for row in ledger if row.committed_at is not None]
    if not dated:
        return None
    step, committed_at = max(dated)
    return str(step), committed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def wait_seconds(noticed: tuple[str, str] | None, now: datetime, interval: timedelta) -> float:
    """Seconds until another may be named: the named one must be so old, which makes two patches in that time at most.

    What is no time, or lies far ahead, holds nothing back.
    """
    if noticed is None:
        return 0.0
    try:
        named_at = datetime.fromisoformat(noticed[1])
    except ValueError:
        return 0.0
    if named_at.tzinfo is None or named_at - now > interval:
        return 0.0
    return max((named_at + interval - now).total_seconds(), 0.0)
