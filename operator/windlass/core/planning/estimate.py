"""Adds to a plan what follows from the model's sizes: memory of a rank, bytes of a checkpoint, and doubts.

Called by preflight with the counted model, and by `windlass plan` with a config.json. Pure.
"""

from __future__ import annotations

from typing import Final

from windlass.api.jobs import TrainingJobSpec
from windlass.api.meta import FailureClass
from windlass.api.quantities import parse
from windlass.api.status import JobStatus, Plan, PlannedMemory
from windlass.core.planning.memory import RankMemory, rank_memory, state_bytes, workload_of
from windlass.core.planning.shape import ModelShape

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
WARNINGS: Final = 32
FAR: Final = 4
KILLED: Final = 9


def sized(
    plan: Plan, spec: TrainingJobSpec, shape: ModelShape, *, half: bool, longest: int | None = None
) -> Plan:
    """The plan with memory per rank, checkpoint bytes and what they make doubtful.

    `half`: it computes in bf16; `longest`: tokens of the longest row, where the data are known.
    """
    load = workload_of(spec, half=half, longest=longest)
    # What a part of a model takes depends on where it was cut, and is not counted.
    found = in_status(rank_memory(shape, load)) if spec.parallelism.copies == 1 else None
    said = [
        *plan.warnings,
        *(memory_warnings(spec, found) if found is not None else ()),
        *length_warnings(spec, longest),
        *interval_warnings(spec, plan.total_steps),
    ]
    return plan.model_copy(
        update={
            "parameters": plan.parameters or shape.parameters,
            "trainable_parameters": plan.trainable_parameters or shape.trained,
            "memory_per_rank": found,
            "checkpoint_bytes": state_bytes(shape, load),
            "warnings": list(dict.fromkeys(said))[:WARNINGS],
        }
    )


def in_status(found: RankMemory) -> PlannedMemory:
    """The prediction as status shows it."""
    return PlannedMemory(
        weights=found.weights,
        gradients=found.gradients,
        optimizer=found.optimizer,
        activations=found.activations,
        logits=found.logits,
        gathered=found.gathered,
        process=found.process,
        total=found.total,
        checkpoint_copy=found.checkpoint_copy,
    )


def host_bytes(spec: TrainingJobSpec, found: PlannedMemory) -> int:
    """Least memory of a pod: what its ranks add, without interpreters, libraries and the page cache."""
    beside = found.checkpoint_copy + (0 if spec.resources.accelerator.count else found.total)
    return spec.resources.ranks_per_node * beside


def memory_warnings(spec: TrainingJobSpec, found: PlannedMemory) -> list[str]:
    """A pod that cannot hold its ranks, with the fields that change it."""
    asked, needed = int(parse(spec.resources.per_node.memory)), host_bytes(spec, found)
    if needed <= asked:
        return []
    return [
        f"resources.perNode.memory: less than the ranks of a pod will need (got {spec.resources.per_node.memory}; "
        f"{spec.resources.ranks_per_node} ranks x {bytes_text(needed // spec.resources.ranks_per_node)} = "
        f"{bytes_text(needed)}). hint: {memory_advice(spec, found, in_pod=True)}"
    ]


def length_warnings(spec: TrainingJobSpec, longest: int | None) -> list[str]:
    """A row length that no sample comes near; it costs nothing, but plans for it are too large."""
    length = spec.sequence_length
    if longest is None or spec.is_packed or longest * FAR > length:
        return []
    return [
        f"data.sequenceLength: far above the longest sample (got {length}, {longest} tokens). "
        f"hint: set it to {longest}, or data.packing: true to fill rows with several samples"
    ]


def interval_warnings(spec: TrainingJobSpec, steps: int | None) -> list[str]:
    """Checkpoints further apart than a run of epochs is long; the plan from the spec judges training.maxSteps."""
    every = spec.checkpoint.every_steps
    if steps is None or spec.known_steps is not None or every <= steps:
        return []
    return [
        f"checkpoint.everySteps: more than the {steps} steps of training.epochs {spec.training.epochs} "
        f"(got {every}); a failure loses all work. hint: set it to {max(steps // 4, 1)} or less"
    ]


def memory_advice(spec: TrainingJobSpec, found: PlannedMemory, *, in_pod: bool | None = None) -> str:
    """What to change for less memory, what saves most first. `in_pod`: the pod's memory is short, not a device's."""
    on_device = spec.resources.accelerator.count > 0
    ways = [] if on_device and in_pod else savings(spec, found)
    texts = [f"{text} (about {bytes_text(saved)} less per rank)" for text, saved in ways]
    if in_pod or not on_device:
        texts.insert(0, f"set resources.perNode.memory above {bytes_text(host_bytes(spec, found))}")
    return "; or ".join(texts) or "use devices with more memory, or a smaller model"


def savings(spec: TrainingJobSpec, found: PlannedMemory) -> list[tuple[str, int]]:
    """Settings that can still be changed, with the bytes of a rank that they save, the most first."""
    rows, world = spec.training.micro_batch_size, spec.resources.nodes * spec.resources.ranks_per_node
    grows, kept = found.activations + found.logits, found.weights + found.gradients + found.optimizer
    ways = []
    if rows > 1:
        ways.append((f"training.microBatchSize: {rows // 2}", grows - grows * (rows // 2) // rows))
    if not spec.training.activation_checkpointing:
        ways.append(("training.activationCheckpointing: true", found.activations // 2))
    if spec.parallelism.strategy == "DDP" and world > 1:
        ways.append(("parallelism.strategy: FSDP", kept - kept // world))
    group = spec.parallelism.shard_group_size
    if group is not None and group < world:
        ways.append(("parallelism without shardGroupSize", kept - kept * group // world))
    return sorted((way for way in ways if way[1] > 0), key=lambda way: -way[1])


def with_memory_advice(status: JobStatus, spec: TrainingJobSpec) -> JobStatus:
    """The status with the plan's numbers in the hint of a failure that ran out of memory."""
    failure, planned = status.last_failure, status.plan.memory_per_rank
    if failure is None or planned is None or failure.failure_class != FailureClass.OUT_OF_MEMORY:
        return status
    on_device = spec.resources.accelerator.count > 0
    in_pod = not on_device or failure.signal == KILLED or failure.exit_code == 128 + KILLED
    place = f"resources.perNode.memory {spec.resources.per_node.memory}" if in_pod else "the device"
    needed = host_bytes(spec, planned) if in_pod else planned.total
    whose = "the ranks of a pod" if in_pod else "a rank"
    hint = (
        f"planned {bytes_text(needed)} for {whose}, of {place}: {memory_advice(spec, planned, in_pod=in_pod)}"
    )
    return status.model_copy(update={"last_failure": failure.model_copy(update={"hint": hint})})


def bytes_text(count: int) -> str:
    """Bytes for people, in powers of 1024."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {UNITS[unit]}" if unit == 0 else f"{amount:.1f} {UNITS[unit]}"
