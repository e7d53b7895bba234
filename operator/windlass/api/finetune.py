"""FineTuneJob: the spec that people write and the status they read.

The CRD in crds/ is generated from these models (see crdgen). Shared blocks live in `training` and
`running`; only what is special to FineTuneJob, and rules across blocks, are here.
"""

from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import Field

from windlass.api.base import Model
from windlass.api.custom import CUSTOM_RULES, Custom
from windlass.api.guards import GUARD_RULES, Guards
from windlass.api.resuming import RESUME_RULES, Resume
from windlass.api.rules import Computed, Hint, Rule, immutable, matches, quote
from windlass.api.running import (
    Checkpointing,
    PodOverrides,
    Recovery,
    Resources,
    Scheduling,
    Tracking,
)
from windlass.api.status import JobStatus
from windlass.api.training import Adapter, Data, ModelSource, Parallelism, Training

DNS_LABEL: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LIMIT: Final = 40
Block = TypeVar("Block", bound=Model)

ROOT_RULES: Final = (
    Rule(
        cel=f"size(self.metadata.name) <= {NAME_LIMIT}",
        holds=lambda value, _: len(value["metadata"]["name"]) <= NAME_LIMIT,
        wrong="is too long for the names of its pods",
        got="{self.metadata.name}, {length} characters",
        allowed=f"up to {NAME_LIMIT} characters",
        hint="choose a shorter name",
        computed={
            "length": Computed(
                "string(size(self.metadata.name))", lambda value: str(len(value["metadata"]["name"]))
            )
        },
        path="metadata.name",
    ),
    Rule(
        cel=f"self.metadata.name.matches({quote(DNS_LABEL)})",
        holds=lambda value, _: matches(DNS_LABEL, value["metadata"]["name"]),
        wrong="cannot be the name of a Service",
        got="{self.metadata.name}",
        allowed="lower-case letters, digits and '-', first a letter, last a letter or digit",
        hint="replace dots by '-' and begin with a letter",
        path="metadata.name",
    ),
)
"""Rules about metadata; the API server shows name and generateName to rules, nothing else of it."""


class Method(Model):
    """What is optimised."""

    objective: Literal["SupervisedFineTuning"] = Field(
        default="SupervisedFineTuning", description="Training objective. Example: SupervisedFineTuning."
    )


def _rows_per_pass(value: Any) -> int:
    resources = value["resources"]
    return int(resources["nodes"] * resources["ranksPerNode"] * value["training"]["microBatchSize"])


def _batch_divides(value: Any, _: Any) -> bool:
    if "training" not in value:
        return True
    rows = _rows_per_pass(value)
    return rows < 1 or value["training"]["globalBatchSize"] % rows == 0


def _has_validation(value: Any, _: Any) -> bool:
    asked = "validateEverySteps" in value.get("training", {})
    return not asked or "data" not in value or "validation" in value["data"]


def _merge_has_adapter(value: Any, _: Any) -> bool:
    return not value["checkpoint"]["mergeAdapter"] or value.get("adapter", {}).get("type") == "LoRA"


def _registers_output(value: Any, _: Any) -> bool:
    return value["checkpoint"]["export"] != "None" or "registerAs" not in value.get("tracking", {}).get(
        "mlflow", {}
    )


def _elastic_fits(value: Any, _: Any) -> bool:
    elastic = value["recovery"].get("elastic")
    return elastic is None or elastic["minNodes"] <= value["resources"]["nodes"]


def _world(value: Any) -> int:
    return int(value["resources"]["nodes"] * value["resources"]["ranksPerNode"])


def _groups_fit(value: Any, _: Any) -> bool:
    size = value["parallelism"].get("shardGroupSize")
    return bool(size is None or size < 1 or _world(value) % size == 0)


def _groups_fit_fewer_nodes(value: Any, _: Any) -> bool:
    size, elastic = value["parallelism"].get("shardGroupSize"), value["recovery"].get("elastic")
    if size is None or size < 1 or elastic is None:
        return True
    resources = value["resources"]
    return bool(elastic["minNodes"] >= resources["nodes"] or resources["ranksPerNode"] % size == 0)


def _starts_before_end(value: Any, _: Any) -> bool:
    start, active = value.get("startDeadlineSeconds"), value.get("activeDeadlineSeconds")
    return start is None or active is None or start <= active


WORLD: Final = "self.resources.nodes * self.resources.ranksPerNode"
ROWS: Final = f"{WORLD} * self.training.microBatchSize"

CROSS_RULES: Final = (
    Rule(
        cel=f"!has(self.training) || {ROWS} < 1 || self.training.globalBatchSize % ({ROWS}) == 0",
        holds=_batch_divides,
        wrong="is not divisible by the rows of one pass over all ranks",
        got=(
            "{self.training.globalBatchSize} rows with {self.resources.nodes} nodes x "
            "{self.resources.ranksPerNode} ranksPerNode x "
            "{self.training.microBatchSize} microBatchSize = {rows}"
        ),
        allowed="a multiple of nodes x ranksPerNode x microBatchSize",
        hint="change globalBatchSize to a multiple of {rows}, or microBatchSize",
        computed={"rows": Computed(f"string({ROWS})", lambda value: str(_rows_per_pass(value)))},
        path="training.globalBatchSize",
    ),
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
        cel="!self.checkpoint.mergeAdapter || (has(self.adapter) && self.adapter.type == 'LoRA')",
        holds=_merge_has_adapter,
        wrong="there is no LoRA adapter to merge",
        got="mergeAdapter=true",
        allowed="mergeAdapter with adapter type LoRA",
        hint="add an adapter of type LoRA, or remove mergeAdapter",
        path="checkpoint.mergeAdapter",
    ),
    Rule(
        cel=(
            "self.checkpoint.export != 'None' || !has(self.tracking) || !has(self.tracking.mlflow.registerAs)"
        ),
        holds=_registers_output,
        wrong="there is no output to register",
        got="checkpoint.export=None with tracking.mlflow.registerAs",
        allowed="registerAs with checkpoint.export HuggingFace",
        hint="set checkpoint.export: HuggingFace, or remove registerAs",
        path="checkpoint.export",
    ),
    Rule(
        cel="!has(self.recovery.elastic) || self.recovery.elastic.minNodes <= self.resources.nodes",
        holds=_elastic_fits,
        wrong="is more than all nodes",
        got="{self.recovery.elastic.minNodes} with resources.nodes={self.resources.nodes}",
        allowed="at most resources.nodes",
        hint="lower minNodes, or raise resources.nodes",
        path="recovery.elastic.minNodes",
    ),
    Rule(
        cel=(
            "!has(self.parallelism.shardGroupSize) || self.parallelism.shardGroupSize < 1 || "
            f"({WORLD}) % self.parallelism.shardGroupSize == 0"
        ),
        holds=_groups_fit,
        wrong="does not divide the ranks into equal groups",
        got=(
            "{self.parallelism.shardGroupSize} with {self.resources.nodes} nodes x "
            "{self.resources.ranksPerNode} ranksPerNode = {world}"
        ),
        allowed="a number that divides nodes x ranksPerNode",
        hint="use ranksPerNode, or remove shardGroupSize to split over all ranks",
        computed={"world": Computed(f"string({WORLD})", lambda value: str(_world(value)))},
        path="parallelism.shardGroupSize",
    ),
    Rule(
        # Two numbers of nodes that follow each other both fit only if one node's ranks do.
        cel=(
            "!has(self.recovery.elastic) || !has(self.parallelism.shardGroupSize) || "
            "self.parallelism.shardGroupSize < 1 || "
            "self.recovery.elastic.minNodes >= self.resources.nodes || "
            "self.resources.ranksPerNode % self.parallelism.shardGroupSize == 0"
        ),
        holds=_groups_fit_fewer_nodes,
        wrong="the ranks of fewer nodes would not divide into groups of parallelism.shardGroupSize",
        got=(
            "minNodes {self.recovery.elastic.minNodes} of {self.resources.nodes} nodes x "
            "{self.resources.ranksPerNode} ranksPerNode with shardGroupSize "
            "{self.parallelism.shardGroupSize}"
        ),
        allowed="recovery.elastic with a shardGroupSize that divides ranksPerNode, or without one",
        hint="set minNodes to resources.nodes, remove recovery.elastic, or create the job with another shardGroupSize",
        path="recovery.elastic",
    ),
    Rule(
        cel=(
            "!has(self.startDeadlineSeconds) || !has(self.activeDeadlineSeconds) || "
            "self.startDeadlineSeconds <= self.activeDeadlineSeconds"
        ),
        holds=_starts_before_end,
        wrong="is later than activeDeadlineSeconds",
        got="{self.startDeadlineSeconds}, activeDeadlineSeconds={self.activeDeadlineSeconds}",
        allowed="at most activeDeadlineSeconds",
        hint="lower startDeadlineSeconds, or raise activeDeadlineSeconds",
        path="startDeadlineSeconds",
    ),
)

IMMUTABLE: Final = (
    immutable("model", shown="model.uri"),
    immutable("data"),
    immutable("method"),
    immutable("adapter"),
    immutable("custom"),
    immutable("training"),
    immutable("parallelism"),
    immutable("resources.nodes", shown="resources.nodes"),
    immutable("resources.ranksPerNode", shown="resources.ranksPerNode"),
    immutable("checkpoint.store", shown="checkpoint.store"),
    immutable("scheduling.queue"),
)


class FineTuneJobSpec(Model):
    """Desired state of a FineTuneJob."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *CUSTOM_RULES,
        *CROSS_RULES,
        *RESUME_RULES,
        *GUARD_RULES,
        *IMMUTABLE,
    )

    # What only a job without a command of its own has; the properties below are for code that runs in such a job.
    model_block: ModelSource | None = Field(default=None, alias="model")
    """Model to start from. Required without custom. Cannot change after creation. Example: {uri: pvc://models/SmolLM2-135M-Instruct}."""
    data_block: Data | None = Field(default=None, alias="data")
    """Training and validation data. Required without custom. Cannot change after creation.
    Example: {sources: [{uri: pvc://data/sft/train.jsonl}]}."""
    method: Method = Field(default_factory=Method)
    """What is optimised. Cannot change after creation. Example: {objective: SupervisedFineTuning}."""
    adapter: Adapter | None = None
    """Adapter to train; leave out for full fine-tuning. Cannot change after creation.
    Example: {type: LoRA, rank: 16}."""
    training_block: Training | None = Field(default=None, alias="training")
    """Optimisation settings. Required without custom. Cannot change after creation.
    Example: {globalBatchSize: 16, epochs: 2}."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How model and optimiser are spread over ranks. Cannot change after creation.
    Example: {strategy: FSDP}."""
    custom: Custom | None = None
    """A script of your own, run as torchrun runs it, in place of model, data, training, adapter and tracking; method
    and checkpoint.export mean nothing to it. Cannot change after creation.
    Example: {command: [python, /scripts/train.py]}."""
    resources: Resources = Field(default_factory=Resources)
    """Size of the gang and of its pods; nodes and ranksPerNode cannot change after creation.
    Example: {nodes: 2, perNode: {cpu: "4", memory: 16Gi}}."""
    checkpoint: Checkpointing
    """Where and how often checkpoints are written; store cannot change after creation.
    Example: {store: pvc://checkpoints, everySteps: 20}."""
    resume: Resume = Field(default_factory=Resume)
    """Which checkpoint a start begins from. Example: {from: Latest}."""
    recovery: Recovery = Field(default_factory=Recovery)
    """What is done when ranks, pods or nodes are lost. Example: {budgets: {crash: 3}}."""
    guards: Guards = Field(default_factory=Guards)
    """What is watched while training goes on, and what is done about it.
    Example: {nonFinite: {action: Pause}, stall: {action: Notify}}."""
    tracking: Tracking | None = None
    """Where metrics and the model are recorded; nowhere if left out.
    Example: {mlflow: {uri: "http://mlflow.windlass.svc:5000"}}."""
    scheduling: Scheduling = Field(default_factory=Scheduling)
    """How pods are placed; queue cannot change after creation. Example: {priorityClassName: batch-low}."""
    pod: PodOverrides = Field(default_factory=PodOverrides)
    """Overrides of the rendered pods. Example: {nodeSelector: {pool: gpu}}."""
    suspend: bool = False
    """true saves a checkpoint, removes the pods and keeps the job; false goes on. Example: true."""
    ttl_seconds_after_finished: (
        Annotated[int, Field(ge=0, le=31_536_000), Hint("leave it out to keep the job, 86400 is a day")]
        | None
    ) = None
    """Seconds from when a job's end is told until it is deleted; kept if left out. Unit: seconds. Example: 86400."""
    active_deadline_seconds: (
        Annotated[
            int,
            Field(ge=60, le=31_536_000),
            Hint("write whole seconds, 3600 is an hour; leave it out for no deadline"),
        ]
        | None
    ) = None
    """Seconds after creation at which an unfinished job fails, suspended time not counted; none if left
    out. Unit: seconds. Example: 43200."""
    start_deadline_seconds: (
        Annotated[
            int,
            Field(ge=10, le=31_536_000),
            Hint("write whole seconds, 600 is ten minutes; leave it out to wait"),
        ]
        | None
    ) = None
    """Seconds after creation within which all pods must have run once, a wait in a queue included; waits for ever if
    left out. Unit: seconds. Example: 1800."""

    @property
    def image(self) -> str | None:
        """The image that the job asks for, by either of its fields; None for the operator's own choice."""
        return (self.custom.image if self.custom is not None else None) or self.pod.image

    @property
    def units_per_step(self) -> int:
        """Positions in the order of the data that a step takes: samples, or the one batch of a command's step."""
        return 1 if self.custom is not None else self.training.global_batch_size

    @property
    def model(self) -> ModelSource:
        """The model to start from; ValueError in a job with a command of its own."""
        return _given(self.model_block, "model")

    @property
    def data(self) -> Data:
        """The data; ValueError in a job with a command of its own."""
        return _given(self.data_block, "data")

    @property
    def training(self) -> Training:
        """Optimisation settings; ValueError in a job with a command of its own."""
        return _given(self.training_block, "training")


def _given(block: Block | None, name: str) -> Block:
    if block is None:
        raise ValueError(
            f"spec.{name}: is not there (got nothing); allowed in jobs without spec.custom. "
            "hint: ask for spec.custom first"
        )
    return block


class FineTuneJobStatus(JobStatus):
    """Observed state of a FineTuneJob."""
