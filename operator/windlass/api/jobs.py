"""What every kind has that trains: the blocks that they share, and rules across those.

The CRDs in crds/ are generated from these models (see crdgen). A kind adds its own blocks before them; `kinds` lists
the kinds. Blocks are in `training`, `running` and `guards`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import Field

from windlass.api.base import Model
from windlass.api.custom import Custom
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
from windlass.api.training import Adapter, ModelSource, Parallelism, SecretReference, Training

DNS_LABEL: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LIMIT: Final = 40

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

Block = TypeVar("Block", bound=Model)


def _rows_per_pass(value: Any) -> int:
    return _world(value) // _copies(value) * int(value["training"]["microBatchSize"])


def _copies(value: Any) -> int:
    parallelism = value["parallelism"]
    return max(1, int(parallelism.get("tensor", 1))) * max(1, int(parallelism.get("pipeline", 1)))


def _stages_are_busy(value: Any, _: Any) -> bool:
    stages = value["parallelism"].get("pipeline")
    if stages is None or "training" not in value:
        return True
    return bool(value["training"]["globalBatchSize"] >= _rows_per_pass(value) * stages)


def _copies_fit(value: Any, _: Any) -> bool:
    return _world(value) % _copies(value) == 0


def _whole_gang(value: Any, _: Any) -> bool:
    elastic = value["recovery"].get("elastic")
    return bool(elastic is None or elastic["minNodes"] >= value["resources"]["nodes"] or _copies(value) == 1)


def _batch_divides(value: Any, _: Any) -> bool:
    if "training" not in value:
        return True
    rows = _rows_per_pass(value)
    return rows < 1 or value["training"]["globalBatchSize"] % rows == 0


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
COPIES: Final = "({} * {})".format(
    *(
        f"(has(self.parallelism.{name}) && self.parallelism.{name} > 1 ? self.parallelism.{name} : 1)"
        for name in ("tensor", "pipeline")
    )
)
"""Ranks that work on the same rows together."""
ROWS: Final = f"{WORLD} / {COPIES} * self.training.microBatchSize"

SHARED_RULES: Final = (
    Rule(
        cel=f"!has(self.training) || {ROWS} < 1 || self.training.globalBatchSize % ({ROWS}) == 0",
        holds=_batch_divides,
        wrong="is not divisible by the rows of one pass over all ranks",
        got=(
            "{self.training.globalBatchSize} rows with {self.resources.nodes} nodes x "
            "{self.resources.ranksPerNode} ranksPerNode x "
            "{self.training.microBatchSize} microBatchSize / {copies} (tensor x pipeline) = {rows}"
        ),
        allowed="a multiple of nodes x ranksPerNode x microBatchSize / (tensor x pipeline)",
        hint="change globalBatchSize to a multiple of {rows}, or microBatchSize",
        computed={
            "rows": Computed(f"string({ROWS})", lambda value: str(_rows_per_pass(value))),
            # A number: the server has a budget for how long a message may become.
            "copies": Computed(f"string({COPIES})", lambda value: str(_copies(value))),
        },
        path="training.globalBatchSize",
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
        cel=(
            "!has(self.training) || !has(self.parallelism.pipeline) || "
            f"self.training.globalBatchSize >= {ROWS} * self.parallelism.pipeline"
        ),
        holds=_stages_are_busy,
        wrong="has fewer micro-batches than pipeline stages",
        got="{self.training.globalBatchSize} rows with {rows} in each micro-batch, {self.parallelism.pipeline} stages",
        allowed="at least as many micro-batches as stages",
        hint="raise globalBatchSize, lower microBatchSize, or lower parallelism.pipeline",
        computed={"rows": Computed(f"string({ROWS})", lambda value: str(_rows_per_pass(value)))},
        path="training.globalBatchSize",
    ),
    Rule(
        cel=f"({WORLD}) % {COPIES} == 0",
        holds=_copies_fit,
        wrong="does not divide the ranks into equal groups",
        got=(
            "tensor={self.parallelism.tensor}, pipeline={self.parallelism.pipeline} with {self.resources.nodes} nodes "
            "x {self.resources.ranksPerNode} ranksPerNode = {world}"
        ),
        allowed="tensor x pipeline that divides nodes x ranksPerNode",
        hint="lower one of them, or remove both",
        computed={"world": Computed(f"string({WORLD})", lambda value: str(_world(value)))},
        path="parallelism",
    ),
    Rule(
        cel=(
            "!has(self.recovery.elastic) || self.recovery.elastic.minNodes >= self.resources.nodes || "
            f"{COPIES} == 1"
        ),
        holds=_whole_gang,
        wrong="a gang that cuts its model cannot go on with fewer nodes",
        got=(
            "minNodes {self.recovery.elastic.minNodes} of {self.resources.nodes} nodes with "
            "tensor={self.parallelism.tensor}, pipeline={self.parallelism.pipeline}"
        ),
        allowed="recovery.elastic without tensor and pipeline",
        hint="set minNodes to resources.nodes, or remove recovery.elastic",
        path="recovery.elastic",
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

FROZEN: Final = (
    immutable("training"),
    immutable("parallelism"),
    immutable("resources.nodes", shown="resources.nodes"),
    immutable("resources.ranksPerNode", shown="resources.ranksPerNode"),
    immutable("checkpoint.store", shown="checkpoint.store"),
    immutable("scheduling.queue"),
)
"""Shared blocks that cannot change after creation."""


@dataclass(frozen=True, slots=True)
class Input:
    """Something that the pods read: its URI, the spec field that names it, and the credential for it."""

    uri: str
    field: str
    secret: SecretReference | None = None


class TrainingJobSpec(Model):
    """Desired state of a job that trains: what all kinds share."""

    rules: ClassVar[tuple[Rule, ...]] = (*SHARED_RULES, *RESUME_RULES, *GUARD_RULES, *FROZEN)

    # A job with a command of its own has none; the property below is for code that runs in the others.
    training_block: Training | None = Field(default=None, alias="training")
    """Optimisation settings. Cannot change after creation. Example: {globalBatchSize: 16, epochs: 2}."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How model and optimiser are spread over ranks. Cannot change after creation.
    Example: {strategy: FSDP}."""
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
    def custom(self) -> Custom | None:
        """The command that takes the place of training, in kinds that can have one."""
        return None

    @property
    def adapter(self) -> Adapter | None:
        """The adapter to train, in kinds that can have one."""
        return None

    @property
    def merges_adapter(self) -> bool:
        """Whether a model with the adapter merged in is wanted too."""
        return False

    @property
    def image(self) -> str | None:
        """The image that the job asks for; None for the operator's own choice."""
        return self.pod.image

    @property
    def units_per_step(self) -> int:
        """Positions in the order of the data that a step takes."""
        return self.training.global_batch_size

    @property
    def training(self) -> Training:
        """Optimisation settings; ValueError in a job with a command of its own."""
        return given(self.training_block, "training")

    @property
    @abstractmethod
    def objective(self) -> str:
        """What is optimised."""

    @property
    @abstractmethod
    def start(self) -> ModelSource | None:
        """The model to start from; None for a new one. ValueError in a job with a command of its own."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """What training starts from, for people and records; ValueError in a job with a command of its own."""

    @property
    def known_steps(self) -> int | None:
        """Optimiser steps of the run, where the spec alone says them."""
        return self.training.max_steps

    @property
    def length_field(self) -> str:
        """The field that says how long to train."""
        return "training.maxSteps" if self.training.max_steps is not None else "training.epochs"

    @property
    @abstractmethod
    def sequence_length(self) -> int:
        """Most tokens of a row."""

    @property
    @abstractmethod
    def rows_block(self) -> str:
        """The block of the spec that says what rows are."""

    @property
    def shares(self) -> tuple[str, ...]:
        """Shares of the tokens by source; none where all rows are one."""
        return ()

    @property
    def z_loss(self) -> str | None:
        """Weight of the squared normaliser in the loss."""
        return None

    @property
    @abstractmethod
    def is_packed(self) -> bool:
        """Whether a row holds several samples, so that rows cannot be counted before the data is read."""

    @property
    def facts(self) -> dict[str, object]:
        """What else is recorded of a run as parameters, by name."""
        return {}

    @property
    @abstractmethod
    def inputs(self) -> tuple[Input, ...]:
        """Everything that the pods read, in the order of the spec."""


def given(block: Block | None, name: str) -> Block:
    """A block that jobs with a command of their own lack."""
    if block is None:
        raise ValueError(
            f"spec.{name}: is not there (got nothing); allowed in jobs without spec.custom. "
            "hint: ask for spec.custom first"
        )
    return block
