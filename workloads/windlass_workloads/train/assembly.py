"""Puts a training rank together: data, model, adapter, strategy, saved state, in the order that resuming needs.

Called once per start by the loop. Everything that can be wrong with a spec in this world is noticed here, before the
first step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from windlass.api.contract import Manifest, RunConfig
from windlass.api.jobs import TrainingJobSpec
from windlass.api.meta import Reason
from windlass.core.checkpoints.choose import ADOPTED
from windlass.core.failure.spike import Seen
from windlass.core.skipped_windows import merged
from windlass_workloads.checkpoint import randomness, reader
from windlass_workloads.checkpoint.interface import SaveFacts
from windlass_workloads.checkpoint.store import PREPARED, RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from windlass_workloads.data.arrays import Index, Split, open_prepared, open_split
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.order import Order, Part, shares
from windlass_workloads.data.sources import Finder, Roots
from windlass_workloads.train import ahead, meters
from windlass_workloads.train.build import build
from windlass_workloads.train.guards import Watch
from windlass_workloads.train.model import LocalModel, check_length
from windlass_workloads.train.objectives.batch import Objective
from windlass_workloads.train.objectives.masked import Masked, Vocabulary
from windlass_workloads.train.objectives.supervised import NextToken
from windlass_workloads.train.pin import pinned_model
from windlass_workloads.train.plan import Shape, shape_of
from windlass_workloads.train.precision import Choice, choose
from windlass_workloads.train.runtime import Runtime, hardware_of
from windlass_workloads.train.schedule import Schedule, schedule_of
from windlass_workloads.train.strategies.base import Setting, Strategy

Windows = tuple[tuple[int, int], ...]
"""Positions [first, last) of the order that are left out."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prepared data of a run, mapped into memory."""

    index: Index
    train: Split
    validation: Split


@dataclass(slots=True)
class Assembly:
    """Everything the loop works with. `counters` is what checkpoints say of progress."""

    runtime: Runtime
    spec: TrainingJobSpec
    local_model: LocalModel
    data: Prepared
    order: Order
    shape: Shape
    schedule: Schedule
    choice: Choice
    strategy: Strategy
    writer: CheckpointWriter
    work: meters.Work
    parameters: tuple[int, int]
    objective: Objective
    watch: Watch
    counters: dict[str, int] = field(default_factory=dict)


def finder_of(config: RunConfig, roots: Roots) -> Finder:
    """Resolves the URIs of a run; downloads are kept in its store."""
    tracking = config.spec.tracking
    return Finder(roots, Path(config.store_path) / "cache", tracking.mlflow.uri if tracking else None)


def open_data(config: RunConfig, name: str) -> Prepared:
    """Maps the prepared data that the leader named."""
    directory = Path(config.store_path) / PREPARED / name
    index = open_prepared(directory)
    return Prepared(index, open_split(directory / "train"), open_split(directory / "validation"))


def order_of(spec: TrainingJobSpec, index: Index, skipped: Windows) -> Order:
    """The order of the prepared rows; by their shares, where the sources have some."""
    weights = spec.shares
    if not weights:
        return Order(spec.training.seed, index.train_units, skipped)
    firsts = accumulate(index.train_parts, initial=0)
    parts = (Part(*row) for row in zip(firsts, index.train_parts, shares(weights), strict=False))
    return Order(spec.training.seed, index.train_units, skipped, tuple(parts))


def objective_of(spec: TrainingJobSpec, index: Index, *, chooses_logits: bool) -> Objective:
    """What is optimised."""
    if index.vocabulary is not None:
        return Masked(Vocabulary.from_wire(index.vocabulary), spec.training.seed)
    return NextToken(index.packed, chooses_logits, float(spec.z_loss or 0))


def make_strategy(model: Any, setting: Setting) -> Strategy:
    """The spec's strategy around the model. Its library is imported only when it is used."""
    name = setting.spec.parallelism.strategy
    if setting.spec.parallelism.pipeline is not None:
        from windlass_workloads.train.strategies.pipeline import Pipeline

        return Pipeline(model, setting)
    if name == "FSDP":
        from windlass_workloads.train.strategies.fsdp import FSDP

        return FSDP(model, setting)
    if name == "DeepSpeed":
        from windlass_workloads.train.strategies.deepspeed import DeepSpeed

        return DeepSpeed(model, setting)
    from windlass_workloads.train.strategies.ddp import DDP

    return DDP(model, setting)


def assemble(runtime: Runtime, roots: Roots) -> Assembly:
    """A rank ready for its first step, with the state of context.resume if there is one. Collective."""
    context, spec = runtime.context, runtime.context.config.spec
    data = open_data(context.config, context.prepared or "")
    local = pinned_model(context.config, finder_of(context.config, roots))
    check_length(local, spec)
    choice = choose(spec.training.precision, hardware_of(runtime.device))
    shape = shape_of(context.config, data.index, context.world_size)
    built = ahead.take(local, spec, choice.precision) or build(local, spec, choice.precision)
    setting = Setting(
        spec, runtime.device, context.world_size, choice.precision, shape.accumulation, built.bit_sums
    )
    strategy = make_strategy(built.model, setting)
    counters = {"step": 0, "tokens": 0}
    state = strategy.saved_state(counters)
    store = RunStore(context.config.store_path)
    randomness.derive(spec.training.seed, 0, context.rank)
    skipped, seen = merged(context.skipped_windows), Seen()
    if context.resume is not None:
        same = partial(
            check_same,
            spec=spec,
            index=data.index,
            model_digest=local.digest,
            total_steps=shape.total_steps,
        )
        manifest = reader.load(store=store, context=context, state=state, check=same)
        skipped = merged([*manifest.skipped_windows, *skipped])
        seen = Seen(tuple(manifest.recent_losses), tuple(manifest.suspect_losses))
    writer = CheckpointWriter(
        store=store,
        context=context,
        channel=runtime.channel,
        state=state,
        facts=SaveFacts(data.index.digest, local.digest, choice.precision, skipped),
        asynchronous=spec.checkpoint.asynchronous,
    )
    return Assembly(
        runtime=runtime,
        spec=spec,
        local_model=local,
        data=data,
        order=order_of(spec, data.index, skipped),
        shape=shape,
        schedule=schedule_of(spec.training, shape.total_steps),
        choice=choice,
        strategy=strategy,
        writer=writer,
        work=built.work,
        parameters=built.parameters,
        objective=objective_of(spec, data.index, chooses_logits=built.chooses_logits),
        watch=Watch(spec.guards, seen),
        counters=counters,
    )


def check_same(
    manifest: Manifest, spec: TrainingJobSpec, index: Index, *, model_digest: str, total_steps: int
) -> None:
    """Refuses to go on from a checkpoint whose order of samples or base model would no longer be this run's.

    One that was adopted must leave a step to take, or another run's result would be told as this one's.
    """
    if manifest.incarnation == ADOPTED and manifest.step >= total_steps:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"spec.{spec.length_field}: leaves nothing to do after the adopted checkpoint at step {manifest.step} "
            f"(got {total_steps} steps in all); allowed more than {manifest.step} steps.",
            hint="steps are counted from the beginning of the run that made the checkpoint",
        )
    facts = (
        ("spec.training.globalBatchSize", manifest.global_batch_size, spec.training.global_batch_size),
        ("spec.training.seed", manifest.seed, spec.training.seed),
        (f"spec.{spec.rows_block}.sources", manifest.data_digest or index.digest, index.digest),
        ("spec.model.uri", manifest.model_digest or model_digest, model_digest),
    )
    for field_name, saved, now in facts:
        if saved != now:
            raise WorkloadError(
                Reason.CONFIGURATION,
                f"{field_name}: differs from the checkpoint at step {manifest.step} (got {now}); allowed {saved}.",
                hint=(
                    "write what the run had whose checkpoint is taken over, or leave resume.from out"
                    if manifest.incarnation == ADOPTED
                    else "undo the change, or create a new job; a run's base model and order of samples never change."
                ),
            )
