"""Has the checkpoint converted before ranks meet, when DeepSpeed saved it with another number of them.

Called by the loop on every rank; rank 0 forks a process for it, the others only wait for rank 0 to listen. That
process ends with its parent and tells how it went through a pipe; its death by a signal is told apart.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

from windlass.api.contract import RankContext
from windlass_workloads.agent.lifeline import die_with
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint import universal
from windlass_workloads.checkpoint.errors import (
    CheckpointUnusable,
    Fenced,
    SaveError,
    StoreUnusable,
    TooLittleMemory,
)
from windlass_workloads.checkpoint.store import RunStore

log = logging.getLogger(__name__)

TASKS: Final = "/proc/self/task"
"""One entry for each thread of this process."""
CONVERSION_MEMORY = (
    "raise resources.perNode.memory: a conversion needs one rank's share of the checkpoint beside the rank."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a conversion ended; `kind` says which exception it was, if any."""

    kind: Literal["Done", "Unusable", "Volume", "Full", "Fenced", "Memory"]
    message: str = ""
    hint: str = ""
    evidence: tuple[str, ...] = ()
    newest: int = 0


def is_needed(context: RankContext) -> bool:
    """Whether this start resumes from a checkpoint of DeepSpeed that another number of ranks saved.

    A manifest that cannot be read says no: the load meets it again and tells what is wrong.
    """
    if context.resume is None or context.config.spec.parallelism.strategy != "DeepSpeed":
        return False
    with contextlib.suppress(manifests.ManifestInvalid, OSError):
        source = manifests.read(RunStore(context.config.store_path), context.resume)
        return universal.is_wanted(source, context.world_size)
    return False


def run(context: RankContext) -> None:
    """Makes the universal copy on rank 0, or finds it; nothing on others. Raises what universal.make does.

    TooLittleMemory when the process was killed: the kernel does that when the pod is at its limit.
    """
    if context.rank != 0:
        return
    began = time.monotonic()
    # A process of several threads must not be forked: a new one imports everything again.
    method = "fork" if len(os.listdir(TASKS)) == 1 else "spawn"
    processes: Any = multiprocessing.get_context(method)
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=serve, args=(context.model_dump_json(), os.getpid(), sender))
    process.start()
    sender.close()
    try:
        answer: Answer | None = receiver.recv()
    except EOFError:
        answer = None
    process.join()
    if answer is None:
        raise _killed(context, process.exitcode or 0)
    raise_as(answer, context)
    log.info("converted", extra={"checkpoint": context.resume, "seconds": round(time.monotonic() - began, 3)})


def serve(context_json: str, parent: int, sender: Connection) -> None:
    """Body of the process: converts and answers."""
    die_with(parent)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context = RankContext.model_validate_json(context_json)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        answer = outcome_of(context)
    sender.send(answer)
    sender.close()


def outcome_of(context: RankContext) -> Answer:
    """Converts in this process; what a pipe can carry of how that went."""
    from windlass_workloads.train.strategies.deepspeed import to_universal

    try:
        universal.make(RunStore(context.config.store_path), context, to_universal)
    except CheckpointUnusable as error:
        return Answer("Unusable", error.message, error.hint, error.evidence)
    except Fenced as error:
        return Answer("Fenced", newest=error.newest)
    except SaveError as error:
        return Answer("Full", str(error))
    except (StoreUnusable, OSError) as error:
        return Answer("Volume", str(error))
    except MemoryError as error:
        return Answer("Memory", str(error))
    return Answer("Done")


def raise_as(answer: Answer, context: RankContext) -> None:
    """Raises in the rank what the process met; nothing when it is done."""
    name = context.resume or ""
    if answer.kind == "Unusable":
        raise CheckpointUnusable(name, answer.message, hint=answer.hint, evidence=answer.evidence)
    if answer.kind == "Fenced":
        raise Fenced(mine=context.incarnation, newest=answer.newest, action=f"convert {name}")
    if answer.kind == "Full":
        raise SaveError(answer.message, full=True)
    if answer.kind == "Volume":
        raise StoreUnusable(answer.message)
    if answer.kind == "Memory":
        text = f"converting {name} for another number of ranks: {answer.message}"
        raise TooLittleMemory(text, hint=CONVERSION_MEMORY)


def _killed(context: RankContext, code: int) -> Exception:
    name = context.resume or ""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        text = f"converting {name} for another number of ranks was killed ({how})"
        return TooLittleMemory(text, hint=CONVERSION_MEMORY)
    return CheckpointUnusable(
        name,
        f"converting it for another number of ranks ended with {how}",
        hint="the run falls back to the next verified checkpoint by itself; see the log of rank 0",
        evidence=[f"the process that converted it ended with {how}"],
    )
