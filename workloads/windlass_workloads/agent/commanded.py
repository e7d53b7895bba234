"""What differs for a gang that runs a command of the user's own, which may say nothing of what it does.

Pure; between `guarding` and `gang`. A script that uses windlass_workloads.custom speaks like any rank; one that does
not is told by its processes alone: it trains while they run, and is done when all have ended with 0.
"""

from __future__ import annotations

from typing import Final

from windlass.api.contract import RunConfig
from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.events import State
from windlass_workloads.agent.guarding import Guarded
from windlass_workloads.agent.identity import Limits
from windlass_workloads.agent.life import Life

ALONE_SECONDS: Final = 3600.0
"""How long a rank of a command may go on after others have ended: rank 0 may write a large model by itself."""
SPEAKER_SECONDS: Final = 3600.0
"""How long a command that has spoken in an earlier life may take to its first word: imports, and a large model."""


class Commanded(Guarded):
    """A course that knows of commands."""

    def __init__(self, config: RunConfig, limits: Limits, *, memory_group: bool = False) -> None:
        super().__init__(config, limits, memory_group=memory_group)
        self.runs_command = config.spec.custom is not None
        self.is_silent = False
        """Whether the command has told nothing for so long that it will not."""
        self._has_spoken = False

    @property
    def unsaved_notice(self) -> str | None:
        """Why nothing of the work is safe, in words; None while that is as it should be."""
        if not self.runs_command:
            return None
        if self.is_silent:
            return "the command tells of no checkpoint: after a failure it starts from the beginning"
        every = self.config.spec.checkpoint.every_steps
        if self.ledger_step == 0 and self.step >= 2 * every:
            return f"no checkpoint has been seen by step {self.step} (checkpoint.everySteps is {every})"
        return None

    @property
    def _straggler_seconds(self) -> float:
        return ALONE_SECONDS if self.runs_command else self.limits.straggler_seconds

    def _heed_command(self, life: Life) -> None:
        """All ranks of a command may be at their end: without a word of it, that is what tells that it is done."""
        if self.runs_command and self.mode is Mode.RUNNING and life.clean and life.done_step is None:
            life.done_step = life.step

    def _heed_first_word(self, life: Life) -> None:
        """A command speaks. Where it was taken for silent, its first step is still to come."""
        if not self.runs_command or life.spoken:
            return
        self._has_spoken = True
        if self.is_silent and life.times.forward:
            life.times.forward.clear()
            self._mark(State.LOADING)
        self.is_silent = False

    @property
    def _silence_seconds(self) -> float:
        speaks = self._has_spoken or self.ledger_step > 0
        return SPEAKER_SECONDS if speaks else self.limits.silent_command_seconds

    def _listen_to_command(self) -> None:
        """Time has passed. A command that tells nothing counts as training since its start."""
        life = self.life
        if not self.runs_command or life is None or self.mode is not Mode.RUNNING:
            return
        silent = not life.spoken and not life.times.forward
        if silent and self._now - life.started_at >= self._silence_seconds:
            self.is_silent = True
            for rank in range(life.world):
                life.times.began(rank, life.started_at)
            self._recovered(life, life.started_at)
            self._mark(State.TRAINING, at=life.started_at)
