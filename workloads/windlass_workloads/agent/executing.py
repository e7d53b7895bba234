"""One rank of a job with a command of its own: ties the process to its agent, then becomes the command.

Started by `commands` as `python -m windlass_workloads.agent.executing AGENT CONTEXT EVENTS RANK PROGRAM [ARGUMENT...]`
with two inherited descriptors. Must stay quick to import: every restart pays it once per rank.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from windlass_workloads.agent.lifeline import die_with

CONTEXT_VARIABLE: Final = "WINDLASS_RANK_CONTEXT"
EVENTS_VARIABLE: Final = "WINDLASS_RANK_EVENTS"
"""Paths of the rank's context, as JSON, and of the pipe to its agent."""
NOT_FOUND: Final = 127
NOT_RUNNABLE: Final = 126
FIELD: Final = "spec.custom.command"


def main(arguments: Sequence[str]) -> NoReturn:
    """Becomes the command; exits with a shell's code for a program that cannot be run."""
    agent, context, events, rank = (int(each) for each in arguments[:4])
    command = list(arguments[4:])
    die_with(agent)
    # By way of /proc, and not as numbers: a program that the command starts may have closed what it inherited.
    mine = f"/proc/{os.getpid()}/fd"
    os.environ[CONTEXT_VARIABLE] = f"{mine}/{context}"
    os.environ[EVENTS_VARIABLE] = f"{mine}/{events}"
    # Python ignores it, and what is ignored stays so: pipelines of the command would never end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        _tell(events, rank, describe(command[0], error))
        sys.exit(NOT_FOUND if missing else NOT_RUNNABLE)


def describe(program: str, error: OSError | ValueError) -> tuple[str, str]:
    """What is wrong with a program that could not be run, and the next step."""
    if isinstance(error, FileNotFoundError):
        hint = (
            "name a program that is in custom.image or on a volume of pod.volumes, or `python` with the path of a "
            "script; a script that is run by itself needs the interpreter of its first line"
        )
        return f"{FIELD}[0]: the program is not there (got {program!r}); allowed a program of the image", hint
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        hint = f"make it executable, or run it by its interpreter: [python, {program}]"
        return f"{FIELD}[0]: may not be executed (got {program!r}); allowed an executable file", hint
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        hint = "name its interpreter, for example [bash, script.sh], or begin the file with #!"
        return f"{FIELD}[0]: is no program (got {program!r}); allowed a program or a file with #!", hint
    return f"{FIELD}: cannot be run (got {program!r}: {error}); allowed a command", "correct the command"


def _tell(events: int, rank: int, what: tuple[str, str]) -> None:
    """Says it to the agent, which knows nothing but an exit code otherwise, and in the log."""
    from windlass.api.meta import FailureClass, Reason
    from windlass.api.status import Failure
    from windlass_workloads.agent.channel import RankChannel

    message, hint = what
    sys.stderr.write(f"error: {message}. hint: {hint}\n")
    failure = Failure(
        reason=Reason.CONFIGURATION,
        failure_class=FailureClass.CONFIGURATION,
        message=message,
        hint=hint,
        evidence=[message],
    )
    channel = RankChannel(events, rank)
    channel.failure(failure)
    channel.close()


if __name__ == "__main__":
    main(sys.argv[1:])
