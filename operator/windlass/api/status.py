"""Status blocks shared by the kinds that run to completion.

The operator alone writes them; agents report what goes into most of them (see contract). Floats are
allowed here, times are RFC 3339 in UTC with seconds or finer.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from windlass.api.base import StatusModel
from windlass.api.meta import Exclusion, FailureClass, Phase, Rung, SuspectReason
from windlass.api.rules import ListMap


class Condition(StatusModel):
    """One aspect of the job's state, as in every Kubernetes API."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """Kind of condition: Ready, Reconciling, Stalled, Suspended, Queued, Running, Complete, Failed and degradations."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    """One word for why; each has a page in the documentation."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """The same for people, with the next step."""
    last_transition_time: datetime
    """When status last changed."""
    observed_generation: int | None = None
    """Generation of the spec that this was judged for."""


class Member(StatusModel):
    """One pod that should exist: `<run>-<index>-<ticket>`."""

    index: int
    """Place of the pod in the gang, from 0; 0 leads."""
    ticket: int
    """Number of this pod; a later pod of the same index has a higher one."""
    pod_uid: str | None = None
    """UID of the member's pod, once the whole gang was seen; a pod that is missing then was lost."""


class Gang(StatusModel):
    """The pods of the present attempt. Tickets only ever grow; a higher one may take over the lead."""

    attempt: int = 0
    """How often all pods were made anew, from 1."""
    last_ticket: int = 0
    """Highest ticket given so far."""
    members: Annotated[list[Member], Field(max_length=4096)] = []
    """Pods that should exist."""


class Progress(StatusModel):
    """Where training is."""

    phase: Phase | None = None
    """What the gang is doing now."""
    step: int = 0
    """Optimiser steps finished."""
    total_steps: int | None = None
    """Optimiser steps of the whole run."""
    loss: float | None = None
    """Training loss of the last reported step."""
    validation_loss: float | None = None
    """Loss of the last validation."""
    learning_rate: float | None = None
    """Learning rate of the last reported step."""
    tokens: int | None = None
    """Tokens trained on until that step, those of lost steps not counted."""
    tokens_per_second: float | None = None
    """Trained tokens per second over all ranks."""
    mfu: float | None = None
    """Model FLOPs utilisation, 0 to 1."""
    eta_seconds: float | None = None
    """Expected seconds until the last step, by the last steps."""
    eta_low_seconds: float | None = None
    """Seconds until the last step if all were like the fastest tenth; left out until seven steps after a start."""
    eta_high_seconds: float | None = None
    """The same by the slowest tenth, or by the pace with saves and validations, whichever is slower."""
    updated_at: datetime | None = None
    """When this was reported."""


class PlannedMemory(StatusModel):
    """Predicted peak memory that one rank adds to its pod, by what it holds. All in bytes."""

    weights: int = 0
    """Weights at rest."""
    gradients: int = 0
    """Gradients at rest."""
    optimizer: int = 0
    """State of the optimiser."""
    activations: int = 0
    """What the forward pass keeps for the backward pass, at the longest rows."""
    logits: int = 0
    """Log-probabilities over the vocabulary and their gradients, at the longest rows."""
    gathered: int = 0
    """Weights and gradients that are whole for a while, their copies on the way, and casts of weights."""
    process: int = 0
    """What the process itself takes, whatever the model; left out of an accelerator's memory."""
    total: int = 0
    """Sum of the above: memory of the accelerator where there is one, else of the pod."""
    checkpoint_copy: int = 0
    """Copy of the state that a save writes from, in the pod's memory beside the total."""


class Plan(StatusModel):
    """What the run will do: arithmetic from the spec first, then what preflight found."""

    total_steps: int | None = None
    """Optimiser steps the run will take."""
    world_size: int | None = None
    """Ranks over all pods."""
    accumulation: int | None = None
    """Micro-batches per rank and step."""
    train_samples: int | None = None
    """Samples trained on."""
    validation_samples: int | None = None
    """Samples held out."""
    train_tokens: int | None = None
    """Tokens in one pass over the data."""
    dropped_samples: int | None = None
    """Samples left out, for example because no answer fits."""
    parameters: int | None = None
    """Parameters of the model."""
    trainable_parameters: int | None = None
    """Parameters that are trained."""
    memory_per_rank: PlannedMemory | None = None
    """Predicted peak memory of a rank; left out while the model's sizes are not known."""
    checkpoint_bytes: int | None = None
    """Predicted size of one checkpoint. Unit: bytes."""
    precision: str | None = None
    """Numbers used, as chosen."""
    precision_reason: str | None = None
    """Why that precision."""
    data_digest: str | None = None
    """Digest of the prepared data."""
    warnings: Annotated[list[str], Field(max_length=32)] = []
    """What is odd about the plan, though it runs."""


class CheckpointRecord(StatusModel):
    """One row of the ledger: a committed, verified checkpoint."""

    step: int
    """Optimiser steps in the checkpoint."""
    incarnation: int
    """Life of the gang that wrote it."""
    name: str
    """Directory of the checkpoint."""
    digest: str
    """sha256 over its file entries."""
    bytes: int = 0
    """Size in bytes."""
    committed_at: datetime | None = None
    """When its manifest was written."""
    validation_loss: float | None = None
    """Validation loss at that step, where one is known."""


class ResumePoint(StatusModel):
    """The checkpoint that the present incarnation started from; step 0 is a fresh start."""

    step: int = 0
    """Step that training went on from; 0 is a fresh start."""
    name: str | None = None
    """Checkpoint that was loaded."""
    incarnation: int | None = None
    """Life of the gang that wrote it."""


class RecoverySeconds(StatusModel):
    """Where the time of one recovery went, from the fault to the first new step begun."""

    detect: float = 0.0
    """Seconds from the fault until it was noticed."""
    decide: float = 0.0
    """Seconds to choose rung and checkpoint."""
    stop: float = 0.0
    """Seconds to stop the other ranks."""
    place: float = 0.0
    """Seconds to get pods, if any were made."""
    rendezvous: float = 0.0
    """Seconds until all ranks met."""
    load: float = 0.0
    """Seconds to load the checkpoint."""
    first_step: float = 0.0
    """Seconds until the first new step began."""
    total: float = 0.0
    """Seconds from the fault to the first new step."""


class FailedRank(StatusModel):
    """The first that failed, by time, across pods."""

    rank: int | None = None
    """Rank number."""
    pod: str | None = None
    """Pod of the rank."""
    node: str | None = None
    """Node of the pod."""


class SkippedData(StatusModel):
    """Training data that a guard left out: positions in the order of training, which count samples from 0."""

    first: int
    """First position left out."""
    last: int
    """Last position left out."""
    steps: int
    """Steps whose data these were."""


class RecoveryRecord(StatusModel):
    """One restart: why, how, and what it cost."""

    incarnation: int
    """Life of the gang that began with this recovery."""
    rung: Rung
    """How much was replaced."""
    failure_class: FailureClass = Field(alias="class")
    """Class of the failure."""
    first_failed: FailedRank = Field(default_factory=FailedRank)
    """Who failed first."""
    exit_code: int | None = None
    """Exit code of the first failed rank."""
    signal: int | None = None
    """Signal that ended it."""
    evidence: Annotated[list[str], Field(max_length=8)] = []
    """Last lines it wrote, or what the kernel said."""
    from_step: int = 0
    """Step reached before the failure."""
    resumed_step: int = 0
    """Step that training went on from."""
    lost_steps: int = 0
    """Steps that had to be done again."""
    skipped: SkippedData | None = None
    """Data that training goes past, after a failure of class Numeric."""
    seconds: RecoverySeconds = Field(default_factory=RecoverySeconds)
    """Where the time went."""
    at: datetime | None = None
    """When the failure happened."""


class Failure(StatusModel):
    """The last failure, with evidence and the next step for the reader."""

    reason: str
    """One word for what failed."""
    failure_class: FailureClass = Field(alias="class")
    """Class of the failure."""
    message: str = ""
    """What happened, for people."""
    hint: str = ""
    """The next step for the reader."""
    first_failed: FailedRank = Field(default_factory=FailedRank)
    """Who failed first."""
    exit_code: int | None = None
    """Exit code of the first failed rank."""
    signal: int | None = None
    """Signal that ended it."""
    evidence: Annotated[list[str], Field(max_length=8)] = []
    """Last lines it wrote, or what the kernel said."""
    at: datetime | None = None
    """When it happened."""


class GoodputSeconds(StatusModel):
    """All seconds since creation, each in exactly one part."""

    queued: float = 0.0
    """Before admission, and whenever the queue made the run wait again."""
    scheduling: float = 0.0
    """Waiting for nodes."""
    pulling: float = 0.0
    """Pulling images."""
    starting: float = 0.0
    """Starting containers, imports and rendezvous."""
    loading: float = 0.0
    """Loading model and checkpoint."""
    training: float = 0.0
    """New steps."""
    validating: float = 0.0
    """Computing the loss on held-out samples."""
    checkpoint_stall: float = 0.0
    """Training stood still for a save."""
    recovering: float = 0.0
    """From a fault to the first new step."""
    reworked: float = 0.0
    """Steps done again after a fault."""
    back_off: float = 0.0
    """Waiting between attempts."""
    suspended: float = 0.0
    """Suspended."""
    finishing: float = 0.0
    """Export, registration and clean-up."""


class Goodput(StatusModel):
    """Share of the seconds since admission that went into new steps. The parts sum to sinceCreation."""

    ratio: float | None = None
    """Share of sinceAdmission spent on new steps, 0 to 1."""
    since_creation: float = 0.0
    """Seconds since the job was created."""
    since_admission: float = 0.0
    """Seconds since it was admitted, without suspended time."""
    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds)
    """All seconds by what they went into."""
    lost_steps: int = 0
    """Steps done again over the life of the run."""


class HeldPod(StatusModel):
    """A pod and the seconds for which it has held what it asks for."""

    uid: str
    """UID of the pod."""
    since: datetime
    """When it was scheduled."""
    rate_per_hour: str = "0"
    """Price of an hour of its requests, in the currency of the list."""
    seconds: float = 0.0
    """Seconds from then until its container ended, or until the last measurement."""
    ended: bool = False
    """Whether its container has ended."""


class Cost(StatusModel):
    """Price times measured seconds of what the pods ask for. Only there when the operator has a price list."""

    currency: str = ""
    """Currency of the amounts."""
    total: str = "0"
    """Cost of the run so far, a decimal."""
    wasted: str = "0"
    """What the seconds of goodput's recovering, reworked and backOff cost at gangRatePerHour, at most the total."""
    expected_low: str | None = None
    """Cost of the whole run if its last step is etaLowSeconds away; left out while that is not known."""
    expected_high: str | None = None
    """The same with etaHighSeconds, at gangRatePerHour. Further failures and the export come on top."""
    rate_per_hour: str = "0"
    """Price of an hour of the pods that hold something now."""
    gang_rate_per_hour: str = "0"
    """Highest price per hour that the pods have come to together."""
    basis: dict[str, str] = {}
    """Prices per hour by resource that this job is charged by: those of the list when it was first seen."""
    pod_seconds: float = 0.0
    """Seconds for which pods held what they ask for, over all pods."""
    settled: str = "0"
    """Price per hour times seconds of pods that are gone; divided by 3600 it is money."""
    settled_seconds: float = 0.0
    """Seconds of those pods."""
    held: Annotated[list[HeldPod], Field(max_length=8192)] = []
    """Pods that are there."""
    measured_at: datetime | None = None
    """When this was measured."""


class Output(StatusModel):
    """What the run produced."""

    uri: str
    """Where the result lies."""
    digest: str | None = None
    """sha256 over its file entries."""
    registered_model: str | None = None
    """Registered model it became a version of."""
    model_version: str | None = None
    """That version."""


class TrackingStatus(StatusModel):
    """The one MLflow run of this job."""

    run_id: str | None = None
    """Id of the MLflow run."""
    url: str | None = None
    """Page of the run."""
    spooled: int = 0
    """Metrics waiting to be sent."""


class Counters(StatusModel):
    """Totals over the life of the run."""

    restarts: int = 0
    """Recoveries since creation."""
    suspended_seconds: float = 0.0
    """Seconds suspended so far."""
    back_off_seconds: float = 0.0
    """Seconds of back-off so far."""
    queued_seconds: float | None = None
    """Seconds waited for the queue so far; not there without a queue, nor before it first admits the job."""


class Charges(StatusModel):
    """Lost pods charged to the budgets since a newer checkpoint; the leader keeps its own count of ranks."""

    since_step: int = 0
    """Newest verified step when the count began at zero."""
    incarnation: int = 0
    """Life of the gang that the count is about; a later one clears all but memory."""
    used: dict[str, int] = {}
    """Failures by class."""
    nodes: dict[str, int] = {}
    """Failures by node."""
    recent: dict[str, list[datetime]] = {}
    """When failures happened, by class, where the budget is for a window of time."""


class SuspectNode(StatusModel):
    """A node that this run avoids for a while."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the node."""
    reason: SuspectReason
    """One word for what it is suspected of."""
    failure_class: FailureClass = Field(alias="class")
    """Class of the failure there."""
    exclusion: Exclusion
    """Required: no pod is placed there. Preferred: only where no other node has room."""
    since: datetime
    """When it was first suspected."""
    until: datetime
    """When it is free of suspicion again."""
    count: int = 1
    """How often it was suspected since then."""
    evidence: Annotated[list[str], Field(max_length=4)] = []
    """What was seen there."""


class JobStatus(StatusModel):
    """Status of a kind that trains to completion."""

    observed_generation: int | None = None
    """Generation of the spec that this status is about."""
    conditions: Annotated[list[Condition], Field(max_length=16), ListMap("type")] = []
    """Conditions by type; Ready sums up."""
    started_at: datetime | None = None
    """When all pods ran for the first time; when its leader started, in a run that ended before that was seen."""
    admitted_at: datetime | None = None
    """When the job was allowed to start: at once, or when its queue first admitted it."""
    finished_at: datetime | None = None
    """When its leader ended, or the operator gave it up. An operator that was away tells it later."""
    suspended_at: datetime | None = None
    """When it was suspended, while it is."""
    back_off_until: datetime | None = None
    """No pods are made before this time."""
    run_config: str | None = None
    """ConfigMap that the present attempt was given."""
    gang: Gang = Field(default_factory=Gang)
    """Pods of the present attempt."""
    incarnation: int = 0
    """Life of the gang; grows with every restart."""
    nodes: int | None = None
    """Nodes that train, or last did; fewer than resources.nodes while the gang is shrunk."""
    progress: Progress = Field(default_factory=Progress)
    """Where training is."""
    plan: Plan = Field(default_factory=Plan)
    """What the run will do."""
    checkpoints: Annotated[list[CheckpointRecord], Field(max_length=20)] = []
    """The ledger: verified checkpoints, newest first."""
    resume: ResumePoint = Field(default_factory=ResumePoint)
    """Where the present incarnation went on from."""
    recoveries: Annotated[list[RecoveryRecord], Field(max_length=10)] = []
    """The last recoveries, newest last."""
    goodput: Goodput = Field(default_factory=Goodput)
    """What the time went into."""
    cost: Cost | None = None
    """What it has cost."""
    last_failure: Failure | None = None
    """The last failure."""
    counters: Counters = Field(default_factory=Counters)
    """Totals over the life of the run."""
    charges: Charges | None = None
    """Lost pods charged to recovery.budgets so far."""
    suspect_nodes: Annotated[list[SuspectNode], Field(max_length=16), ListMap("name")] = []
    """Nodes that this run avoids for a while, oldest first."""
    output: Output | None = None
    """The result, once there is one."""
    tracking: TrackingStatus | None = None
    """The MLflow run of this job."""
