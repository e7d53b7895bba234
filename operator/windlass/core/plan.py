"""What a run will do, as far as the spec alone says: world size, accumulation, steps.

The first status write and `windlass plan` call it; the first agent's preflight refines it with row counts
and shapes. Must never guess what only data or model can tell.
"""

from __future__ import annotations

import math

from windlass.api.jobs import TrainingJobSpec
from windlass.api.status import Plan

PACKED_NOTE = "packing changes the number of rows per data pass; steps are known after preflight"


def arithmetic_plan(spec: TrainingJobSpec, *, rows: int | None = None) -> Plan:
    """The plan from the spec. `rows` is the number of training rows, where known."""
    world = spec.resources.nodes * spec.resources.ranks_per_node
    if spec.custom is not None:
        # What its steps are, and how many, only the script knows; it may tell.
        return Plan(world_size=world, warnings=device_warnings(spec))
    rows_per_pass = world // spec.parallelism.copies * spec.training.micro_batch_size
    return Plan(
        total_steps=total_steps(spec, rows),
        world_size=world,
        accumulation=max(1, math.ceil(spec.training.global_batch_size / rows_per_pass)),
        train_samples=rows,
        warnings=warnings(spec),
    )


def total_steps(spec: TrainingJobSpec, rows: int | None) -> int | None:
    """Steps of the run, None while rows are needed and not known."""
    if spec.known_steps is not None:
        return spec.known_steps
    if rows is None or spec.is_packed:
        return None
    return math.ceil(rows * (spec.training.epochs or 1) / spec.training.global_batch_size)


def warnings(spec: TrainingJobSpec) -> list[str]:
    """What a careful reader of the spec would ask about."""
    found = []
    steps = spec.known_steps
    if steps is not None and spec.checkpoint.every_steps > steps:
        found.append(
            f"checkpoint.everySteps: more than the {steps} steps of {spec.length_field} "
            f"(got {spec.checkpoint.every_steps}); a failure loses all work"
        )
    if spec.is_packed and spec.known_steps is None:
        found.append(PACKED_NOTE)
    return [*found, *device_warnings(spec)]


def device_warnings(spec: TrainingJobSpec) -> list[str]:
    """Devices that no rank uses, or that ranks share."""
    found = []
    accelerators = spec.resources.accelerator.count
    if accelerators and accelerators != spec.resources.ranks_per_node:
        found.append(
            f"resources.accelerator.count: not one per rank (got {accelerators} for "
            f"{spec.resources.ranks_per_node} ranks)"
        )
    return found
