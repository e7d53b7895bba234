"""Makes the next incarnation in the store: who may, what it accepts, where it resumes.

Called by `leader` in a thread. Loses gracefully: whoever made the newest incarnation leads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from windlass.api.contract import Incarnation, RunConfig
from windlass.core.checkpoints.choose import is_of_another_run
from windlass_workloads.agent.events import Claim, Claimed, Refused, Unclaimable
from windlass_workloads.agent.identity import Identity
from windlass_workloads.agent.numeric import way_of
from windlass_workloads.checkpoint import choose as choosing
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.adopt import NotAdoptable, adopt
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.incarnations import Claimant
from windlass_workloads.checkpoint.recipe import recipe
from windlass_workloads.checkpoint.store import RunStore

TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims for one agent."""

    store: RunStore
    config: RunConfig
    me: Identity

    @property
    def claimant(self) -> Claimant:
        """This agent, as the fence knows it."""
        return Claimant(pod_uid=self.me.pod_uid, ticket=self.me.ticket, attempt=self.me.attempt)

    def made(self, record: Incarnation) -> bool:
        """Whether this agent made it, be it by a claim whose answer the store failed to give."""
        return record.owner_pod_uid == self.me.pod_uid

    def taken(self, mine: int) -> bool:
        """Whether another agent has made the incarnation after this agent's own."""
        number = mine + 1
        while (found := incarnations.read(self.store, number)) is not None and self.made(found):
            number += 1
        return found is not None

    def claim(self, wish: Claim, owned: int) -> Claimed | Refused | Unclaimable:
        """Makes the next incarnation. `owned` is the one that this agent made last, 0 for none."""
        try:
            for _ in range(TRIES):
                newest = incarnations.newest(self.store)
                if not incarnations.may_claim(newest, self.claimant):
                    return Refused()
                if owned and newest is not None and newest.incarnation != owned and not self.made(newest):
                    return Refused()
                record = self._record(wish, newest)
                if isinstance(record, Unclaimable):
                    return record
                if incarnations.claim(self.store, record):
                    return Claimed(record)
        except NotAdoptable as error:
            return Unclaimable(message=str(error), storage=False)
        except (CheckpointError, manifests.ManifestInvalid, OSError) as error:
            return Unclaimable(message=str(error), storage=True)
        return Refused()

    def _record(self, wish: Claim, newest: Incarnation | None) -> Incarnation | Unclaimable:
        source = self.config.spec.resume.source
        if newest is None and is_of_another_run(source):
            adopt(self.store, self.config)
        choice = choosing.choose(self.store, newest, source, poisoned=wish.poisoned)
        if choice.problem is not None:
            return Unclaimable(message=because(choice.problem, wish), storage=False)
        windows = adopted_windows(self.store, choice.name) if newest is None else ()
        way, cause = way_of(wish.cause, choice.accepted, newest, self.config, windows), wish.cause
        if cause is not None and way.skipped is not None:
            cause = cause.model_copy(update={"skipped": way.skipped})
        poisoned = {*wish.poisoned, *(newest.poisoned if newest is not None else ())}
        return Incarnation(
            incarnation=(newest.incarnation if newest is not None else 0) + 1,
            attempt=self.me.attempt,
            ticket=self.me.ticket,
            owner_pod_uid=self.me.pod_uid,
            owner_pod=self.me.pod,
            created_at=datetime.now(UTC),
            accepted=list(way.accepted),
            poisoned=sorted(poisoned),
            resume=way.accepted[0].name if way.accepted else None,
            prepared=wish.prepared,
            budgets=wish.budgets,
            cause=cause,
            skipped_windows=list(way.windows),
            details={choosing.RESUME_FROM: source, **recipe(self.config.spec), **dict(wish.details)},
        )


def adopted_windows(store: RunStore, name: str | None) -> list[tuple[int, int]]:
    """What the run that a checkpoint was adopted from had left out; it stays left out."""
    return manifests.read(store, name).skipped_windows if name is not None else []


def because(problem: str, wish: Claim) -> str:
    """Why nothing is left to go on from, with what was seen when the last one did not load."""
    seen = wish.cause.evidence[:2] if wish.cause is not None else []
    text, mark, hint = problem.partition(". hint: ")
    return f"{text}; last seen: {' | '.join(seen)}{mark}{hint}" if seen else problem
