"""What operator, agents and ranks say to each other, and what they write into the checkpoint store.

Down: RunConfig (an immutable ConfigMap, rendered once per attempt). Up: Report, answered by Orders.
Inside a pod: RankContext down to a rank, RankEvent lines up. In the store: Incarnation and Manifest.
Every message carries the whole state it speaks of, so that a lost one costs nothing.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from windlass.api.base import Model, StatusModel
from windlass.api.jobs import TrainingJobSpec
from windlass.api.kinds import KINDS, KindName
from windlass.api.meta import CONTRACT_VERSION, Exclusion, FailureClass, Phase, Rung, SuspectReason
from windlass.api.status import (
    CheckpointRecord,
    FailedRank,
    Failure,
    Output,
    Plan,
    Progress,
    RecoveryRecord,
    ResumePoint,
    SkippedData,
    TrackingStatus,
)


class RunIdentity(Model):
    """Which object a run belongs to."""

    kind: KindName
    namespace: str
    name: str
    uid: str


class ReportTarget(Model):
    """Where the leader reports. `url` is https; the CA is mounted beside it (it may change), see meta."""

    url: str
    server_name: str
    interval_seconds: float = 2.0


class RunConfig(Model):
    """All that an agent needs to know, rendered once per attempt; the resume point comes from the store."""

    version: int = CONTRACT_VERSION
    run: RunIdentity
    attempt: int
    spec: SerializeAsAny[TrainingJobSpec]
    leader_host: str = Field(description="Stable DNS name of the pod with index 0.")
    store_path: str = Field(description="Directory of this run: <mount>/<path>/<namespace>/<name>/<uid>.")
    report: ReportTarget | None = None
    tasks: str = Field(
        default="windlass_workloads.train.tasks",
        description="Module with preload(), prepare(context, channel) and train(context, channel).",
    )

    @field_validator("spec", mode="before")
    @classmethod
    def _by_kind(cls, value: Any, seen: ValidationInfo) -> Any:
        """A spec that is still JSON, read as its kind's; `run` is read before it."""
        run = seen.data.get("run")
        if not isinstance(value, dict):
            return value
        if run is None:
            raise ValueError("cannot be read without run.kind")
        return KINDS[run.kind].spec.model_validate(value)


class Timeline(StatusModel):
    """Seconds of the run since its first leader started, by state; `down` is time without a leader."""

    started_at: datetime
    until: datetime
    starting: float = 0.0
    loading: float = 0.0
    training: float = 0.0
    validating: float = 0.0
    checkpoint_stall: float = 0.0
    recovering: float = 0.0
    reworked: float = 0.0
    back_off: float = 0.0
    finishing: float = 0.0
    down: float = 0.0


class Suspicion(StatusModel):
    """What speaks against a node. Which node it is, the operator reads from the pod itself."""

    reason: SuspectReason
    exclusion: Exclusion
    failure_class: FailureClass = Field(alias="class")
    evidence: Annotated[list[str], Field(max_length=4)] = []


class Verdict(StatusModel):
    """How an agent ended."""

    result: Literal["Succeeded", "Failed", "Preempted", "Fenced", "Paused"]
    """Paused: a guard stopped the run until its spec changes; `failure` says why."""
    step: int = 0
    lost_steps: int = 0
    incarnation: int = 0
    failure: Failure | None = None
    suspicion: Suspicion | None = None
    """The pod was let go because of its node: its successor is to be placed on another one."""


class MemberReport(StatusModel):
    """One agent as the leader sees it."""

    index: int
    pod: str
    pod_uid: str
    ready: bool = False


class Report(StatusModel):
    """The leader's whole view of the run. Later reports replace earlier ones, by `sequence` per pod."""

    version: int = CONTRACT_VERSION
    run: RunIdentity
    pod: str
    pod_uid: str
    attempt: int
    ticket: int
    sequence: int
    sent_at: datetime
    incarnation: int = 0
    phase: Phase | None = None
    """What the gang does; none from a failure until the next incarnation is claimed, and at the end."""
    progress: Progress = Field(default_factory=Progress)
    plan: Plan | None = None
    checkpoints: Annotated[list[CheckpointRecord], Field(max_length=20)] = []
    resume: ResumePoint = Field(default_factory=ResumePoint)
    recoveries: Annotated[list[RecoveryRecord], Field(max_length=10)] = []
    restarts: int = 0
    lost_steps: int = 0
    failure: Failure | None = None
    timeline: Timeline | None = None
    members: Annotated[list[MemberReport], Field(max_length=4096)] = []
    nodes: int | None = None
    """Nodes that train in this incarnation; none while ranks are not started."""
    wanted: Literal["Nothing", "RecreateGang"] = "Nothing"
    """RecreateGang: in place did not help; the operator should make attempt + 1."""
    save_error: str | None = None
    unsaved: str | None = None
    """Why nothing of the work of a custom command is safe."""
    stall: str | None = None
    """What stands still, while nothing is done about it."""
    straggler: str | None = None
    """Which ranks slow the others down."""
    loss_spike: str | None = None
    """The loss spike that the run was told to go on through, while it is recent."""
    tracking: TrackingStatus | None = None
    tracking_error: str | None = None
    output: Output | None = None
    verdict: Verdict | None = None


FEWEST_CHECKPOINTS: Final = 2
"""A leader that has to cut its last report leaves no fewer rows of them, unless nothing but sums fit."""


class TerminationMessage(Verdict):
    """What an agent leaves in its pod: its verdict, and if it led, the last report as far as it fits.

    An operator that was away while a run ended learns from it what the run came to.
    """

    report: Report | None = None
    is_cut: bool = False
    """Whether the report lacks what did not fit: what an operator knows besides is still true."""


class Orders(StatusModel):
    """The answer to a report. `Save` then exit is how suspend, drain and deletion look to the gang."""

    version: int = CONTRACT_VERSION
    action: Literal["Continue", "SaveAndExit", "Stop"] = "Continue"
    reason: str = ""
    retry_after_seconds: float = 0.0


# --- inside a pod -------------------------------------------------------------------------------


class RankContext(Model):
    """What a forked rank is told. Rank variables (RANK, WORLD_SIZE, …) are set in its environment as well."""

    task: Literal["prepare", "train"]
    config: RunConfig
    incarnation: int
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    master_address: str = "127.0.0.1"
    master_port: int = 0
    threads: int = 1
    resume: str | None = Field(default=None, description="Name of the checkpoint directory to resume from.")
    prepared: str | None = Field(default=None, description="Name of the prepared-data directory.")
    highest_step: int = Field(
        default=0, description="Highest step any incarnation finished; later steps are new."
    )
    skipped_windows: list[tuple[int, int]] = Field(
        default=[],
        description="Windows [first, last) of positions in the order of samples that are left out.",
    )


class RankEvent(StatusModel):
    """One line from a rank to its agent. Only the fields of its `type` are set.

    Phase: phase. Forward: step (entry into the forward of the first step after a start).
    Step: step, loss, tokens, tokens_so_far, seconds, own_seconds (before others are waited for), data_wait_seconds,
    learning_rate, gradient_norm, flops.
    Validation: step, loss. Checkpoint: checkpoint, stall_seconds, write_seconds. SaveFailed: step, message.
    Plan: plan. Prepared: name. Tracking: tracking, message (not None means degraded). Output: output.
    LossSpike: step, loss, message (None means that it is over). Failure: failure, step (of class Numeric:
    the one that was not applied). Saved: step (a save asked for by SIGTERM is committed). Done: step.
    """

    type: Literal[
        "Phase",
        "Forward",
        "Step",
        "Validation",
        "Checkpoint",
        "SaveFailed",
        "LossSpike",
        "Plan",
        "Prepared",
        "Tracking",
        "Output",
        "Failure",
        "Saved",
        "Done",
    ]
    at: float = Field(description="Unix time in seconds.")
    rank: int = 0
    phase: Phase | None = None
    step: int | None = None
    loss: float | None = None
    tokens: int | None = None
    tokens_so_far: int | None = None
    seconds: float | None = None
    own_seconds: float | None = None
    data_wait_seconds: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    mfu: float | None = None
    stall_seconds: float | None = None
    write_seconds: float | None = None
    checkpoint: CheckpointRecord | None = None
    plan: Plan | None = None
    name: str | None = None
    tracking: TrackingStatus | None = None
    output: Output | None = None
    failure: Failure | None = None
    message: str | None = None


# --- in the checkpoint store --------------------------------------------------------------------


class FileEntry(Model):
    """One file of a checkpoint, relative to its directory."""

    path: str
    size: int
    xxh3: str


class Manifest(Model):
    """Written last into a checkpoint directory; a directory without one does not exist."""

    version: int = CONTRACT_VERSION
    run_uid: str
    step: int
    incarnation: int
    world_size: int
    strategy: str
    format: Literal["DCP", "DeepSpeed"]
    files: list[FileEntry]
    files_digest: str = Field(description="sha256 over the sorted file entries; the checkpoint's digest.")
    data_digest: str | None = None
    model_digest: str | None = Field(default=None, description="Fingerprint of the base model.")
    parent: str | None = None
    global_batch_size: int = 0
    seed: int = 0
    skipped_windows: list[tuple[int, int]] = []
    recent_losses: list[float] = []
    """Normal losses before this step, oldest first; the guard against loss spikes compares the next with them."""
    suspect_losses: list[float] = []
    """The losses since that are suspect to it."""
    precision: str = "FP32"
    validation_loss: float | None = None
    created_at: datetime


class Conversion(Model):
    """Written last into the universal copy of a DeepSpeed checkpoint, which any number of ranks can load."""

    version: int = CONTRACT_VERSION
    source: str = Field(description="Name of the checkpoint that it was made from.")
    source_digest: str = Field(description="That checkpoint's `files_digest`.")
    files: list[FileEntry]
    files_digest: str = Field(description="sha256 over the sorted file entries.")
    created_at: datetime


class AcceptedCheckpoint(Model):
    """A checkpoint that counted as verified when an incarnation began."""

    name: str
    step: int
    incarnation: int
    digest: str


class BudgetUse(Model):
    """Failures charged since `since_step`, the newest verified step when the count last began at zero."""

    used: dict[FailureClass, int] = {}
    since_step: int = 0
    signature: str | None = None
    signature_count: int = 0
    nodes: dict[str, int] = {}
    """Failures by the node of the first that failed."""
    recent: dict[FailureClass, list[datetime]] = {}
    """When failures happened, for classes whose budget is for a window of time; oldest first."""


class Rollback(Model):
    """How far a guard sends a run back, and past which data."""

    checkpoints: int = Field(description="Verified checkpoints to go back; 1 is the newest.")
    step: int = Field(description="The step that went wrong and was not applied.")
    skip_steps: int = Field(description="Steps whose data are skipped, up to that one.")


class IncarnationCause(Model):
    """Why an incarnation other than the first began."""

    rung: Rung
    failure_class: FailureClass = Field(alias="class")
    first_failed: FailedRank = Field(default_factory=FailedRank)
    exit_code: int | None = None
    signal: int | None = None
    evidence: list[str] = []
    from_step: int = 0
    rollback: Rollback | None = None
    skipped: SkippedData | None = None


class Incarnation(Model):
    """incarnations/0000000N.json, made by exclusive create: the fence. Whoever made the newest one leads."""

    version: int = CONTRACT_VERSION
    incarnation: int
    attempt: int
    ticket: int
    owner_pod_uid: str
    owner_pod: str
    created_at: datetime
    accepted: list[AcceptedCheckpoint] = []
    poisoned: list[str] = []
    resume: str | None = None
    prepared: str | None = None
    budgets: BudgetUse = Field(default_factory=BudgetUse)
    cause: IncarnationCause | None = None
    skipped_windows: list[tuple[int, int]] = []
    details: dict[str, Any] = {}
