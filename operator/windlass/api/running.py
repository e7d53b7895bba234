"""Spec blocks about where and how a run runs: resources, checkpoints, recovery, tracking, pods.

Shared by FineTuneJob and PretrainJob. Only curated pod fields exist: there is no pod template.
"""

from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.meta import Rung
from windlass.api.training import Name, SecretReference

QUANTITY = r"^([0-9]{1,12})(\.[0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
Quantity = Annotated[str, Field(pattern=QUANTITY, min_length=1, max_length=32)]
ShortText = Annotated[str, Field(min_length=1, max_length=253)]


class PerNode(Model):
    """What each pod (one per node) asks for. Memory is request and limit; CPU is the request."""

    cpu: Quantity = "1"
    memory: Quantity = "4Gi"


class Accelerator(Model):
    """Accelerators per pod, by the device plugin's resource name."""

    resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$", max_length=253)] = "nvidia.com/gpu"
    count: Annotated[int, Field(ge=0, le=16)] = 0


class Resources(Model):
    """Size of the gang: pods (nodes) and ranks in each."""

    nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    ranks_per_node: Annotated[int, Field(ge=1, le=16)] = 1
    per_node: PerNode = Field(default_factory=PerNode)
    accelerator: Accelerator = Field(default_factory=Accelerator)


class Checkpointing(Model):
    """Where checkpoints go (`pvc://claim` or `pvc://claim/path`) and how many stay."""

    store: Annotated[str, Field(pattern=r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._/-]*)?$", max_length=1024)]
    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    keep_last: Annotated[int, Field(ge=2, le=1000)] = 3
    # `async` is a keyword of the language, hence the alias.
    asynchronous: bool = Field(default=True, alias="async")
    export: Literal["HuggingFace", "None"] = "HuggingFace"
    merge_adapter: bool = False
    on_delete: Literal["Retain", "Delete"] = "Retain"


class Resume(Model):
    """Which checkpoint a run starts from: `Latest` verified of its own, `None`, or a step of its own."""

    source: Annotated[str, Field(pattern=r"^(Latest|None|[0-9]{1,9})$", max_length=16)] = Field(
        default="Latest", alias="from"
    )


class Budgets(Model):
    """How many failures of a class a run survives without a newer verified checkpoint in between."""

    crash: Annotated[int, Field(ge=0, le=1000)] = 5
    infrastructure: Annotated[int, Field(ge=0, le=1000)] = 10
    out_of_memory: Annotated[int, Field(ge=0, le=1000)] = 2
    storage: Annotated[int, Field(ge=0, le=1000)] = 5


class Recovery(Model):
    """What is tried when a rank dies, in this order, and how often."""

    ladder: Annotated[list[Rung], Field(min_length=1, max_length=3)] = [
        Rung.IN_PLACE,
        Rung.RECREATE_POD,
        Rung.RECREATE_GANG,
    ]
    budgets: Budgets = Field(default_factory=Budgets)
    back_off_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=86_400)] = 120


class MLflow(Model):
    """An MLflow tracking server; it is a client's client: training never waits for it."""

    uri: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?$", max_length=1024)]
    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._/-]+$", min_length=1, max_length=250)] = "windlass"
    register_as: Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._-]+$", min_length=1, max_length=250)] | None = None
    alias: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", min_length=1, max_length=100)] | None = None
    secret_ref: SecretReference | None = None


class Tracking(Model):
    """Where metrics, parameters and the model are recorded."""

    mlflow: MLflow


class Scheduling(Model):
    """How the pods are placed."""

    scheduler_name: ShortText | None = None
    priority_class_name: ShortText | None = None


class EnvVar(Model):
    """A plain environment variable of the training process. Credentials belong into a secretRef."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", min_length=1, max_length=128)]
    value: Annotated[str, Field(max_length=1024)] = ""


class Toleration(Model):
    """As in a pod, but never for every taint: `key` is required."""

    key: ShortText
    operator: Literal["Exists", "Equal"] = "Equal"
    value: Annotated[str, Field(max_length=253)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None


class PodVolume(Model):
    """An extra read-only volume: exactly one of claim, secret, configMap; or a scratch directory."""

    name: Name
    mount_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$", max_length=1024)]
    claim: Name | None = None
    secret: Name | None = None
    config_map: Name | None = None
    empty_dir: bool | None = None


class PodOverrides(Model):
    """Curated fields of the rendered pods."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] = []
    service_account_name: Name | None = None
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = {}
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    labels: Annotated[dict[str, str], Field(max_length=32)] = {}
    annotations: Annotated[dict[str, str], Field(max_length=32)] = {}
    env: Annotated[list[EnvVar], Field(max_length=64)] = []
    volumes: Annotated[list[PodVolume], Field(max_length=16)] = []
