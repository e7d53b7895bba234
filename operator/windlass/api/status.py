"""Status blocks shared by the kinds that run to completion.

The operator alone writes them; agents report what goes into most of them (see contract). Floats are
allowed here, times are RFC 3339 in UTC with seconds or finer.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import StatusModel
from windlass.api.meta import FailureClass, Phase, Rung


class Condition(StatusModel):
    """One aspect of the job's state, as in every Kubernetes API."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    message: Annotated[str, Field(max_length=4096)] = ""
    last_transition_time: datetime
    observed_generation: int | None = None


class Member(StatusModel):
    """One pod that should exist: `<run>-<index>-<ticket>`."""

    index: int
    ticket: int
    pod_uid: str | None = None
    """UID of the member's pod, once the whole gang was seen; a pod that is missing then was lost."""


class Gang(StatusModel):
    """The pods of the present attempt. Tickets only ever grow; a higher one may take over the lead."""

    attempt: int = 0
    last_ticket: int = 0
    members: Annotated[list[Member], Field(max_length=4096)] = []


class Progress(StatusModel):
    """Where training is."""

    phase: Phase | None = None
    step: int = 0
    total_steps: int | None = None
    data_pass: float | None = None
    loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    eta_seconds: float | None = None
    updated_at: datetime | None = None


class Plan(StatusModel):
    """What the run will do: arithmetic from the spec first, then what preflight found."""

    total_steps: int | None = None
    world_size: int | None = None
    accumulation: int | None = None
    train_samples: int | None = None
    validation_samples: int | None = None
    train_tokens: int | None = None
    dropped_samples: int | None = None
    parameters: int | None = None
    trainable_parameters: int | None = None
    precision: str | None = None
    precision_reason: str | None = None
    data_digest: str | None = None
    warnings: Annotated[list[str], Field(max_length=32)] = []


class CheckpointRecord(StatusModel):
    """One row of the ledger: a committed, verified checkpoint."""

    step: int
    incarnation: int
    name: str
    digest: str
    bytes: int = 0
    committed_at: datetime | None = None
    validation_loss: float | None = None


class ResumePoint(StatusModel):
    """The checkpoint that the present incarnation started from; step 0 is a fresh start."""

    step: int = 0
    name: str | None = None
    incarnation: int | None = None


class RecoverySeconds(StatusModel):
    """Where the time of one recovery went, from the fault to the first new step begun."""

    detect: float = 0.0
    decide: float = 0.0
    stop: float = 0.0
    place: float = 0.0
    rendezvous: float = 0.0
    load: float = 0.0
    first_step: float = 0.0
    total: float = 0.0


class FailedRank(StatusModel):
    """The first that failed, by time, across pods."""

    rank: int | None = None
    pod: str | None = None
    node: str | None = None


class RecoveryRecord(StatusModel):
    """One restart: why, how, and what it cost."""

    incarnation: int
    rung: Rung
    failure_class: FailureClass = Field(alias="class")
    first_failed: FailedRank = Field(default_factory=FailedRank)
    exit_code: int | None = None
    signal: int | None = None
    evidence: Annotated[list[str], Field(max_length=8)] = []
    from_step: int = 0
    resumed_step: int = 0
    lost_steps: int = 0
    seconds: RecoverySeconds = Field(default_factory=RecoverySeconds)
    at: datetime | None = None


class Failure(StatusModel):
    """The last failure, with evidence and the next step for the reader."""

    reason: str
    failure_class: FailureClass = Field(alias="class")
    message: str = ""
    hint: str = ""
    first_failed: FailedRank = Field(default_factory=FailedRank)
    exit_code: int | None = None
    signal: int | None = None
    evidence: Annotated[list[str], Field(max_length=8)] = []
    at: datetime | None = None


class GoodputSeconds(StatusModel):
    """All seconds since creation, each in exactly one part."""

    queued: float = 0.0
    scheduling: float = 0.0
    pulling: float = 0.0
    starting: float = 0.0
    loading: float = 0.0
    training: float = 0.0
    checkpoint_stall: float = 0.0
    recovering: float = 0.0
    reworked: float = 0.0
    back_off: float = 0.0
    suspended: float = 0.0
    finishing: float = 0.0


class Goodput(StatusModel):
    """Share of the seconds since admission that went into new steps. The parts sum to sinceCreation."""

    ratio: float | None = None
    since_creation: float = 0.0
    since_admission: float = 0.0
    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds)
    lost_steps: int = 0


class Output(StatusModel):
    """What the run produced."""

    uri: str
    digest: str | None = None
    registered_model: str | None = None
    model_version: str | None = None


class TrackingStatus(StatusModel):
    """The one MLflow run of this job."""

    run_id: str | None = None
    url: str | None = None
    spooled: int = 0


class Counters(StatusModel):
    """Totals over the life of the run."""

    restarts: int = 0
    suspended_seconds: float = 0.0
    back_off_seconds: float = 0.0


class JobStatus(StatusModel):
    """Status of a kind that trains to completion."""

    observed_generation: int | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    started_at: datetime | None = None
    admitted_at: datetime | None = None
    finished_at: datetime | None = None
    suspended_at: datetime | None = None
    back_off_until: datetime | None = None
    run_config: str | None = None
    gang: Gang = Field(default_factory=Gang)
    incarnation: int = 0
    progress: Progress = Field(default_factory=Progress)
    plan: Plan = Field(default_factory=Plan)
    checkpoints: Annotated[list[CheckpointRecord], Field(max_length=20)] = []
    resume: ResumePoint = Field(default_factory=ResumePoint)
    recoveries: Annotated[list[RecoveryRecord], Field(max_length=10)] = []
    goodput: Goodput = Field(default_factory=Goodput)
    last_failure: Failure | None = None
    counters: Counters = Field(default_factory=Counters)
    output: Output | None = None
    tracking: TrackingStatus | None = None
