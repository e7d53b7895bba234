"""What is known about the end of a rank or a pod, and the text patterns that give it meaning.

Agents fill an End from waitpid, the cgroup and the last log lines; the operator from a PodView. Holds
no judgement: that is the table in `classify`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from windlass.api.meta import ExitCode
from windlass.api.status import FailedRank, Failure

EVIDENCE_LINES = 8
EVIDENCE_CHARACTERS = 400

# A rank whose peer died says one of these; it is never the cause while another rank has a reason of its own.
CASCADE: Final = re.compile(
    r"connection (was )?(likely )?(reset|closed|refused|aborted)( by peer)?|broken pipe|socket closed|connection lost"
    r"|timed? ?out (waiting|after|in)|watchdog (caught|got|detected)|collective operation timeout"
    r"|remote process (has )?(exited|terminated)|peer (closed|disconnected)|ncclremoteerror"
    r"|nccl ?(system|internal)?error|distbackenderror|connectfullmesh|store_? ?(is )?(closed|unreachable)"
    r"|socket timeout|recvvalue\w* failed"
    r"|unhandled system error",
    re.IGNORECASE,
)
OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|outofmemoryerror|memoryerror\b|unable to allocate \d|cannot allocate memory|can't allocate memory"
    r"|cublas_status_alloc_failed|failed to allocate|std::bad_alloc|defaultcpuallocator",
    re.IGNORECASE,
)
SHARED_MEMORY: Final = re.compile(
    r"(no space left|insufficient|unable to (open|resize|write)).{0,80}(/dev/shm|shared memory)"
    r"|/dev/shm.{0,80}no space left|bus error",
    re.IGNORECASE,
)
STORAGE_FULL: Final = re.compile(
    r"no space left on device|\benospc\b|disk quota exceeded|errno 28\b", re.IGNORECASE
)
STORAGE: Final = re.compile(
    r"input/output error|\beio\b|errno 5\b|stale (nfs )?file handle|errno 116\b|read-only file system"
    r"|transport endpoint is not connected|errno 107\b|file too large|errno 27\b"
    # torch wrote or read less of an archive than there should be.
    r"|unexpected pos \d+ vs \d+|pytorchstream(reader|writer) failed",
    re.IGNORECASE,
)
NETWORK: Final = re.compile(
    r"name or service not known|temporary failure in name resolution|nameresolutionerror"
    r"|network is unreachable|no route to host|remote end closed connection|remotedisconnected"
    r"|address already in use|errno 98\b",
    re.IGNORECASE,
)
HARDWARE: Final = re.compile(
    r"\bxid\b|uncorrectable ecc|ecc error|device-side hardware|nvlink error|gpu has fallen off the bus"
    r"|cuda error: (unspecified launch failure|unknown error|hardware)",
    re.IGNORECASE,
)
NO_NUMBER: Final = re.compile(
    r"\b(loss|gradient norm|grad_norm)( is|:| =|=)? ?(nan|-?inf)\b|non-?finite (loss|grad)|\bnan (loss|grad)",
    re.IGNORECASE,
)
CONFIGURATION: Final = re.compile(
    r"modulenotfounderror|importerror|no module named|unrecognized arguments|filenotfounderror"
    r"|no such file or directory|permission denied|size mismatch|shapes? cannot be multiplied"
    r"|validationerror|keyerror|unexpected keyword argument|executable file not found"
    r"|jsondecodeerror|unicodedecodeerror|not found in the base model|error no file named"
    r"|found no nvidia driver|driver on your system is too old",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class End:
    """How one process or pod ended. Times are Unix seconds; `log_tail` is oldest first.

    `oom_kills` is how often the kernel killed for memory in this cgroup meanwhile. `stopped` means that
    we ended it ourselves, after something else had failed. The last fields are known for pods only.
    """

    at: float
    rank: int | None = None
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    log_tail: tuple[str, ...] = ()
    failure: Failure | None = None
    oom_kills: int = 0
    stopped: bool = False
    before_first_step: bool = False
    whole_pod: bool = False
    container_reason: str | None = None
    pod_reason: str | None = None
    disruption: str | None = None

    @property
    def text(self) -> str:
        """Everything that was said."""
        said = [self.failure.message, *self.failure.evidence] if self.failure is not None else []
        return "\n".join([*said, *self.log_tail])

    @property
    def killed_by(self) -> int | None:
        """The signal that ended it, also when a container runtime wrote it as 128 + signal."""
        if self.signal:
            return self.signal
        if self.exit_code is not None and 128 < self.exit_code < 160:
            return self.exit_code - 128
        return None

    @property
    def place(self) -> FailedRank:
        """Where it ended."""
        return FailedRank(rank=self.rank, pod=self.pod, node=self.node)


def exited(end: End, code: ExitCode) -> bool:
    """Whether it ended with one of our own exit codes."""
    return end.exit_code == code


def lines_of(end: End) -> list[str]:
    """The lines worth showing: those that match a pattern first, else the last ones."""
    lines = [line.strip()[:EVIDENCE_CHARACTERS] for line in end.log_tail if line.strip()]
    told = list(end.failure.evidence) if end.failure is not None else []
    speaking = [line for line in lines if is_error_line(line)]
    chosen = (speaking or lines)[-(EVIDENCE_LINES - 2) :]
    return list(dict.fromkeys([*told, *chosen]))[: EVIDENCE_LINES - 1]


def is_error_line(line: str) -> bool:
    """Whether a log line speaks of an error."""
    return bool(re.search(r"error|exception|fatal|killed|fault|abort|xid|no space", line, re.IGNORECASE))
