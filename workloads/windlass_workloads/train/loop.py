"""The training loop, from the first phase to the last, in one piece.

Called by tasks.train on every rank. Read it from top to bottom: start, steps, end. It knows nothing of how ranks
share work (strategies), of what is optimised (objectives) or of how bytes are saved (checkpoint).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from windlass.api.contract import RankContext
from windlass.api.meta import Phase
from windlass.core.failure.spike import Spike
from windlass_workloads.checkpoint.errors import SaveError
from windlass_workloads.checkpoint.interface import SaveNotes
from windlass_workloads.data.arrays import Split
from windlass_workloads.data.errors import StopRequested
from windlass_workloads.data.order import deal
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import conversion
from windlass_workloads.train import runtime as runtimes
from windlass_workloads.train.assembly import Assembly, assemble
from windlass_workloads.train.export import export
from windlass_workloads.train.guards import Sight
from windlass_workloads.train.meters import StepTimer
from windlass_workloads.train.objectives.batch import IGNORED, Batch, move
from windlass_workloads.train.own_time import OwnTime
from windlass_workloads.train.plan import make_plan, with_sizes
from windlass_workloads.train.ports import Channel, Reporter
from windlass_workloads.train.strategies.base import Pipelined
from windlass_workloads.train.tracking import Tracker, open_tracker

STOP_CHECK_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Done:
    """What a step amounted to, over all ranks."""

    loss: float
    gradient_norm: float
    rate: float
    tokens: int
    squares: int
    stop: bool
    spike: Spike | None = None


def run(context: RankContext, channel: Channel, roots: Roots, after: ExitStack) -> None:
    """Trains until the last step and exports, or raises: StopRequested after a save that SIGTERM asked for.

    What may be done once a failure has been told goes into `after`.
    """
    report = Reporter(channel, context.rank)

    # --- start ----------------------------------------------------------------------------------
    patience = runtimes.RENDEZVOUS_SECONDS
    if conversion.is_needed(context):
        report.phase(Phase.LOAD)
        conversion.run(context)
        patience = runtimes.ALONE_SECONDS
    report.phase(Phase.RENDEZVOUS)
    runtime = runtimes.start(context, channel, patience=patience)
    report.phase(Phase.LOAD)
    job = assemble(runtime, roots)
    resumed = job.counters["step"]
    parameters, trained = job.parameters
    plan = make_plan(job.shape, job.data.index, job.choice, parameters=parameters, trained=trained)
    plan = with_sizes(plan, job.spec, job.local_model.config, job.data.train)
    if runtime.is_first:
        report.plan(plan)
    tracker = open_tracker(context, report, plan, resumed_step=resumed, roots=roots)
    after.callback(tracker.close, "FAILED")
    try:
        if runtime.stop_agreed():
            stop_here(job, report, step=resumed, saved=resumed)

        # --- steps ------------------------------------------------------------------------------
        report.phase(Phase.TRAIN)
        saved = resumed
        for step in range(resumed + 1, job.shape.total_steps + 1):
            timer = StepTimer()
            done = take_step(job, step, timer, begin=report.forward if step == resumed + 1 else None)
            job.counters.update(step=step, tokens=job.counters["tokens"] + done.tokens)
            tell_step(job, report, tracker, step=step, done=done, timer=timer)
            last = step == job.shape.total_steps
            validation_loss = validate_if_due(job, report, tracker, step=step, last=last)
            if done.stop:
                stop_here(job, report, step=step, saved=saved)
            if due(step, job.spec.checkpoint.every_steps, last=last):
                report.phase(Phase.SAVE)
                tracker.keep()
                job.writer.save(step, blocking=last, notes=notes_of(job, validation_loss))
                saved = step
                report.phase(Phase.TRAIN)

        # --- end --------------------------------------------------------------------------------
        result = job.writer.wait()
        report.phase(Phase.EXPORT)
        output = export(job, step=job.shape.total_steps)
        if runtime.is_first:
            digest = result.record.digest if result is not None and result.record is not None else None
            output = tracker.finish(output, digest)
            if output is not None:
                report.output(output)
        runtime.end_together()
        report.done(job.shape.total_steps)
    except StopRequested:
        tracker.close("KILLED")
        raise


def validate_if_due(
    job: Assembly, report: Reporter, tracker: Tracker, *, step: int, last: bool
) -> float | None:
    """Validates when it is time, and tells; the mean loss, None when there was none. Collective."""
    if not due(step, job.spec.training.validate_every_steps, last=last) or not len(job.data.validation):
        return None
    report.phase(Phase.VALIDATE)
    loss = validate(job)
    if loss is not None and job.runtime.is_first:
        report.validation(step, loss)
        tracker.metrics(step, {"validation_loss": loss})
    report.phase(Phase.TRAIN)
    return loss


def take_step(
    job: Assembly, step: int, timer: StepTimer, *, begin: Callable[[int], None] | None = None
) -> Done:
    """One optimiser step on the global batch; raises GuardTripped on all ranks, before anything is applied.

    `begin` is told the step when its batches are made and the first forward is next.
    """
    own = OwnTime(job.runtime.device, job.strategy.meeting)
    began = time.perf_counter()
    batches, totals = make_batches(job, step)
    timer.wait_over(began)
    if begin is not None:
        begin(step)
    loss = accumulate(job, batches, totals.targets, own)
    rate = job.schedule.rate(step)
    norm = job.strategy.measure()
    asked = float(job.runtime.channel.save_requested)
    told, stop, bad = job.runtime.sum_over_ranks(float(loss), asked, float(not math.isfinite(norm)))
    whole_loss = told / job.strategy.tellers
    units = partial(job.order.batch, step, job.spec.training.global_batch_size)
    spike = job.watch.judge(Sight(step, whole_loss, bad, rate, units))
    norm = job.strategy.step(rate)
    timer.own = own.seconds()
    return Done(whole_loss, norm, rate, totals.tokens, totals.squares, stop > 0, spike)


def accumulate(job: Assembly, batches: list[Batch], targets: int, own: OwnTime) -> torch.Tensor:
    """Gradients of a step's micro-batches; this rank's part of the loss."""
    if isinstance(job.strategy, Pipelined):
        own.forward()
        own.backward(last=True)
        return job.strategy.run(batches, job.objective, targets)
    loss = torch.zeros((), device=job.runtime.device)
    for place, batch in enumerate(batches):
        last = place == len(batches) - 1
        with job.strategy.micro_batch(last=last):
            own.forward()
            part = job.objective.loss_sum(job.strategy.forward, batch) / targets
            own.backward(last=last)
            job.strategy.backward(part, last=last)
        loss += part.detach()
    return loss


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over the whole global batch, which every rank knows from the prepared tables."""

    tokens: int
    targets: int
    squares: int


def make_batches(job: Assembly, step: int) -> tuple[list[Batch], Totals]:
    """This rank's micro-batches of a step: as many on every rank, with zero weight where there is no sample left."""
    split, training = job.data.train, job.spec.training
    units = job.order.batch(step, training.global_batch_size)
    lengths = [int(split.unit_lengths[unit]) for unit in units]
    runtime = job.runtime
    mine = deal(units, lengths, micro=training.micro_batch_size, world=runtime.readers)[runtime.reader]
    totals = Totals(
        tokens=sum(lengths),
        # Rows of special tokens alone hide none, and a batch of such rows is worth nothing.
        targets=max(1, sum(int(split.unit_targets[unit]) for unit in units)),
        squares=sum(length * length for length in lengths),
    )
    shortest = units[lengths.index(min(lengths))]
    return [make_batch(job, split, group, filler=shortest, step=step) for group in mine], totals


def make_batch(job: Assembly, split: Split, units: Sequence[int], *, filler: int, step: int = 0) -> Batch:
    """A micro-batch on the device; without units one that counts for nothing."""
    if isinstance(job.strategy, Pipelined):
        # What passes between stages is of one size.
        rows = job.spec.training.micro_batch_size
        batch = job.objective.collate(split, [*units, *([filler] * (rows - len(units)))], step=step)
        batch.targets[len(units) :] = IGNORED
        return move(batch, job.runtime.device)
    batch = job.objective.collate(split, units or [filler], step=step, weight=1.0 if units else 0.0)
    return move(batch, job.runtime.device)


def notes_of(job: Assembly, validation_loss: float | None = None) -> SaveNotes:
    """What a checkpoint of this moment says beside its state."""
    seen = job.watch.seen
    return SaveNotes(validation_loss, recent_losses=seen.losses, suspect_losses=seen.suspects)


def due(step: int, every: int | None, *, last: bool) -> bool:
    """Whether something periodic is due; at the last step it always is, without a period only then."""
    return last or (every is not None and step % every == 0)


def tell_step(
    job: Assembly, report: Reporter, tracker: Tracker, *, step: int, done: Done, timer: StepTimer
) -> None:
    """Reports a step to the agent and to tracking."""
    seconds = timer.elapsed()
    peak = job.runtime.peak_flops
    world = job.runtime.context.world_size
    model_flops = job.work.flops(done.tokens, done.squares)
    mfu = model_flops / (seconds * world * peak) if peak else None
    report.step(
        step,
        loss=done.loss,
        tokens=done.tokens,
        tokens_so_far=job.counters["tokens"],
        seconds=seconds,
        own_seconds=timer.own,
        data_wait_seconds=timer.data_wait,
        learning_rate=done.rate,
        gradient_norm=done.gradient_norm,
        mfu=mfu,
    )
    if job.runtime.is_first:
        job.watch.tell(report, step, done.spike)
    figures = {
        "loss": done.loss,
        "learning_rate": done.rate,
        "gradient_norm": done.gradient_norm,
        "tokens_per_second": done.tokens / seconds,
        "step_seconds": seconds,
        "data_wait_seconds": timer.data_wait,
        "tokens": float(job.counters["tokens"]),
        "model_tflops_per_second": model_flops / seconds / 1e12,
    }
    if peak:
        figures["mfu"] = model_flops / (seconds * world * peak)
        figures["hfu"] = job.work.hardware_flops(done.tokens, done.squares) / (seconds * world * peak)
    tracker.metrics(step, figures)


def validate(job: Assembly) -> float | None:
    """Mean loss per learned token of the validation split; None when a stop was asked for meanwhile. Collective."""
    split, runtime = job.data.validation, job.runtime
    units = list(range(len(split)))
    lengths = [int(length) for length in split.unit_lengths]
    mine = deal(units, lengths, micro=job.spec.training.micro_batch_size, world=runtime.readers)[
        runtime.reader
    ]
    job.strategy.module.eval()
    total, passes = 0.0, job.shape.accumulation if isinstance(job.strategy, Pipelined) else 1
    try:
        with torch.no_grad():
            for place, groups in enumerate(batched(mine, passes)):
                if place * passes % STOP_CHECK_BATCHES < passes and runtime.stop_agreed():
                    return None
                # As many as a step has: a pipeline is made for so many.
                filled = [*groups, *([[]] * (passes - len(groups)))] if passes > 1 else groups
                total += evaluated(job, [make_batch(job, split, group, filler=0) for group in filled])
    finally:
        job.strategy.module.train()
    return runtime.sum_over_ranks(total)[0] / job.strategy.tellers / max(1, int(split.unit_targets.sum()))


def batched(items: Sequence[list[int]], size: int) -> Iterator[list[list[int]]]:
    """Items so many at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def evaluated(job: Assembly, batches: list[Batch]) -> float:
    """The summed loss of some batches."""
    if isinstance(job.strategy, Pipelined):
        return job.strategy.evaluate(batches, job.objective)
    return sum(
        float(job.objective.loss_sum(job.strategy.forward, batch, learning=False)) for batch in batches
    )


def stop_here(job: Assembly, report: Reporter, *, step: int, saved: int) -> None:
    """Saves what is not saved yet, says so, and leaves. A save that fails is a failure: work would be lost."""
    report.phase(Phase.SAVE)
    result = job.writer.wait()
    if step > saved or (result is not None and result.problem is not None and step > 0):
        job.writer.save(step, blocking=True, notes=notes_of(job))
        result = job.writer.wait()
        if result is not None and result.problem is not None:
            raise SaveError(result.problem, full="ENOSPC" in result.problem)
    report.saved(step)
    raise StopRequested
