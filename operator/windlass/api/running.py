"""Spec blocks about where and how a run runs: resources, checkpoints, recovery, tracking.

Shared by FineTuneJob and PretrainJob. Texts below fields become the CRD's descriptions. Curated pod
fields are in `pods`; there is no pod template.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.meta import Rung
from windlass.api.pods import EnvVar as EnvVar
from windlass.api.pods import PodOverrides as PodOverrides
from windlass.api.pods import PodVolume as PodVolume
from windlass.api.pods import Toleration as Toleration
from windlass.api.quantities import QUANTITY as QUANTITY
from windlass.api.quantities import Quantity as Quantity
from windlass.api.rules import Computed, Hint, Rule
from windlass.api.scheduling import Scheduling as Scheduling
from windlass.api.training import GANG_LIMIT, SecretReference
from windlass.api.uris import StoreUri


class PerNode(Model):
    """What each pod (one per node) asks for. Memory is request and limit; CPU is the request."""

    cpu: Quantity = "1"
    """CPU request of a pod; its ranks share it. Unit: cores. Example: "4"."""
    memory: Quantity = "4Gi"
    """Memory request and limit of a pod; its ranks share it. Unit: bytes. Example: 64Gi."""


class Accelerator(Model):
    """Accelerators per pod, by the device plugin's resource name."""

    resource: Annotated[
        str,
        Field(pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$", min_length=3, max_length=253),
        Hint("see `kubectl describe node` under Allocatable", allowed="domain/name, such as nvidia.com/gpu"),
    ] = "nvidia.com/gpu"
    """Name under which the nodes offer the devices. Example: nvidia.com/gpu."""
    count: Annotated[int, Field(ge=0, le=16), Hint("whole devices only; 0 trains on the CPU")] = 0
    """Devices per pod; one rank uses one. 0 trains on the CPU. Example: 8."""


def _product(left: str, right: str) -> Computed:
    def twin(value: Any) -> str:
        other = value["accelerator"]["count"] if right == "accelerator.count" else value[right]
        return str(value[left] * other)

    return Computed(f"string(self.{left} * self.{right})", twin)


class Resources(Model):
    """Size of the gang: pods (nodes) and ranks in each."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.accelerator.count == 0 || self.ranksPerNode <= self.accelerator.count",
            holds=lambda value, _: (
                value["accelerator"]["count"] == 0 or value["ranksPerNode"] <= value["accelerator"]["count"]
            ),
            wrong="more ranks than accelerators in a pod",
            got="ranksPerNode={self.ranksPerNode}, accelerator.count={self.accelerator.count}",
            allowed="ranksPerNode up to accelerator.count",
            hint="set ranksPerNode to accelerator.count",
            path="ranksPerNode",
        ),
        Rule(
            cel=f"self.nodes * self.ranksPerNode <= {GANG_LIMIT}",
            holds=lambda value, _: value["nodes"] * value["ranksPerNode"] <= GANG_LIMIT,
            wrong="too many ranks",
            got="{ranks} = nodes x ranksPerNode",
            allowed=f"up to {GANG_LIMIT}",
            hint="use fewer nodes",
            computed={"ranks": _product("nodes", "ranksPerNode")},
            path="nodes",
        ),
        Rule(
            cel=f"self.nodes * self.accelerator.count <= {GANG_LIMIT}",
            holds=lambda value, _: value["nodes"] * value["accelerator"]["count"] <= GANG_LIMIT,
            wrong="too many accelerators",
            got="{devices} = nodes x accelerator.count",
            allowed=f"up to {GANG_LIMIT}",
            hint="use fewer nodes",
            computed={"devices": _product("nodes", "accelerator.count")},
            path="nodes",
        ),
    )

    nodes: Annotated[int, Field(ge=1, le=4096), Hint("set spec.suspend: true to pause a run")] = 1
    """Pods of the gang, one per node. Example: 2."""
    ranks_per_node: Annotated[
        int, Field(ge=1, le=16), Hint("one per accelerator is usual, and 1 or 2 on the CPU")
    ] = 1
    """Training processes in each pod. Example: 8."""
    per_node: PerNode = Field(default_factory=PerNode)
    """CPU and memory of each pod. Example: {cpu: "8", memory: 64Gi}."""
    accelerator: Accelerator = Field(default_factory=Accelerator)
    """Accelerators of each pod. Example: {resource: nvidia.com/gpu, count: 8}."""


class Checkpointing(Model):
    """Where checkpoints go (`pvc://claim` or `pvc://claim/path`) and how many stay."""

    store: StoreUri
    """Claim, and directory in it, for checkpoints and output; the run's own directory is made below it and
    stays when the job is deleted. With more than one node the claim must be ReadWriteMany. Example:
    pvc://checkpoints/team-a."""
    every_steps: Annotated[
        int, Field(ge=1, le=1_000_000), Hint("a run loses at most the steps since the last checkpoint")
    ] = 100
    """Optimiser steps between checkpoints. Unit: steps. Example: 20."""
    keep_last: Annotated[
        int, Field(ge=2, le=1000), Hint("at least 2, since the newest may turn out to be damaged")
    ] = 3
    """Verified checkpoints kept; older ones are removed. Example: 5."""
    # `async` is a keyword of the language, hence the alias.
    asynchronous: bool = Field(default=True, alias="async")
    """Write while training goes on; needs memory for one copy of the state. Example: false."""
    export: Literal["HuggingFace", "None"] = "HuggingFace"
    """Form of the final output: a directory that transformers and peft load, or none.
    Example: HuggingFace."""


BUDGET_HINT = Hint("0 fails the job at once, 5 is usual")


class Budgets(Model):
    """How many failures of a class a run survives without a newer verified checkpoint in between."""

    crash: Annotated[int, Field(ge=0, le=1000), BUDGET_HINT] = 5
    """Ranks that ended with an error or signal. Example: 3."""
    infrastructure: Annotated[int, Field(ge=0, le=1000), BUDGET_HINT] = 10
    """Lost nodes, pods that vanished, broken devices and networks. Example: 20."""
    out_of_memory: Annotated[int, Field(ge=0, le=1000), BUDGET_HINT] = 2
    """Ranks or pods that ran out of memory. Example: 1."""
    storage: Annotated[int, Field(ge=0, le=1000), BUDGET_HINT] = 5
    """Reads and writes of the store that failed. Example: 10."""
    stall: Annotated[int, Field(ge=0, le=1000), BUDGET_HINT] = 5
    """Ranks that lived and made no progress, and were restarted by guards.stall. Example: 3."""
    window_seconds: Annotated[int, Field(ge=60, le=2_592_000), Hint("86400 is a day")] = 86_400
    """Failures of infrastructure and storage count for so long; older outages are forgotten, but ten times
    the budget in all is the end. Unit: seconds. Example: 21600."""
    numeric: Annotated[int, Field(ge=0, le=1000), BUDGET_HINT] = 3
    """Rollbacks that spec.guards asked for. Example: 5."""


def _unique(value: Any, _: Any) -> bool:
    return len(set(value)) == len(value)


class Elastic(Model):
    """Training goes on with fewer nodes while some cannot be had, at the same global batch and order of samples."""

    min_nodes: Annotated[
        int, Field(ge=1, le=4096), Hint("the first node's pod leads and is always among them")
    ]
    """Fewest nodes that training goes on with; at most resources.nodes. Example: 2."""
    wait_seconds: Annotated[
        int, Field(ge=0, le=86_400), Hint("allow for a new pod's start and imports, 120 is usual")
    ] = 120
    """How long a missing pod is waited for before the others go on without it; at least 30 when the gang starts. It
    is taken back when it comes later. Unit: seconds. Example: 60."""


class Recovery(Model):
    """What may be tried when a rank dies, and how often."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.elastic) || 'Shrink' in self.ladder",
            holds=lambda value, _: "elastic" not in value or "Shrink" in value["ladder"],
            wrong="elastic needs its rung",
            got="elastic with a ladder without Shrink",
            allowed="elastic with Shrink in ladder",
            hint="add Shrink to ladder, or remove elastic",
            path="elastic",
        ),
    )

    ladder: Annotated[
        list[Rung],
        Field(min_length=1, max_length=5),
        Rule(
            cel="self.all(one, self.exists_one(other, other == one))",
            holds=_unique,
            wrong="a rung is named twice",
            got="{rung}",
            allowed="InPlace, RecreatePod, OtherNode, Shrink and RecreateGang, each at most once",
            hint="remove the repeated rung; how often a rung is tried is set by budgets",
            computed={
                "rung": Computed(
                    "self.filter(one, !self.exists_one(other, other == one))[0]",
                    lambda value: next(one for one in value if value.count(one) > 1),
                )
            },
        ),
    ] = [
        Rung.IN_PLACE,
        Rung.RECREATE_POD,
        Rung.OTHER_NODE,
        Rung.SHRINK,
        Rung.RECREATE_GANG,
    ]
    """Rungs that are allowed: restart the ranks in their pods, replace the pod, replace it on another node, go on
    with fewer nodes (only with elastic), replace all pods. The lowest allowed one that can help is tried,
    whatever their order here, and a higher one when it did not help. Without OtherNode no node is ever avoided.
    While the operator is away nobody makes pods, and ranks restart in theirs.
    Example: [RecreatePod, RecreateGang]."""
    elastic: Elastic | None = None
    """Going on with fewer nodes than resources.nodes while some cannot be had; if left out, the gang waits until it is
    whole. DeepSpeed converts a checkpoint for another number of ranks first. Example: {minNodes: 2}."""
    budgets: Budgets = Field(default_factory=Budgets)
    """Failures survived per class; a newer verified checkpoint resets the count. Example: {crash: 3}."""
    back_off_seconds: Annotated[int, Field(ge=0, le=3600), Hint("it doubles with every failure in a row")] = (
        10
    )
    """First wait before pods are made again; doubles while nothing gets better. Unit: seconds.
    Example: 30."""
    suspect_node_seconds: Annotated[
        int,
        Field(ge=60, le=2_592_000),
        Hint("3600 is an hour; remove OtherNode from the ladder to avoid no node"),
    ] = 3600
    """How long the run avoids a node after it failed there. Unit: seconds. Example: 86400."""
    force_delete_after_seconds: (
        Annotated[
            int,
            Field(ge=0, le=86_400),
            Hint("leave it out unless stuck pods hold quota or devices, 60 is usual then"),
        ]
        | None
    ) = None
    """Seconds after the end of its grace period at which a pod on a dead node is removed from the API without
    its kubelet's word; never if left out. What runs on that node is not ended by it. Unit: seconds.
    Example: 60."""
    termination_grace_period_seconds: Annotated[
        int, Field(ge=5, le=86_400), Hint("allow for one step and one checkpoint, 120 is usual")
    ] = 120
    """Time a pod has to save when it is told to stop. Unit: seconds. Example: 300."""


class MLflow(Model):
    """An MLflow tracking server; it is a client's client: training never waits for it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.alias) || has(self.registerAs)",
            holds=lambda value, _: "alias" not in value or "registerAs" in value,
            wrong="alias needs a registered model",
            got="alias={self.alias}, registerAs={self.registerAs}",
            allowed="alias with registerAs",
            hint="add registerAs, or remove alias",
            path="alias",
        ),
    )

    uri: Annotated[
        str,
        Field(
            pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?$",
            min_length=1,
            max_length=1024,
        ),
        Hint(
            "put user and password or token into a Secret and name it in secretRef",
            allowed="http:// or https:// with host, port and path, without credentials",
        ),
    ]
    """Address of the tracking server. Example: http://mlflow.windlass.svc:5000."""
    experiment: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9 ._/-]+$", min_length=1, max_length=250),
        Hint("name it after the team or model", allowed="letters, digits, space and . _ / -"),
    ] = "windlass"
    """Experiment that the run belongs to; it is made if it is not there. Example: support-bot."""
    register_as: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z0-9 ._-]+$", min_length=1, max_length=250),
            Hint(
                "use the name of the registered model, new or old", allowed="letters, digits, space and . _ -"
            ),
        ]
        | None
    ) = None
    """Registered model that gets the output as a new version; not registered if left out.
    Example: support-bot."""
    alias: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z0-9_-]+$", min_length=1, max_length=100),
            Hint("use a word such as candidate", allowed="letters, digits, _ and -"),
        ]
        | None
    ) = None
    """Alias that moves to the new version. Only with registerAs. Example: candidate."""
    secret_ref: SecretReference | None = None
    """Credential of the tracking server: a token, sent as bearer, or user:password, sent as basic authentication.
    Example: {name: mlflow-token}."""


class Tracking(Model):
    """Where metrics, parameters and the model are recorded."""

    mlflow: MLflow
    """The MLflow server. Example: {uri: "http://mlflow.windlass.svc:5000", registerAs: support-bot}."""
