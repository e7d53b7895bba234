"""Names that everything else refers to: group, labels, conditions, reasons, classes, rungs, exit codes.

Every closed set of the product is an enum here, so that a log line, an event, a condition and a
metric cannot use different words for one thing. Nothing here may depend on a kind.
"""

from enum import IntEnum, StrEnum
from typing import Final

GROUP: Final = "windlass.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "windlass"

MANAGER: Final = "windlass"
STATUS_MANAGER: Final = "windlass-status"
NOTICE_MANAGER: Final = "windlass-checkpoint"

LABEL_RUN: Final = f"{GROUP}/run"
LABEL_KIND: Final = f"{GROUP}/kind"
LABEL_RUN_UID: Final = f"{GROUP}/run-uid"
LABEL_INDEX: Final = f"{GROUP}/index"
LABEL_TICKET: Final = f"{GROUP}/ticket"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
ANNOTATION_AVOIDS: Final = f"{GROUP}/avoids-nodes"
"""Names of the nodes that a pod may not be placed on, comma-separated: required when it was made."""
ANNOTATION_CHECKPOINT_STEP: Final = f"{GROUP}/checkpoint-step"
ANNOTATION_CHECKPOINT_TIME: Final = f"{GROUP}/checkpoint-time"
CHECKPOINT_ANNOTATIONS: Final = (ANNOTATION_CHECKPOINT_STEP, ANNOTATION_CHECKPOINT_TIME)
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "windlass"

REPORT_AUDIENCE: Final = GROUP
REPORT_PATH: Final = "/v1/reports"

CONTRACT_VERSION: Final = 1

RUN_CONFIG_MOUNT: Final = "/etc/windlass/run"
RUN_CONFIG_FILE: Final = "run.json"
CA_MOUNT: Final = "/etc/windlass/ca"
CA_FILE: Final = "ca.crt"
TOKEN_MOUNT: Final = "/var/run/secrets/windlass"  # noqa: S105 - a path
TOKEN_FILE: Final = "token"  # noqa: S105 - a path
STORE_MOUNT: Final = "/windlass/store"
VOLUME_ROOT: Final = "/windlass/volumes"
"""A claim named c that a `pvc://c/path` URI refers to is mounted read-only at VOLUME_ROOT/c."""
SECRET_ROOT: Final = "/windlass/secrets"  # noqa: S105 - a path
"""A secretRef {name: s} is mounted read-only at SECRET_ROOT/s."""
SCRATCH_MOUNT: Final = "/tmp"  # noqa: S108 - an emptyDir of the pod
TERMINATION_LOG: Final = "/dev/termination-log"

AGENT_PORT: Final = 29400
"""TCP port on which the leader listens for the other agents of its gang."""


class ConditionType(StrEnum):
    """Condition types of a job. Ready, Reconciling and Stalled follow kstatus."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SUSPENDED = "Suspended"
    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    TRACKING_DEGRADED = "TrackingDegraded"
    CHECKPOINT_DEGRADED = "CheckpointDegraded"
    LOSS_DEGRADED = "LossDegraded"
    PRECISION_CHOSEN = "PrecisionChosen"
    SHRUNK = "Shrunk"
    PROGRESS_DEGRADED = "ProgressDegraded"


class Reason(StrEnum):
    """Reasons of conditions and events. Each has a page in docs/failures/ or docs/concepts/states.md."""

    # progress
    ACCEPTED = "Accepted"
    STARTING = "Starting"
    QUEUED = "Queued"
    WAITING_FOR_PODS = "WaitingForPods"
    PREPARING = "Preparing"
    TRAINING = "Training"
    RECOVERING = "Recovering"
    BACKING_OFF = "BackingOff"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    EXPORTING = "Exporting"
    COMPLETED = "Completed"
    AS_EXPECTED = "AsExpected"
    # the world does not fit the spec
    INVALID_SPEC = "InvalidSpec"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    CLAIM_NOT_BOUND = "ClaimNotBound"
    ACCESS_MODE = "AccessModeNotShared"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason
    SECRET_KEY_NOT_FOUND = "SecretKeyNotFound"  # noqa: S105 - a reason
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY_DENIED = "PodSecurityDenied"
    OBJECT_CONFLICT = "ObjectConflict"
    QUEUE_UNAVAILABLE = "QueueUnavailable"
    # failures of a run
    CRASH = "Crash"
    OUT_OF_MEMORY = "OutOfMemory"
    INFRASTRUCTURE = "Infrastructure"
    CONFIGURATION = "Configuration"
    PREEMPTED = "Preempted"
    STALL = "Stall"
    STORAGE = "Storage"
    STORAGE_FULL = "StorageFull"
    DATA_NOT_FOUND = "DataNotFound"
    DATA_UNREADABLE = "DataUnreadable"
    DATA_EMPTY = "DataEmpty"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_FORMAT_UNSAFE = "ModelFormatUnsafe"
    SEQUENCE_TOO_LONG = "SequenceTooLong"
    PRECISION_UNSUPPORTED = "PrecisionUnsupported"
    CHECKPOINT_UNUSABLE = "CheckpointUnusable"
    NON_FINITE = "NonFinite"
    LOSS_SPIKE = "LossSpike"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    NO_PROGRESS = "NoProgress"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    GANG_NOT_STARTED = "GangNotStarted"
    # degradations
    TRACKING_UNREACHABLE = "TrackingUnreachable"
    SAVE_FAILED = "SaveFailed"
    NO_CHECKPOINTS = "NoCheckpoints"
    REPORTS_MISSING = "ReportsMissing"
    NODES_MISSING = "NodesMissing"
    STALL_SUSPECTED = "StallSuspected"
    STRAGGLER_DETECTED = "StragglerDetected"
    # recovery events
    RECOVERED = "Recovered"
    CHECKPOINT_COMMITTED = "CheckpointCommitted"
    # nodes
    NODE_SUSPECTED = "NodeSuspected"
    POD_FORCE_DELETED = "PodForceDeleted"
    # other events
    DRIFT_CORRECTED = "DriftCorrected"


class FailureClass(StrEnum):
    """What kind of failure ended an incarnation; decides budget and first rung (design: recovery)."""

    CRASH = "Crash"
    OUT_OF_MEMORY = "OutOfMemory"
    INFRASTRUCTURE = "Infrastructure"
    PREEMPTED = "Preempted"
    CONFIGURATION = "Configuration"
    STORAGE = "Storage"
    STALL = "Stall"
    NUMERIC = "Numeric"


class Rung(StrEnum):
    """How much is replaced to go on, from least to most."""

    IN_PLACE = "InPlace"
    RECREATE_POD = "RecreatePod"
    OTHER_NODE = "OtherNode"
    SHRINK = "Shrink"
    RECREATE_GANG = "RecreateGang"


class SuspectReason(StrEnum):
    """Why a run avoids a node."""

    NODE_LOST = "NodeLost"
    DEVICE_ERROR = "DeviceError"
    HEALTH_TAINT = "HealthTaint"
    REPEATED_FAILURES = "RepeatedFailures"


class Exclusion(StrEnum):
    """How firmly a run avoids a node: never placed there, or only where no other node has room."""

    REQUIRED = "Required"
    PREFERRED = "Preferred"


class Phase(StrEnum):
    """What a rank or the gang is doing; seconds are accounted by these (design: goodput)."""

    IMPORTS = "Imports"
    PREPARE = "Prepare"
    RENDEZVOUS = "Rendezvous"
    LOAD = "Load"
    TRAIN = "Train"
    VALIDATE = "Validate"
    SAVE = "Save"
    EXPORT = "Export"


class ExitCode(IntEnum):
    """Exit codes of an agent. The verdict in the termination message is the evidence, not the code."""

    SUCCESS = 0
    CRASH = 10
    CONFIGURATION = 11
    OUT_OF_MEMORY = 12
    STORAGE = 13
    PREEMPTED = 14
    FENCED = 15
    """Another leader owns a newer incarnation; this pod must not go on."""
    BUDGET = 16
    INTERNAL = 17
    NUMERIC = 18


EXIT_CODES: Final = {
    FailureClass.CRASH: ExitCode.CRASH,
    FailureClass.OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
    FailureClass.CONFIGURATION: ExitCode.CONFIGURATION,
    FailureClass.STORAGE: ExitCode.STORAGE,
    FailureClass.PREEMPTED: ExitCode.PREEMPTED,
    FailureClass.INFRASTRUCTURE: ExitCode.CRASH,
    FailureClass.STALL: ExitCode.CRASH,
    FailureClass.NUMERIC: ExitCode.NUMERIC,
}
"""The code of a rank or an agent that ended by a failure of the class."""
