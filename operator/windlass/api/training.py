"""Spec blocks about what is trained: model, data, adapter, optimisation, parallelism.

Shared by FineTuneJob and PretrainJob. Decimals are strings, so that no float rounds on its way
through JSON; sizes and counts are integers.
"""

from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import Model

DECIMAL = r"^(0|[1-9][0-9]{0,6})(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
URI = r"^(hf|pvc|mlflow)://[A-Za-z0-9][A-Za-z0-9._/@:-]*$"

Decimal = Annotated[str, Field(pattern=DECIMAL, max_length=32)]
Uri = Annotated[str, Field(pattern=URI, min_length=1, max_length=1024)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]


class SecretReference(Model):
    """A Secret of the job's own namespace, mounted read-only into the pods; the operator never reads it."""

    name: Name
    key: str = Field(default="token", min_length=1, max_length=253)


class ModelSource(Model):
    """Where the base model comes from."""

    uri: Uri
    secret_ref: SecretReference | None = None


class Columns(Model):
    """Names of columns, where they differ from the format's own."""

    messages: str | None = Field(default=None, max_length=128)
    instruction: str | None = Field(default=None, max_length=128)
    input: str | None = Field(default=None, max_length=128)
    output: str | None = Field(default=None, max_length=128)
    text: str | None = Field(default=None, max_length=128)


class DataSource(Model):
    """One file of samples (JSONL, Parquet or CSV, by its suffix)."""

    uri: Uri
    format: Literal["Chat", "Instruction", "Text"] = "Chat"
    weight: Decimal = "1"
    columns: Columns | None = None
    secret_ref: SecretReference | None = None


class Validation(Model):
    """Held-out samples: a fraction of the training data, or a file. Exactly one."""

    fraction: Decimal | None = None
    uri: Uri | None = None


class Data(Model):
    """Samples to train and validate on."""

    sources: Annotated[list[DataSource], Field(min_length=1, max_length=64)]
    validation: Validation | None = None
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    packing: bool = False
    loss_on: Literal["Completion", "All"] = "Completion"


class Adapter(Model):
    """A small set of trained weights beside the frozen base model (peft)."""

    type: Literal["LoRA", "IA3"] = "LoRA"
    rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    dropout: Decimal | None = None
    target_modules: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=128)]], Field(min_length=1, max_length=64)
    ] = ["all-linear"]


class Scheduler(Model):
    """Learning-rate schedule. `warmup` is a number of steps or a percentage of them."""

    type: Literal["Cosine", "Linear", "Constant"] = "Cosine"
    warmup: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$|^(100|[1-9]?[0-9])%$", max_length=16)] = "0"


class Optimizer(Model):
    """AdamW and its settings."""

    type: Literal["AdamW"] = "AdamW"
    weight_decay: Decimal = "0"
    beta1: Decimal = "0.9"
    beta2: Decimal = "0.999"
    epsilon: Decimal = "1e-8"


class Training(Model):
    """Optimisation. `globalBatchSize` is primary; accumulation follows from it and the world size."""

    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)]
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    learning_rate: Decimal = "2e-5"
    scheduler: Scheduler = Field(default_factory=Scheduler)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    precision: Literal["Auto", "BF16", "FP32"] = "Auto"
    gradient_clip: Decimal = "1.0"
    activation_checkpointing: bool = False
    validate_every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 17


class Parallelism(Model):
    """How the model and optimiser are spread over ranks."""

    strategy: Literal["DDP", "FSDP", "DeepSpeed"] = "DDP"
    zero_stage: Annotated[int, Field(ge=1, le=3)] | None = None
