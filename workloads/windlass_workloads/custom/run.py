"""One rank's way to its agent and to the checkpoint store, for a script of the user's own.

Opened by the script after its process group. Whatever goes wrong here is told to the agent before it is raised, so
that the run's status has the reason and not only a traceback. Must never write what the fence forbids.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from windlass.api.contract import RankContext
from windlass.api.meta import Phase
from windlass.api.status import Plan
from windlass.core.failure.spike import Seen, look
from windlass.core.skipped_windows import merged, position
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.agent.executing import CONTEXT_VARIABLE, EVENTS_VARIABLE
from windlass_workloads.checkpoint import reader
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.group import SaveGroup
from windlass_workloads.checkpoint.interface import SaveFacts, SaveNotes
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from windlass_workloads.custom.tree import TreeState, pack, shape_of
from windlass_workloads.train.failures import GuardTripped, LossSpiked, NotFinite, failure_of
from windlass_workloads.train.guards import Watch
from windlass_workloads.train.ports import Reporter

HINT = "look at the batches of the step (run.batch gives their numbers); if it comes back, lower the learning rate"


class NotManaged(RuntimeError):
    """The script was not started by an agent of Windlass."""


class ScriptNotFinite(NotFinite):
    """The script reported a loss that is no number."""

    hint = HINT


class ScriptLossSpiked(LossSpiked):
    """The script reported losses far above what they were."""

    hint = HINT


def is_managed() -> bool:
    """Whether an agent of Windlass started this process, or one that it comes from."""
    return CONTEXT_VARIABLE in os.environ


def open_run(*, total_steps: int | None = None) -> Run:
    """Connects this rank; collective, in the main thread, after init_process_group where there are several ranks.

    `total_steps` (optimiser steps of the whole run) gives status its ETA. SIGTERM and SIGUSR1 are taken over. Raises
    NotManaged outside of a job, RuntimeError without a process group that fits, ValueError for fewer than 1 step.
    """
    if not is_managed():
        raise NotManaged(
            f"windlass: this process was not started by Windlass (got no {CONTEXT_VARIABLE}); allowed the command of a "
            "job with spec.custom. hint: ask windlass.is_managed() first if the script is to run elsewhere too"
        )
    if total_steps is not None and total_steps < 1:
        raise ValueError(
            f"total_steps: out of range (got {total_steps}); allowed 1 or more. hint: leave it out if not known"
        )
    context = RankContext.model_validate_json(Path(os.environ[CONTEXT_VARIABLE]).read_bytes())
    _require_group(context)
    events = os.open(os.environ[EVENTS_VARIABLE], os.O_WRONLY | os.O_CLOEXEC)
    channel = RankChannel(events, context.rank)
    signal.signal(signal.SIGTERM, lambda *_: channel.request_save())
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    return Run(context, channel, total_steps=total_steps)


def _require_group(context: RankContext) -> None:
    started = dist.is_available() and dist.is_initialized()
    found = (dist.get_rank(), dist.get_world_size()) if started else (0, 1)
    if found != (context.rank, context.world_size):
        raise RuntimeError(
            f"windlass.open: the process group does not fit (got rank {found[0]} of {found[1]}); allowed rank "
            f"{context.rank} of {context.world_size}. hint: call torch.distributed.init_process_group first; it "
            "takes rank and size from the environment"
        )


class Run:
    """Checkpoints and progress of one start of the script. Methods are for all ranks, in the same order."""

    def __init__(self, context: RankContext, channel: RankChannel, *, total_steps: int | None = None) -> None:
        self.total_steps = total_steps
        self.resumed_step = 0
        """The step of the state that load() has returned, 0 at the beginning."""
        self._context = context
        self._channel = channel
        self._spec = context.config.spec
        self._report = Reporter(channel, context.rank)
        self._report.phase(Phase.LOAD)
        if total_steps is not None and context.rank == 0:
            self._report.plan(Plan(total_steps=total_steps, world_size=context.world_size))
        # Of its own: a save that goes on in a thread has the writer's.
        self._group = SaveGroup()
        self._tree = TreeState()
        self._skipped = merged(context.skipped_windows)
        self._watch = Watch(self._spec.guards)
        self._writer: CheckpointWriter | None = None
        self._stopping = False
        self._step = 0
        self._since = 0.0

    # --- the script's calls ------------------------------------------------------------------------

    def load(self) -> Any:
        """The state that the run goes on from, its tensors on the CPU; None at the beginning. Collective.

        The random generators of torch, numpy and Python are set as they were. Raises CheckpointUnusable for a damaged
        checkpoint, after which the run falls back to the one before.
        """
        self._once()
        with self._telling():
            store = RunStore(self._context.config.store_path)
            if self._context.resume is not None:
                manifest = reader.load(
                    store=store, context=self._context, state=self._tree, group=self._group
                )
                self.resumed_step = self._step = manifest.step
                self._skipped = merged([*manifest.skipped_windows, *self._skipped])
                self._watch.seen = Seen(tuple(manifest.recent_losses), tuple(manifest.suspect_losses))
            self._writer = CheckpointWriter(
                store=store,
                context=self._context,
                channel=self._channel,
                state=self._tree,
                facts=SaveFacts(skipped_windows=self._skipped),
                asynchronous=self._spec.checkpoint.asynchronous,
            )
        state, self._tree.taken = self._tree.taken, None
        self._report.phase(Phase.TRAIN)
        self._report.forward(self.resumed_step + 1)
        self._since = time.perf_counter()
        return state

    def batch(self, step: int) -> int:
        """Number, from zero, of the batch that a step (from 1) trains on: data that guards skip are passed over."""
        return position(step - 1, self._skipped)

    def report(
        self,
        step: int,
        *,
        loss: float | None = None,
        tokens: int | None = None,
        learning_rate: float | None = None,
        validation_loss: float | None = None,
    ) -> None:
        """A step is done. Rank 0's figures are shown; `tokens` are those of all ranks in this step.

        Raises what spec.guards do not let through: ScriptNotFinite for a loss that is no number, ScriptLossSpiked for
        one that is far above what it was, by rank 0's. Let them pass: the run then goes back, waits or fails.
        """
        self._require_loaded()
        now = time.perf_counter()
        figures = {"loss": loss, "tokens": tokens, "learning_rate": learning_rate}
        with self._telling():
            if loss is not None:
                self._judge(step, loss)
        self._report.step(step, seconds=now - self._since, **figures)
        self._step, self._since = step, now
        if validation_loss is not None and self._context.rank == 0:
            self._report.validation(step, validation_loss)

    def due(self, step: int) -> bool:
        """Whether to save now: every checkpoint.everySteps, and at the last step where total_steps was given."""
        return step % self._spec.checkpoint.every_steps == 0 or step == self.total_steps

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop: save this step and leave the loop. Collective, the same on all ranks."""
        asked = torch.tensor([float(self._channel.save_requested)])
        if self._group.process_group is not None:
            dist.all_reduce(asked, group=self._group.process_group)
        self._stopping = self._stopping or bool(asked.item() > 0)
        return self._stopping

    def save(self, step: int, state: Any, *, validation_loss: float | None = None) -> None:
        """Saves a state that is the same on every rank, as of the end of a step (from 1). Collective.

        Returns once it is copied (checkpoint.async), or once it is committed: without async, at the last step and
        after should_stop. A save that fails leaves the last good one alone and is a condition, no error. Raises
        TypeError for a state that cannot be saved, ValueError when ranks differ in its form, Fenced when another
        incarnation has taken over.
        """
        writer = self._require_loaded()
        self._report.phase(Phase.SAVE)
        with self._telling():
            self._tree.saved = pack(state)
            try:
                self._require_same(shape_of(self._tree.saved))
                seen = self._watch.seen
                notes = SaveNotes(validation_loss, seen.losses, seen.suspects)
                writer.save(step, blocking=self._stopping or step == self.total_steps, notes=notes)
            finally:
                # It is copied by now. A gathered state that stayed until the next save would fill the accelerator.
                self._tree.saved = {}
        self._go_on(step)

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Around a validation, or whatever else is no step: its seconds count as validating, and it may take as long
        as guards.stall.phaseLimitSeconds says, where a step would be taken for stalled."""
        self._require_loaded()
        self._report.phase(Phase.VALIDATE)
        try:
            yield
        finally:
            self._go_on(self._step)

    def close(self) -> None:
        """Waits for the last save and says how the script ends: complete, or stopped as it was asked to."""
        with self._telling():
            result = self._writer.wait() if self._writer is not None else None
        if self._stopping:
            self._report.saved(result.step if result is not None and result.record else self.resumed_step)
        else:
            self._report.done(self._step)
        self._channel.close()

    def __enter__(self) -> Run:
        """This run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it; after an error nothing is waited for, and nobody says that the script is done."""
        if kind is None:
            self.close()
        else:
            self._channel.close()

    # --- within ------------------------------------------------------------------------------------

    def _go_on(self, step: int) -> None:
        """To the next step; after the last one whatever the script still has to do is its export."""
        self._report.phase(Phase.EXPORT if step == self.total_steps else Phase.TRAIN)
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tells the agent of what is raised: to it, a traceback is only text."""
        try:
            yield
        except (CheckpointError, GuardTripped, OSError, MemoryError) as error:
            failure, _ = failure_of(error)
            self._report.failure(failure, getattr(error, "step", None))
            raise

    def _once(self) -> None:
        if self._writer is not None:
            raise RuntimeError(
                "run.load: called twice (got a second call); allowed once, before the first step"
            )

    def _require_loaded(self) -> CheckpointWriter:
        if self._writer is None:
            raise RuntimeError(
                "run.load: was not called (got a step before it); allowed load(), then steps. hint: call it also "
                "where there is nothing to load, and begin with run.resumed_step + 1"
            )
        return self._writer

    def _require_same(self, form: str) -> None:
        """Only one rank's state is kept, so that ranks which differ would lose theirs without a word."""
        mine = hashlib.sha256(form.encode()).hexdigest()
        differing = [rank for rank, each in enumerate(self._group.gather(mine)) if each != mine]
        if differing:
            raise ValueError(
                f"state: ranks differ in names, shapes or plain values (got rank {self._context.rank} unlike ranks "
                f"{differing[:8]}); allowed the same state on every rank. hint: leave out what belongs to one rank; "
                "random generators are kept for each rank anyway"
            )

    def _judge(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise ScriptNotFinite(f"step {step}: loss {loss} on rank {self._context.rank}", step=step)
        if self._context.rank != 0:
            return
        guard = self._spec.guards.loss_spike
        self._watch.seen, spike = look(self._watch.seen, loss, guard)
        if spike is not None and guard.action != "Notify":
            raise ScriptLossSpiked(f"step {step}: {spike.text}", step=step)
        self._watch.tell(self._report, step, spike)
