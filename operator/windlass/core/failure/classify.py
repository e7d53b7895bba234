"""From evidence to a failure class: one table, read from the top, first match wins.

The leader judges the ends of ranks with it, the operator the ends of pods. Cascades are not causes: who
merely lost its connection is a follower. Must never look at anything but the evidence given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.api.status import FailedRank, Failure
from windlass.core.failure import evidence as seen
from windlass.core.failure.evidence import EVIDENCE_LINES, End, exited, lines_of


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: when it holds, and what it then is."""

    name: str
    holds: Callable[[End], bool]
    failure_class: FailureClass
    reason: Reason
    hint: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What ended an incarnation. Equal signatures mean the same failure again."""

    failure_class: FailureClass
    reason: str
    message: str
    hint: str
    first_failed: FailedRank
    evidence: tuple[str, ...]
    signature: str
    exit_code: int | None = None
    signal: int | None = None
    whole_pod: bool = False
    at: datetime | None = None
    # Name of the row of the table that holds.
    row: str = ""

    def failure(self) -> Failure:
        """This judgement as it is written into status and verdicts."""
        return Failure(
            reason=self.reason,
            failure_class=self.failure_class,
            message=self.message,
            hint=self.hint,
            first_failed=self.first_failed,
            exit_code=self.exit_code,
            signal=self.signal,
            evidence=list(self.evidence),
            at=self.at,
        )


MORE_MEMORY = (
    "raise resources.perNode.memory, lower training.microBatchSize, set training.activationCheckpointing, "
    "or use an adapter"
)
READ_LOG = "`windlass logs NAME --rank N` has the rank's whole log"

NUMBERS: Final = re.compile(r"(?P<checkpoint>step-\d+\.i\d+)|0x[0-9a-f]+|\d+")

CANNOT_RUN = ("ContainerCannotRun", "StartError")
NODE_LOST = ("DeletionByTaintManager", "NodeLost")

TABLE: Final[tuple[Row, ...]] = (
    # The kubelet or the scheduler took the pod away: nobody's fault, nobody's budget.
    Row(
        "node lost",
        lambda end: end.disruption in NODE_LOST or end.pod_reason in NODE_LOST,
        FailureClass.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
        "the pod's node does not answer; if it repeats, look at that node",
    ),
    Row(
        "scratch space ran out",
        lambda end: end.pod_reason == "Evicted" and "ephemeral" in end.text.lower(),
        FailureClass.STORAGE,
        Reason.STORAGE,
        "the pod wrote more into its scratch directory than the node allows",
    ),
    Row(
        "disruption",
        lambda end: end.disruption is not None or end.pod_reason in ("Evicted", "Preempting", "Terminated"),
        FailureClass.PREEMPTED,
        Reason.PREEMPTED,
        "",
    ),
    Row(
        "told to leave",
        # A rank's code may be that of a script of the user's own: free of charge, it could end so for ever.
        lambda end: end.rank is None and exited(end, ExitCode.PREEMPTED),
        FailureClass.PREEMPTED,
        Reason.PREEMPTED,
        "",
    ),
    # The kernel says so, which is worth more than any exit code: 137 has many mothers.
    Row(
        "killed for memory",
        lambda end: end.container_reason == "OOMKilled" or (end.oom_kills > 0 and end.killed_by == 9),
        FailureClass.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
        MORE_MEMORY,
    ),
    Row(
        "full shared memory",
        lambda end: bool(seen.SHARED_MEMORY.search(end.text)),
        FailureClass.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
        "shared memory counts against resources.perNode.memory: raise it",
    ),
    Row(
        "out of memory",
        lambda end: exited(end, ExitCode.OUT_OF_MEMORY) or bool(seen.OUT_OF_MEMORY.search(end.text)),
        FailureClass.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
        MORE_MEMORY,
    ),
    Row(
        "volume full",
        lambda end: bool(seen.STORAGE_FULL.search(end.text)),
        FailureClass.STORAGE,
        Reason.STORAGE_FULL,
        "enlarge the claim of checkpoint.store, or lower checkpoint.keepLast",
    ),
    Row(
        "storage",
        lambda end: exited(end, ExitCode.STORAGE) or bool(seen.STORAGE.search(end.text)),
        FailureClass.STORAGE,
        Reason.STORAGE,
        "look at the volume behind checkpoint.store",
    ),
    Row(
        "hardware",
        lambda end: bool(seen.HARDWARE.search(end.text)),
        FailureClass.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
        "the device reported an error; if it repeats, take the node out of service",
    ),
    Row(
        "program cannot run",
        lambda end: end.rank is not None and end.exit_code in (126, 127),
        FailureClass.CONFIGURATION,
        Reason.CONFIGURATION,
        "a program is not in the image or may not be run: check custom.command and what it starts",
    ),
    Row(
        "command cannot run",
        lambda end: end.exit_code in (126, 127) or end.container_reason in CANNOT_RUN,
        FailureClass.CONFIGURATION,
        Reason.CONFIGURATION,
        "the image does not hold the agent: check pod.image",
    ),
    Row(
        "configuration",
        lambda end: exited(end, ExitCode.CONFIGURATION),
        FailureClass.CONFIGURATION,
        Reason.CONFIGURATION,
        READ_LOG,
    ),
    Row(
        "no number",
        lambda end: exited(end, ExitCode.NUMERIC) or bool(seen.NO_NUMBER.search(end.text)),
        FailureClass.NUMERIC,
        Reason.NON_FINITE,
        READ_LOG,
    ),
    Row(
        "another leader",
        lambda end: exited(end, ExitCode.FENCED),
        FailureClass.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
        "",
    ),
    # Before the first step, such an error is in what was asked for; later, it is in what was met.
    Row(
        "bad setting",
        lambda end: end.before_first_step and bool(seen.CONFIGURATION.search(end.text)),
        FailureClass.CONFIGURATION,
        Reason.CONFIGURATION,
        READ_LOG,
    ),
    Row(
        "network",
        lambda end: bool(seen.NETWORK.search(end.text)),
        FailureClass.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
        "a name or service could not be reached; if it repeats, look at DNS, network policies and the service",
    ),
    Row(
        "lost connection",
        lambda end: is_follower(end),
        FailureClass.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
        "no rank was at fault; if it repeats, look at the network between the nodes",
    ),
    Row(
        "pod gone",
        lambda end: end.whole_pod and end.exit_code is None and end.signal is None,
        FailureClass.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
        "the pod was deleted or its node went away",
    ),
    Row("anything else", lambda end: True, FailureClass.CRASH, Reason.CRASH, READ_LOG),
)


def is_follower(end: End) -> bool:
    """Whether it ended because another one had: it speaks of a lost connection and of nothing else."""
    if end.container_reason == "OOMKilled" or (end.oom_kills > 0 and end.killed_by == 9):
        return False
    if end.failure is not None and end.failure.failure_class not in (
        FailureClass.CRASH,
        FailureClass.INFRASTRUCTURE,
    ):
        return False
    others = (seen.OUT_OF_MEMORY, seen.STORAGE_FULL, seen.STORAGE, seen.HARDWARE)
    text = end.failure.message if end.failure is not None and end.failure.message else end.text
    return bool(seen.CASCADE.search(text)) and not any(pattern.search(text) for pattern in others)


def first_failed(ends: Sequence[End]) -> End:
    """The cause: the earliest neither stopped by us nor a follower, else the earliest of the rest."""
    own = [end for end in ends if not end.stopped]
    causes = [end for end in own if not is_follower(end)]
    # Of several that ended with no reason of their own (exit 0), one with a reason is the cause.
    failing = [end for end in causes if end.exit_code != 0 or end.failure is not None]
    return min(
        failing or causes or own or ends, key=lambda end: (end.at, end.rank if end.rank is not None else -1)
    )


def classify(ends: Sequence[End]) -> Judgement:
    """Judge the ends of one incarnation (at least one): the first failed is the cause."""
    cause = first_failed(ends)
    row = next(row for row in TABLE if row.holds(cause))
    told = cause.failure
    if told is not None and trusts(told, cause, row):
        failure_class, reason = told.failure_class, told.reason
        message, hint = told.message or describe(cause), told.hint
    else:
        failure_class, reason = row.failure_class, str(row.reason)
        message, hint = (told.message if told else "") or describe(cause), row.hint
    return Judgement(
        failure_class=failure_class,
        reason=reason,
        message=message,
        hint=hint,
        first_failed=cause.place,
        evidence=tuple([*lines_of(cause), *followers(ends, cause)][:EVIDENCE_LINES]),
        signature=signature(failure_class, reason, cause),
        exit_code=cause.exit_code,
        signal=cause.killed_by,
        whole_pod=cause.whole_pod,
        at=datetime.fromtimestamp(cause.at, UTC),
        row=row.name,
    )


def trusts(told: Failure, cause: End, row: Row) -> bool:
    """Whether a rank's own word stands. It does, unless it said Crash and the evidence is more exact."""
    if told.failure_class is not FailureClass.CRASH:
        return True
    return row.failure_class is FailureClass.CRASH


def describe(end: End) -> str:
    """One sentence about an end that nobody described."""
    who = f"rank {end.rank}" if end.rank is not None else f"pod {end.pod}" if end.pod else "a process"
    if end.container_reason == "OOMKilled":
        return f"{who} was killed for memory by the kernel"
    if end.disruption is not None:
        return f"{who} was removed by the cluster ({end.disruption})"
    if end.pod_reason is not None:
        return f"{who} was ended by the kubelet ({end.pod_reason})"
    if end.killed_by is not None:
        memory = " for memory" if end.oom_kills > 0 and end.killed_by == 9 else ""
        return f"{who} was killed{memory} by signal {end.killed_by}"
    if end.exit_code is None:
        return f"{who} went away"
    return f"{who} ended with exit code {end.exit_code}"


def followers(ends: Sequence[End], cause: End) -> list[str]:
    """One line that names the ranks which ended as a consequence."""
    ranks = sorted(
        {end.rank for end in ends if end is not cause and end.rank is not None and is_follower(end)}
    )
    return [f"followers: {', '.join(f'rank {rank}' for rank in ranks)}"] if ranks else []


def signature(failure_class: FailureClass, reason: str, cause: End) -> str:
    """What makes two failures the same: class, reason, how it ended, and its last words without numbers.

    A load that failed keeps the name of its checkpoint: the one before that may be good.
    """
    words = lines_of(cause)
    last = (
        cause.failure.message
        if cause.failure is not None and cause.failure.message
        else words[-1]
        if words
        else ""
    )
    is_load = reason == Reason.CHECKPOINT_UNUSABLE
    bare = NUMBERS.sub(lambda found: (is_load and found["checkpoint"]) or "#", last.lower())[:160]
    how = f"signal {cause.killed_by}" if cause.killed_by is not None else f"exit {cause.exit_code}"
    return f"{failure_class}/{reason}/{how}/{bare}"
