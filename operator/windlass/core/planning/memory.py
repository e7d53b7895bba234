"""Peak memory of one rank by arithmetic: what it holds, and for how long.

The first agent's preflight and `windlass plan` call `rank_memory`; docs/concepts/plan-and-cost.md derives the
terms and gives their measured error. Bytes are those a rank adds to the warm parent it is forked from. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from windlass.api.jobs import TrainingJobSpec
from windlass.core.planning.shape import ModelShape

WHOLE: Final = 4
HALF: Final = 2
MOMENTS: Final = 2 * WHOLE
# fp32 copies of the logits at the peak, by autograd: log-probabilities, their gradient, and that of the logits.
LOSS_BYTES: Final = 3 * WHOLE
# What a process grows by when it trains for the first time, whatever the model: pages of libraries and objects of
# Python. 30 to 40 MB were measured beside tensors; on an accelerator it is no part of the device's memory.
PROCESS: Final = 32 * 1024**2
# Stage 3 hooks into every module and keeps threads: 59 MB more with full fine-tuning, 77 with LoRA.
STAGE_3_PROCESS: Final = 64 * 1024**2
# DeepSpeed's defaults, in elements; strategies/deepspeed.py leaves them alone.
# reduce_bucket_size: gradients are laid end to end in a buffer of this size, and sent when it is full.
BUCKET: Final = 500_000_000
# stage3_max_live_parameters and stage3_max_reuse_distance: weights this near to their next use stay gathered.
LIVE: Final = 1_000_000_000
# Copies of a full bucket while stage 3 sends it: its pieces in the order of ranks, and on a host those of gloo.
SENT_COPIES: Final = 1
GLOO_COPIES: Final = 1

Sharing = Literal["DDP", "FSDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
STAGES: Final[tuple[Sharing, ...]] = ("ZeRO-1", "ZeRO-2", "ZeRO-3")


@dataclass(frozen=True, slots=True)
class Workload:
    """What decides a rank's memory besides the model. Rows and tokens are those of one micro-batch."""

    sharing: Sharing
    world: int
    rows: int
    tokens_per_row: int
    accumulation: int
    half: bool
    recomputed: bool
    adapter: Literal["LoRA", "IA3"] | None = None
    copies_state: bool = True
    shard_group: int | None = None
    on_device: bool = False
    """Whether it computes on an accelerator, with memory of its own."""

    @property
    def shards(self) -> int:
        """Parts that FSDP cuts the model into."""
        return self.shard_group or self.world

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch at its longest."""
        return self.rows * self.tokens_per_row


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of one rank, by what they hold."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    gathered: int
    process: int
    checkpoint_copy: int

    @property
    def total(self) -> int:
        """The peak: in the backward pass everything is there at once. A copy on the host is counted apart."""
        held = self.weights + self.gradients + self.optimizer + self.process
        return held + self.activations + self.logits + self.gathered


def workload_of(spec: TrainingJobSpec, *, half: bool, longest: int | None = None) -> Workload:
    """The workload of a spec. `half`: it computes in bf16; `longest`: tokens of the longest row, where known."""
    world = spec.resources.nodes * spec.resources.ranks_per_node
    rows = spec.training.micro_batch_size
    stage = spec.parallelism.zero_stage
    sharing: Sharing = "DDP"
    if spec.parallelism.strategy == "FSDP":
        sharing = "FSDP"
    elif stage is not None:
        sharing = STAGES[stage - 1]
    return Workload(
        sharing=sharing,
        world=world,
        rows=rows,
        tokens_per_row=min(longest or spec.sequence_length, spec.sequence_length),
        accumulation=max(1, -(-spec.training.global_batch_size // (world // spec.parallelism.copies * rows))),
        half=half,
        recomputed=spec.training.activation_checkpointing,
        adapter=spec.adapter.type if spec.adapter is not None else None,
        copies_state=spec.checkpoint.asynchronous,
        shard_group=spec.parallelism.shard_group_size,
        on_device=spec.resources.accelerator.count > 0,
    )


def rank_memory(shape: ModelShape, load: Workload) -> RankMemory:
    """Peak bytes of one rank in a step after the first."""
    return RankMemory(
        weights=weight_bytes(shape, load),
        gradients=gradient_bytes(shape, load),
        optimizer=optimizer_bytes(shape, load),
        activations=activation_bytes(shape, load),
        logits=logit_bytes(shape, load),
        gathered=gathered_bytes(shape, load),
        process=process_bytes(load),
        checkpoint_copy=copy_bytes(shape, load),
    )


def process_bytes(load: Workload) -> int:
    """What is neither tensor nor warm parent; in the pod's memory, so no part of an accelerator's."""
    if load.on_device:
        return 0
    return PROCESS + (STAGE_3_PROCESS if load.sharing == "ZeRO-3" else 0)


def weight_bytes(shape: ModelShape, load: Workload) -> int:
    """Weights at rest. DDP halves frozen ones in bf16, DeepSpeed all of them, FSDP none."""
    frozen = shape.parameters - shape.trained
    if load.sharing == "DDP":
        return WHOLE * shape.trained + (HALF if load.half else WHOLE) * frozen
    if load.sharing == "FSDP":
        return _share(WHOLE * shape.parameters, load.shards)
    size = (HALF if load.half else WHOLE) * shape.parameters
    return _share(size, load.world) if load.sharing == "ZeRO-3" else size


def gradient_bytes(shape: ModelShape, load: Workload) -> int:
    """Gradients at rest: whole, or a share of them where the strategy splits them."""
    if load.sharing in ("DDP", "FSDP"):
        whole = WHOLE * shape.trained
        return whole if load.sharing == "DDP" else _share(whole, load.shards)
    whole = (HALF if load.half else WHOLE) * shape.trained
    return whole if load.sharing == "ZeRO-1" else _share(whole, load.world)


def optimizer_bytes(shape: ModelShape, load: Workload) -> int:
    """AdamW's two moments in fp32; DeepSpeed keeps a copy of the trained weights in fp32 beside them."""
    if load.sharing == "DDP":
        return MOMENTS * shape.trained
    if load.sharing == "FSDP":
        return _share(MOMENTS * shape.trained, load.shards)
    return _share((MOMENTS + WHOLE) * shape.trained, load.world)


def gathered_bytes(shape: ModelShape, load: Workload) -> int:
    """What is whole for a while: gathered layers, casts of weights, gradients on their way."""
    size = HALF if load.half else WHOLE
    part = shape.trained / shape.parameters if shape.parameters else 0.0
    if load.sharing == "DDP":
        return HALF * shape.trained if load.half else 0
    if load.sharing == "FSDP":
        table, layer = shape.table_parameters, shape.layer_parameters
        # The table is there twice for a while, in the buffer of the gathering and as weights: fitted as well.
        weights = size * 2 * (table + layer)
        if load.accumulation > 1:
            return weights + WHOLE * shape.trained
        return weights + int(part * size * (table + layer))
    # torch gives an accelerator's memory away as it is asked for; of a host's, only what is written to is taken.
    bucket = size * (BUCKET if load.on_device else min(shape.trained, BUCKET))
    if load.sharing == "ZeRO-3":
        return size * min(shape.parameters, LIVE) + bucket + sending_bytes(shape, load)
    return bucket


def sending_bytes(shape: ModelShape, load: Workload) -> int:
    """What stage 3 takes at the end of the backward pass, to send a bucket, beyond what is free again by then.

    The logits are. The activations are on an accelerator; on a host the C library keeps their small blocks.
    """
    size = HALF if load.half else WHOLE
    copies = SENT_COPIES + (0 if load.on_device else GLOO_COPIES)
    sent = copies * size * min(shape.trained, BUCKET)
    free = logit_bytes(shape, load) + (activation_bytes(shape, load) if load.on_device else 0)
    return max(sent - free, 0)


def logit_bytes(shape: ModelShape, load: Workload) -> int:
    """Log-probabilities over the vocabulary, and the gradients that the backward pass begins with."""
    return load.tokens * shape.vocabulary * LOSS_BYTES


def activation_bytes(shape: ModelShape, load: Workload) -> int:
    """What the forward pass keeps for the backward pass."""
    layer = load.tokens * token_bytes(shape, load)
    if load.recomputed:
        return load.tokens * shape.hidden * WHOLE * shape.layers + layer
    return shape.layers * layer


def token_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes that one token leaves in one layer, in the eager kernels of transformers.

    Norms run in fp32: each keeps its input and its output, and before the scale too where that is trained.
    Attention keeps queries, keys, values and its output twice; the feed-forward block keeps four of its width.
    """
    size = HALF if load.half else WHOLE
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = 2 * shape.hidden * (WHOLE + size)
    if load.adapter is None:
        norms += 2 * shape.hidden * WHOLE
    products = 3 * queries + 2 * keys + 4 * shape.intermediate
    if load.adapter == "IA3":
        products += queries + 2 * keys + 3 * shape.intermediate + shape.hidden
    return norms + size * products


def copy_bytes(shape: ModelShape, load: Workload) -> int:
    """The copy that a save writes from, on the host: DDP lays its state end to end for every save."""
    if load.sharing == "DDP":
        return state_bytes(shape, load)
    if load.sharing == "FSDP" and load.copies_state:
        return _share(state_bytes(shape, load), load.shards)
    return 0


def state_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes of one checkpoint: trained weights (all of them without an adapter) and two moments in fp32."""
    if load.sharing in ("DDP", "FSDP"):
        return (WHOLE + MOMENTS) * shape.trained
    return (HALF if load.half else 0) * shape.trained + (2 * WHOLE + MOMENTS) * shape.trained


def _share(size: int, world: int) -> int:
    return -(-size // world)
