"""FineTuneJob: the spec that people write and the status they read.

The CRD in crds/ is generated from these models (see crdgen). Shared blocks live in `training` and
`running`; only what is special to FineTuneJob is here.
"""

from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import Model
from windlass.api.running import (
    Checkpointing,
    PodOverrides,
    Recovery,
    Resources,
    Resume,
    Scheduling,
    Tracking,
)
from windlass.api.status import JobStatus
from windlass.api.training import Adapter, Data, ModelSource, Parallelism, Training


class Method(Model):
    """What is optimised."""

    objective: Literal["SupervisedFineTuning"] = Field(
        default="SupervisedFineTuning", description="Training objective."
    )


class FineTuneJobSpec(Model):
    """Desired state of a FineTuneJob."""

    model: ModelSource = Field(description="Model to start from.")
    data: Data = Field(description="Training and validation data.")
    method: Method = Field(default_factory=Method)
    adapter: Adapter | None = Field(default=None, description="Adapter to train; leave out for full fine-tuning.")
    training: Training = Field(description="Optimisation settings.")
    parallelism: Parallelism = Field(default_factory=Parallelism)
    resources: Resources = Field(default_factory=Resources)
    checkpoint: Checkpointing = Field(description="Where and how often checkpoints are written.")
    resume: Resume = Field(default_factory=Resume)
    recovery: Recovery = Field(default_factory=Recovery)
    tracking: Tracking | None = Field(default=None)
    scheduling: Scheduling = Field(default_factory=Scheduling)
    pod: PodOverrides = Field(default_factory=PodOverrides)
    suspend: bool = Field(default=False)
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    active_deadline_seconds: Annotated[int, Field(ge=60, le=31_536_000)] | None = None
    start_deadline_seconds: Annotated[int, Field(ge=10, le=31_536_000)] | None = None


class FineTuneJobStatus(JobStatus):
    """Observed state of a FineTuneJob."""
