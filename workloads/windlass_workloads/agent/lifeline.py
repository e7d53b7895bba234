"""Ties a process to its agent: what every rank does first, whichever way it was started.

Standard library only and quick to import: a rank that runs a command of the user's own pays it at each restart.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Final

from windlass.api.meta import ExitCode

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
REPARENT_SECONDS: Final = 5.0


def die_with(parent: int) -> None:
    """Makes the kernel kill this process when its agent ends; exits if the agent is gone already."""
    deadline = time.monotonic() + REPARENT_SECONDS
    while os.getppid() != parent:
        if time.monotonic() > deadline:
            os._exit(ExitCode.INTERNAL)
        time.sleep(0.0005)
    process_control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(ExitCode.INTERNAL)


def process_control(option: int, value: int) -> None:
    """prctl(2) with one number; OSError when the kernel refuses."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"prctl({option})")
