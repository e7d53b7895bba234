"""What a run will do, as numbers for status.plan: made by prepare, and again by rank 0 when training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windlass.api.contract import RunConfig
from windlass.api.jobs import TrainingJobSpec
from windlass.api.status import Plan
from windlass.core.planning.estimate import sized
from windlass.core.planning.shape import widths
from windlass_workloads.data.arrays import Index, Split
from windlass_workloads.data.order import total_steps
from windlass_workloads.train.precision import Choice

WARNINGS = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """Arithmetic of the batches."""

    total_steps: int
    world_size: int
    accumulation: int


def shape_of(config: RunConfig, index: Index, world_size: int) -> Shape:
    """Steps from the spec or from epochs, accumulation from the global batch; the last micro-batches may be empty."""
    training = config.spec.training
    micro_batches = -(-training.global_batch_size // training.micro_batch_size)
    return Shape(
        total_steps=total_steps(
            index.train_units,
            global_batch_size=training.global_batch_size,
            epochs=training.epochs,
            max_steps=config.spec.known_steps,
        ),
        world_size=world_size,
        accumulation=-(-micro_batches // (world_size // config.spec.parallelism.copies)),
    )


def make_plan(
    shape: Shape,
    index: Index,
    choice: Choice,
    *,
    parameters: int,
    trained: int,
    warnings: tuple[str, ...] = (),
) -> Plan:
    """The plan for status."""
    said = [*index.warnings, *warnings]
    if choice.warning:
        said.append(choice.warning)
    return Plan(
        total_steps=shape.total_steps,
        world_size=shape.world_size,
        accumulation=shape.accumulation,
        train_samples=index.train_samples,
        validation_samples=index.validation_samples,
        train_tokens=index.train_tokens,
        dropped_samples=index.dropped_samples,
        parameters=parameters,
        trainable_parameters=trained,
        precision=choice.precision,
        precision_reason=choice.reason,
        data_digest=index.digest,
        warnings=said[:WARNINGS],
    )


def with_sizes(plan: Plan, spec: TrainingJobSpec, config: Mapping[str, Any], train: Split) -> Plan:
    """The plan with memory and checkpoint bytes, by the counted parameters, the model's config.json and its rows."""
    shape = widths(config, parameters=plan.parameters or 0, trained=plan.trainable_parameters or 0)
    if shape is None:
        return plan
    longest = int(train.unit_lengths.max()) if len(train) else None
    return sized(plan, spec, shape, half=plan.precision == "BF16", longest=longest)
