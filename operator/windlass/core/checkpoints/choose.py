"""Which checkpoint a new incarnation starts from, and which ones it accepts.

Called by the leading agent before it claims an incarnation and by the operator for its ledger. A
checkpoint counts when the newest incarnation made it or accepted it; everything else in the store is
the work of someone who had already been replaced. Must never read the store, a clock or a log.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from windlass.api.contract import AcceptedCheckpoint, Incarnation
from windlass.api.resuming import ANOTHER

RESUME_FROM = "resumeFrom"
"""Key of Incarnation.details: the value of spec.resume.from that this incarnation has honoured."""

LATEST = "Latest"
NOTHING = "None"
ADOPTED = 0
"""Incarnation of a checkpoint that was taken over from another run before this run's first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint directory as read from the store; `problem` says why it cannot be used."""

    name: str
    step: int
    incarnation: int
    digest: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A directory that was looked at and does not count, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint to resume from (None is a fresh start) and what the next incarnation accepts.

    `problem` is the text for the user when spec.resume.from asks for what does not exist; then
    nothing may be started.
    """

    checkpoint: Candidate | None = None
    accepted: tuple[AcceptedCheckpoint, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    problem: str | None = None

    @property
    def name(self) -> str | None:
        """Name of the checkpoint directory, as Incarnation.resume and RankContext.resume want it."""
        return None if self.checkpoint is None else self.checkpoint.name

    @property
    def step(self) -> int:
        """Step to resume from; 0 is a fresh start."""
        return 0 if self.checkpoint is None else self.checkpoint.step


def order(candidate: Candidate) -> tuple[int, int]:
    """Sort key: newest is the highest step, and among equals the highest incarnation."""
    return candidate.step, candidate.incarnation


def is_of_another_run(resume_from: str) -> bool:
    """Whether the wish names another run's checkpoint by its URI."""
    return resume_from.startswith(ANOTHER)


def objection(candidate: Candidate, newest: Incarnation | None, poisoned: Collection[str] = ()) -> str | None:
    """Why a candidate does not count, or None when it does. Before the first incarnation only an adopted one does."""
    if candidate.problem is not None:
        return candidate.problem
    if newest is None:
        return None if candidate.incarnation == ADOPTED else "no incarnation vouches for it"
    if candidate.name in poisoned or candidate.name in newest.poisoned:
        return "poisoned: it failed to load before"
    if candidate.incarnation == newest.incarnation:
        return None
    if candidate.incarnation > newest.incarnation:
        return f"its incarnation {candidate.incarnation} was never claimed"
    for accepted in newest.accepted:
        if accepted.name == candidate.name:
            return None if accepted.digest == candidate.digest else "its digest is not the accepted one"
    return f"incarnation {newest.incarnation} did not accept it"


def choose(
    candidates: Sequence[Candidate],
    newest: Incarnation | None,
    resume_from: str,
    *,
    poisoned: Collection[str] = (),
) -> Choice:
    """The checkpoint to resume from under `spec.resume.from` (`Latest`, `None`, a step, or another run's URI).

    A wish other than Latest is honoured once: the incarnation that honours it accepts nothing beyond
    it, and notes the wish in details[RESUME_FROM], so that later incarnations go on from there. What another run's
    URI names was adopted into this store before; a run that asked for it never begins at nothing instead.
    """
    counted: list[Candidate] = []
    rejected: list[Rejected] = []
    for candidate in sorted(candidates, key=order, reverse=True):
        reason = objection(candidate, newest, poisoned)
        if reason is None:
            counted.append(candidate)
        else:
            rejected.append(Rejected(candidate.name, reason))
    if is_of_another_run(resume_from):
        return _of_another(counted, rejected, resume_from)
    if resume_from == LATEST or _honoured(newest, resume_from):
        return _choice(counted, rejected)
    if resume_from == NOTHING:
        return Choice(rejected=tuple(rejected))
    return _of_step(counted, rejected, resume_from)


def _honoured(newest: Incarnation | None, resume_from: str) -> bool:
    return newest is not None and newest.details.get(RESUME_FROM, LATEST) == resume_from


def _choice(counted: Sequence[Candidate], rejected: Sequence[Rejected]) -> Choice:
    accepted = tuple(
        AcceptedCheckpoint(name=each.name, step=each.step, incarnation=each.incarnation, digest=each.digest)
        for each in counted
    )
    return Choice(checkpoint=counted[0] if counted else None, accepted=accepted, rejected=tuple(rejected))


def _of_another(counted: Sequence[Candidate], rejected: Sequence[Rejected], resume_from: str) -> Choice:
    if counted:
        return _choice(counted, rejected)
    reasons = "; ".join(f"{each.name}: {each.reason}" for each in rejected[:3]) or "no checkpoint is there"
    problem = (
        f'spec.resume.from: nothing is left to go on from (got "{resume_from}", {reasons}); allowed a checkpoint '
        "that can be loaded. hint: create a job that names an older checkpoint of that run, or none"
    )
    return Choice(rejected=tuple(rejected), problem=problem)


def _of_step(counted: Sequence[Candidate], rejected: Sequence[Rejected], resume_from: str) -> Choice:
    wanted = int(resume_from)
    kept = [each for each in counted if each.step <= wanted]
    if kept and kept[0].step == wanted:
        return _choice(kept, rejected)
    steps = (
        ", ".join(str(step) for step in sorted({each.step for each in counted})) or "no step, there is none"
    )
    problem = (
        f'spec.resume.from: no verified checkpoint of this step (got "{resume_from}"); '
        f"allowed Latest, None or one of: {steps}. hint: status.checkpoints lists what can be used."
    )
    return Choice(rejected=tuple(rejected), problem=problem)
