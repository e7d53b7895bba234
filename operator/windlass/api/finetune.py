"""FineTuneJob: the spec that people write and the status they read.

The CRD in crds/ is generated from these models (see crdgen). What it shares with other kinds that train is in `jobs`;
only what is special to FineTuneJob is here.
"""

from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.custom import CUSTOM_RULES, Custom
from windlass.api.jobs import Input, TrainingJobSpec, given
from windlass.api.rules import Rule, immutable
from windlass.api.running import Checkpointing
from windlass.api.training import Adapter, Data, ModelSource, Training


class Method(Model):
    """What is optimised."""

    objective: Literal["SupervisedFineTuning"] = Field(
        default="SupervisedFineTuning", description="Training objective. Example: SupervisedFineTuning."
    )


def _whole_layers(value: Any, _: Any) -> bool:
    return "adapter" not in value or "tensor" not in value["parallelism"]


def _one_length(value: Any, _: Any) -> bool:
    return "pipeline" not in value["parallelism"]


def _has_validation(value: Any, _: Any) -> bool:
    asked = "validateEverySteps" in value.get("training", {})
    return not asked or "data" not in value or "validation" in value["data"]


def _merge_has_adapter(value: Any, _: Any) -> bool:
    return not value["checkpoint"]["mergeAdapter"] or value.get("adapter", {}).get("type") == "LoRA"


CROSS_RULES: Final = (
    Rule(
        cel=(
            "!has(self.training) || !has(self.training.validateEverySteps) || !has(self.data) || "
            "has(self.data.validation)"
        ),
        holds=_has_validation,
        wrong="there are no validation samples",
        got="validateEverySteps={self.training.validateEverySteps} without data.validation",
        allowed="validateEverySteps with data.validation",
        hint='add data.validation with fraction: "0.05", or remove validateEverySteps',
        path="training.validateEverySteps",
    ),
    Rule(
        cel="!has(self.parallelism.pipeline)",
        holds=_one_length,
        wrong="stages pass rows of one length to each other, and samples have their own",
        got="{self.parallelism.pipeline}",
        allowed="pipeline in a PretrainJob",
        hint="remove pipeline; FSDP shards a model of any size",
        path="parallelism.pipeline",
    ),
    Rule(
        cel="!has(self.adapter) || !has(self.parallelism.tensor)",
        holds=_whole_layers,
        wrong="an adapter's layers cannot be cut over ranks",
        got="{self.parallelism.tensor} with adapter.type {self.adapter.type}",
        allowed="tensor without adapter",
        hint="remove tensor; FSDP alone shards the frozen model",
        path="parallelism.tensor",
    ),
    Rule(
        cel="!self.checkpoint.mergeAdapter || (has(self.adapter) && self.adapter.type == 'LoRA')",
        holds=_merge_has_adapter,
        wrong="there is no LoRA adapter to merge",
        got="mergeAdapter=true",
        allowed="mergeAdapter with adapter type LoRA",
        hint="add an adapter of type LoRA, or remove mergeAdapter",
        path="checkpoint.mergeAdapter",
    ),
)

FROZEN: Final = (
    immutable("model", shown="model.uri"),
    immutable("data"),
    immutable("method"),
    immutable("adapter"),
    immutable("custom"),
)


class AdapterCheckpointing(Checkpointing):
    """Where checkpoints go (`pvc://claim` or `pvc://claim/path`) and how many stay."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.mergeAdapter || self.export == 'HuggingFace'",
            holds=lambda value, _: not value["mergeAdapter"] or value["export"] == "HuggingFace",
            wrong="mergeAdapter needs an export",
            got="mergeAdapter=true with export={self.export}",
            allowed="mergeAdapter with export HuggingFace",
            hint="set export: HuggingFace, or remove mergeAdapter",
            path="mergeAdapter",
        ),
    )

    merge_adapter: bool = False
    """Also write the base model with the adapter merged in. Only with an adapter of type LoRA.
    Example: true."""


class FineTuneTraining(Training):
    """Optimisation. `globalBatchSize` is primary; accumulation follows from it and the world size."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.epochs) != has(self.maxSteps)",
            holds=lambda value, _: ("epochs" in value) != ("maxSteps" in value),
            wrong="exactly one of epochs and maxSteps must be set",
            got="epochs={self.epochs}, maxSteps={self.maxSteps}",
            allowed="epochs, or maxSteps",
            hint="write epochs: 1 for one pass over the data, or maxSteps for a number of steps",
        ),
        *Training.rules,
    )


class FineTuning(Model):
    """What only a FineTuneJob has, before the blocks that it shares."""

    # What only a job without a command of its own has; the properties below are for code that runs in such a job.
    model_block: ModelSource | None = Field(default=None, alias="model")
    """Model to start from. Required without custom. Cannot change after creation. Example: {uri: pvc://models/SmolLM2-135M-Instruct}."""
    data_block: Data | None = Field(default=None, alias="data")
    """Training and validation data. Required without custom. Cannot change after creation.
    Example: {sources: [{uri: pvc://data/sft/train.jsonl}]}."""
    method: Method = Field(default_factory=Method)
    """What is optimised. Cannot change after creation. Example: {objective: SupervisedFineTuning}."""
    adapter_block: Adapter | None = Field(default=None, alias="adapter")
    """Adapter to train; leave out for full fine-tuning. Cannot change after creation.
    Example: {type: LoRA, rank: 16}."""
    custom_block: Custom | None = Field(default=None, alias="custom")
    """A script of your own, run as torchrun runs it, in place of model, data, training, adapter and tracking; method
    and checkpoint.export mean nothing to it. Cannot change after creation.
    Example: {command: [python, /scripts/train.py]}."""


class FineTuneJobSpec(TrainingJobSpec, FineTuning):
    """Desired state of a FineTuneJob."""

    rules: ClassVar[tuple[Rule, ...]] = (*CUSTOM_RULES, *CROSS_RULES, *TrainingJobSpec.rules, *FROZEN)

    training_block: FineTuneTraining | None = Field(default=None, alias="training")
    """Optimisation settings. Required without custom. Cannot change after creation.
    Example: {globalBatchSize: 16, epochs: 2}."""
    checkpoint: AdapterCheckpointing
    """Where and how often checkpoints are written; store cannot change after creation.
    Example: {store: pvc://checkpoints, everySteps: 20}."""

    @property
    def custom(self) -> Custom | None:
        """A command in place of model, data and training."""
        return self.custom_block

    @property
    def adapter(self) -> Adapter | None:
        """The adapter to train; None for full fine-tuning."""
        return self.adapter_block

    @property
    def merges_adapter(self) -> bool:
        """Whether a model with the adapter merged in is wanted too."""
        return self.checkpoint.merge_adapter

    @property
    def image(self) -> str | None:
        """The image that the job asks for, by either of its fields; None for the operator's own choice."""
        return (self.custom.image if self.custom is not None else None) or self.pod.image

    @property
    def units_per_step(self) -> int:
        """Positions in the order of the data that a step takes: samples, or the one batch of a command's step."""
        return 1 if self.custom is not None else self.training.global_batch_size

    @property
    def objective(self) -> str:
        """What is optimised."""
        return self.method.objective

    @property
    def model(self) -> ModelSource:
        """The model to start from; ValueError in a job with a command of its own."""
        return given(self.model_block, "model")

    @property
    def start(self) -> ModelSource:
        """The model to start from."""
        return self.model

    @property
    def origin(self) -> str:
        """The base model."""
        return self.model.uri

    @property
    def data(self) -> Data:
        """The data; ValueError in a job with a command of its own."""
        return given(self.data_block, "data")

    @property
    def sequence_length(self) -> int:
        """Tokens to which samples are cut."""
        return self.data.sequence_length

    @property
    def rows_block(self) -> str:
        """The block of samples."""
        return "data"

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several samples."""
        return self.data.packing

    @property
    def facts(self) -> dict[str, object]:
        """How samples become rows, and what is learned of them."""
        return {"packing": self.data.packing, "loss_on": self.data.loss_on}

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Model and data; none in a job with a command of its own."""
        if self.custom is not None:
            return ()
        found = [Input(self.model.uri, "spec.model.uri", self.model.secret_ref)]
        found += [
            Input(source.uri, f"spec.data.sources[{place}].uri", source.secret_ref)
            for place, source in enumerate(self.data.sources)
        ]
        held_out = self.data.validation
        if held_out is not None and held_out.uri is not None:
            found.append(Input(held_out.uri, "spec.data.validation.uri", self.data.sources[0].secret_ref))
        return tuple(found)
