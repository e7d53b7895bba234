"""Spec blocks about what is trained: model, data, adapter, optimisation, parallelism.

Shared by FineTuneJob and PretrainJob. Decimals are strings, so that no float rounds on its way
through JSON; sizes and counts are integers. Texts below fields become the CRD's descriptions.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.rules import Between, Hint, Rule
from windlass.api.uris import URI as URI
from windlass.api.uris import Uri as Uri
from windlass.api.uris import no_registry

DECIMAL = r"^(0|[1-9][0-9]{0,6})(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
GANG_LIMIT = 32_768

Decimal = Annotated[
    str,
    Field(pattern=DECIMAL, min_length=1, max_length=32),
    Hint("write a plain or scientific decimal in quotes", allowed='a decimal such as "0.1" or "2e-5"'),
]
Name = Annotated[
    str,
    Field(pattern=NAME, min_length=1, max_length=63),
    Hint(
        "use the object's name as `kubectl get` shows it, without its namespace",
        allowed="lower-case letters, digits and '-', beginning and ending with a letter or digit",
    ),
]
Column = Annotated[str, Field(min_length=1, max_length=128)]
ModuleName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=128),
    Hint("name modules as the model does, for example q_proj", allowed="letters, digits and . _ -"),
]


class SecretReference(Model):
    """A Secret of the job's own namespace, mounted read-only into the pods; the operator never reads it."""

    name: Name
    """Name of the Secret. Example: hub-token."""
    key: str = Field(default="token", min_length=1, max_length=253)
    """Key within the Secret whose value is the credential. Example: token."""


class ModelSource(Model):
    """Where the base model comes from."""

    uri: Uri
    """Directory or repository with config, safetensors and tokenizer: pvc://claim/path,
    hf://organisation/name@revision or mlflow://models:/name@alias.
    Example: pvc://models/SmolLM2-135M-Instruct."""
    secret_ref: SecretReference | None = None
    """Credential for a private hub repository or registry; leave out for public ones.
    Example: {name: hub-token}."""


class Columns(Model):
    """Names of columns, where they differ from the format's own."""

    messages: Column | None = None
    """Column with the list of messages (format Chat); `messages` if left out. Example: conversation."""
    instruction: Column | None = None
    """Column with the instruction (format Instruction); `instruction` if left out. Example: question."""
    input: Column | None = None
    """Column with the optional input (format Instruction); `input` if left out. Example: context."""
    output: Column | None = None
    """Column with the wanted answer (format Instruction); `output` if left out. Example: answer."""
    text: Column | None = None
    """Column with the text (format Text); `text` if left out. Example: body."""


class DataSource(Model):
    """One file of samples (JSONL, Parquet or CSV, by its suffix)."""

    rules: ClassVar[tuple[Rule, ...]] = (no_registry("uri"),)

    uri: Uri
    """File with one sample per row. Example: pvc://data/sft/train.jsonl."""
    format: Literal["Chat", "Instruction", "Text"] = "Chat"
    """How a row is read: Chat (messages with role and content), Instruction (instruction, input, output)
    or Text (text). Example: Instruction."""
    weight: Annotated[
        Decimal,
        Between(
            above="0", at_most="1000", hint="use 1 for every source, or remove a source that is not wanted"
        ),
    ] = "1"
    """How many of its rows are used, relative to the other sources: the source of the largest weight gives
    every row once in each pass, one of half that weight about half of its rows, the same in each pass. The plan
    warns how many are left out. Example: "0.5"."""
    columns: Columns | None = None
    """Column names, where they differ from the format's own.
    Example: {instruction: question, output: answer}."""
    secret_ref: SecretReference | None = None
    """Credential for a private hub repository; leave out for volumes. Example: {name: hub-token}."""


class Validation(Model):
    """Held-out samples: a fraction of the training data, or a file. Exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.fraction) != has(self.uri)",
            holds=lambda value, _: ("fraction" in value) != ("uri" in value),
            wrong="exactly one of fraction and uri must be set",
            got="fraction={self.fraction}, uri={self.uri}",
            allowed="fraction, or uri",
            hint="remove one of them, or remove the validation block to train without validation",
        ),
        no_registry("uri"),
    )

    fraction: (
        Annotated[Decimal, Between(above="0", at_most="0.5", hint="hold out a twentieth with 0.05")] | None
    ) = None
    """Share of the training samples held out, above 0 and at most 0.5. Example: "0.05"."""
    uri: Uri | None = None
    """File of validation samples in the format of the first source. Example: pvc://data/sft/held-out.jsonl."""


class Data(Model):
    """Samples to train and validate on."""

    sources: Annotated[list[DataSource], Field(min_length=1, max_length=64)]
    """Files of samples; their rows are mixed by weight. Example: [{uri: pvc://data/sft/train.jsonl}]."""
    validation: Validation | None = None
    """Held-out samples; leave out to train without validation. Example: {fraction: "0.05"}."""
    sequence_length: Annotated[
        int,
        Field(ge=8, le=1_048_576),
        Hint("use a length the model supports (max_position_embeddings in its config.json)"),
    ] = 1024
    """Tokens per row; longer samples are cut at their end, and the plan says how many. Unit: tokens.
    Example: 512."""
    packing: bool = False
    """Put several samples into one row, isolated from each other, instead of padding. Example: true."""
    loss_on: Literal["Completion", "All"] = "Completion"
    """Which tokens count in the loss: those of the answers (Completion), or all. Example: All."""


def _lora_only(name: str) -> Rule:
    return Rule(
        cel=f"self.type == 'LoRA' || !has(self.{name})",
        holds=lambda value, _: value["type"] == "LoRA" or name not in value,
        wrong=f"{name} is for LoRA only",
        got=f"{name}={{self.{name}}} with type {{self.type}}",
        allowed=f"{name} with type LoRA",
        hint=f"remove {name}, or set type: LoRA",
        path=name,
    )


LORA_RANK: Final = 16
"""Rank of LoRA's matrices where none is given."""


class Adapter(Model):
    """A small set of trained weights beside the frozen base model (peft)."""

    rules: ClassVar[tuple[Rule, ...]] = (_lora_only("rank"), _lora_only("alpha"), _lora_only("dropout"))

    type: Literal["LoRA", "IA3"] = "LoRA"
    """Kind of adapter. Example: LoRA."""
    rank: (
        Annotated[int, Field(ge=1, le=1024), Hint("8 to 64 is usual; leave adapter out for full fine-tuning")]
        | None
    ) = None
    """Rank of LoRA's matrices; 16 if left out. Only with type LoRA. Example: 16."""
    alpha: Annotated[int, Field(ge=1, le=4096), Hint("twice the rank is usual")] | None = None
    """LoRA's scale; the update is multiplied by alpha / rank. Twice the rank if left out. Example: 32."""
    dropout: Annotated[Decimal, Between(at_least="0", below="1", hint="0 to 0.1 is usual")] | None = None
    """Dropout before LoRA's matrices, from 0 to below 1; 0 if left out. Example: "0.05"."""
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] = ["all-linear"]
    """Modules that get an adapter; all-linear means every linear layer but the head.
    Example: [q_proj, v_proj]."""


StepsOrShare = Annotated[
    str,
    Field(pattern=r"^(0|[1-9][0-9]{0,8})$|^(100|[1-9]?[0-9])%$", min_length=1, max_length=16),
    Hint(
        'write "100" for steps or "3%" for a share of all steps',
        allowed="steps, or a percentage up to 100%",
    ),
]


class Scheduler(Model):
    """Learning-rate schedule. `warmup` and `decay` are numbers of steps or percentages of all."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.type == 'WSD' || !has(self.decay)",
            holds=lambda value, _: value["type"] == "WSD" or "decay" not in value,
            wrong="decay is for WSD only",
            got="decay={self.decay} with type {self.type}",
            allowed="decay with type WSD",
            hint="remove decay, or set type: WSD",
            path="decay",
        ),
    )

    type: Literal["Cosine", "Linear", "Constant", "WSD"] = "Cosine"
    """Shape after the warm-up: Cosine and Linear fall to zero over all steps, Constant stays, WSD (warm-up, stable,
    decay) stays and falls linearly over the last steps. Example: Linear."""
    warmup: StepsOrShare = "0"
    """Warm-up from zero: a number of steps, or a percentage of all steps. Example: "3%"."""
    decay: StepsOrShare | None = None
    """The last steps, over which WSD falls to zero: a number, or a percentage of all steps; 10% if left out.
    Only with type WSD. Example: "20%"."""


class Optimizer(Model):
    """AdamW and its settings."""

    type: Literal["AdamW"] = "AdamW"
    """Optimiser. Example: AdamW."""
    weight_decay: Annotated[Decimal, Between(at_least="0", at_most="1", hint="0 to 0.1 is usual")] = "0"
    """Decoupled weight decay, 0 to 1. Example: "0.01"."""
    beta1: Annotated[Decimal, Between(at_least="0", below="1", hint="0.9 is usual")] = "0.9"
    """Decay of the first moment, from 0 to below 1. Example: "0.9"."""
    beta2: Annotated[Decimal, Between(at_least="0", below="1", hint="0.95 to 0.999 is usual")] = "0.999"
    """Decay of the second moment, from 0 to below 1. Example: "0.95"."""
    epsilon: Annotated[Decimal, Between(above="0", at_most="0.1", hint="1e-8 is usual")] = "1e-8"
    """Added to the denominator, above 0 and at most 0.1. Example: "1e-8"."""


def _warmup_fits(value: Any, _: Any) -> bool:
    warmup = value["scheduler"]["warmup"]
    return "maxSteps" not in value or not warmup.isdigit() or int(warmup) <= value["maxSteps"]


class Training(Model):
    """Optimisation. `globalBatchSize` is primary; accumulation follows from it and the world size.

    Kinds add the rule which of the fields that say how long to train must be set.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                "!has(self.maxSteps) || !self.scheduler.warmup.matches('^[0-9]{1,9}$') || "
                "int(self.scheduler.warmup) <= self.maxSteps"
            ),
            holds=_warmup_fits,
            wrong="warm-up is longer than the training",
            got="{self.scheduler.warmup} steps of {self.maxSteps}",
            allowed="at most maxSteps",
            hint='write a percentage, such as "3%"',
            path="scheduler.warmup",
        ),
    )

    global_batch_size: Annotated[
        int,
        Field(ge=1, le=1_048_576),
        Hint("use a multiple of nodes x ranksPerNode x microBatchSize, for example 16"),
    ]
    """Rows per optimiser step over all ranks; a multiple of nodes x ranksPerNode x microBatchSize.
    Unit: rows. Example: 16."""
    micro_batch_size: Annotated[
        int, Field(ge=1, le=65_536), Hint("begin with 1 and double it while memory lasts")
    ] = 1
    """Rows that one rank computes at once; gradients are accumulated up to the global batch. Unit: rows.
    Example: 4."""
    epochs: Annotated[int, Field(ge=1, le=10_000), Hint("1 to 3 is usual for fine-tuning")] | None = None
    """Passes over the data. Exactly one of epochs and maxSteps. Example: 2."""
    max_steps: (
        Annotated[int, Field(ge=1, le=100_000_000), Hint("set spec.suspend: true to pause a run")] | None
    ) = None
    """Optimiser steps. Exactly one of epochs and maxSteps. Example: 500."""
    learning_rate: Annotated[
        Decimal,
        Between(above="0", at_most="1", hint='"2e-5" is usual for full fine-tuning, "2e-4" for LoRA'),
    ] = "2e-5"
    """Highest learning rate, above 0 and at most 1. Example: "2e-4"."""
    scheduler: Scheduler = Field(default_factory=Scheduler)
    """How the learning rate changes over the steps. Example: {type: Cosine, warmup: "3%"}."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """Optimiser and its settings. Example: {weightDecay: "0.01"}."""
    precision: Literal["Auto", "BF16", "FP32"] = "Auto"
    """Numbers used in the forward and backward pass; Auto takes BF16 where the hardware is fast at it, and
    the condition PrecisionChosen says which and why. Example: FP32."""
    gradient_clip: Annotated[
        Decimal, Between(above="0", at_most="1000000", hint="1.0 is usual; a very large value never clips")
    ] = "1.0"
    """Largest norm of the gradient; larger ones are scaled down. Example: "0.5"."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time. Example: true."""
    validate_every_steps: (
        Annotated[int, Field(ge=1, le=1_000_000), Hint("leave it out to validate at the end only")] | None
    ) = None
    """Optimiser steps between validations; at the end only if left out. Unit: steps. Example: 100."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647), Hint("any number in that range will do")] = 17
    """Seed of data order, dropout and initialisation; the same seed gives the same run. Example: 17."""


class Parallelism(Model):
    """How the model and optimiser are spread over ranks."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.strategy == 'DeepSpeed') == has(self.zeroStage)",
            holds=lambda value, _: (value["strategy"] == "DeepSpeed") == ("zeroStage" in value),
            wrong="zeroStage and strategy do not fit",
            got="strategy={self.strategy}, zeroStage={self.zeroStage}",
            allowed="zeroStage 1, 2 or 3 with strategy DeepSpeed, and no zeroStage with DDP or FSDP",
            hint="choose one strategy: add zeroStage for DeepSpeed, or remove it",
            path="zeroStage",
        ),
        Rule(
            cel="self.strategy == 'FSDP' || !has(self.shardGroupSize)",
            holds=lambda value, _: value["strategy"] == "FSDP" or "shardGroupSize" not in value,
            wrong="shardGroupSize is for FSDP only",
            got="shardGroupSize={self.shardGroupSize} with strategy {self.strategy}",
            allowed="shardGroupSize with strategy FSDP",
            hint="remove shardGroupSize, or set strategy: FSDP",
            path="shardGroupSize",
        ),
        Rule(
            cel=(
                "(!has(self.tensor) && !has(self.pipeline)) || "
                "(self.strategy == 'FSDP' && !has(self.shardGroupSize))"
            ),
            holds=lambda value, _: (
                ("tensor" not in value and "pipeline" not in value)
                or (value["strategy"] == "FSDP" and "shardGroupSize" not in value)
            ),
            wrong="tensor and pipeline go with FSDP over all ranks only",
            got=(
                "tensor={self.tensor}, pipeline={self.pipeline} with strategy {self.strategy}, "
                "shardGroupSize={self.shardGroupSize}"
            ),
            allowed="tensor and pipeline with strategy FSDP and without shardGroupSize",
            hint="remove them, or set strategy: FSDP and remove shardGroupSize",
            path="strategy",
        ),
    )

    strategy: Literal["DDP", "FSDP", "DeepSpeed"] = "DDP"
    """DDP copies the model to every rank; FSDP and DeepSpeed split it. Example: FSDP."""
    zero_stage: (
        Annotated[int, Field(ge=1, le=3), Hint("use strategy DDP for what is elsewhere stage 0")] | None
    ) = None
    """What DeepSpeed splits: 1 optimiser, 2 and gradients, 3 and parameters. Required with, and only with,
    strategy DeepSpeed. Example: 2."""
    shard_group_size: (
        Annotated[
            int,
            Field(ge=2, le=GANG_LIMIT),
            Hint("use ranksPerNode, so that weights are gathered within a node; DDP is what 1 would be"),
        ]
        | None
    ) = None
    """Ranks that split one copy of the model among them; each group of so many holds a whole copy, and gradients
    are summed over all (hybrid sharding, HSDP). Groups are of neighbouring ranks. Must divide nodes x ranksPerNode;
    all ranks are one group if left out. Only with strategy FSDP. Unit: ranks. Example: 8."""
    tensor: (
        Annotated[
            int, Field(ge=2, le=64), Hint("at most ranksPerNode: the ranks talk to each other in every layer")
        ]
        | None
    ) = None
    """Neighbouring ranks that cut the matrices of each layer among them and work on the same rows (tensor
    parallelism). Must divide nodes x ranksPerNode and the model's attention heads. Only with strategy FSDP.
    Unit: ranks. Example: 8."""

    pipeline: (
        Annotated[
            int, Field(ge=2, le=64), Hint("stages of some layers each; micro-batches keep them busy in turn")
        ]
        | None
    ) = None
    """Stages into which the layers are cut, each on neighbouring ranks; micro-batches pass through them (1F1B). With
    tensor, each stage is on so many ranks. pipeline x tensor must divide nodes x ranksPerNode. Only with strategy
    FSDP, and with rows of one length: in a PretrainJob. Unit: stages. Example: 4."""

    @property
    def copies(self) -> int:
        """Ranks that work on the same rows together."""
        return (self.tensor or 1) * (self.pipeline or 1)
