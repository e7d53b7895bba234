"""Starts ranks that run a command of the user's own: where other jobs have their warm parent, these have none.

Used by `pod` for jobs with spec.custom. A command is executed, never forked from a parent: what it imports is not
known. Nothing of it is ever read by a shell.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from windlass.api.contract import RankContext
from windlass_workloads.agent.child import environment_of
from windlass_workloads.agent.forking import ForkFailed

MODULE: Final = "windlass_workloads.agent.executing"


class Commands:
    """Always ready. Has the same face as a warm parent, of which a rank host asks no more."""

    has_built = True
    """There is nothing to build ahead."""

    def __init__(
        self, command: Sequence[str], *, on_ready: Callable[[bool], None], environment: Mapping[str, str]
    ) -> None:
        self._command = list(command)
        self._on_ready = on_ready
        self._environment = dict(environment)
        self.ready = asyncio.Event()

    def start(self) -> None:
        """There is nothing to wait for."""
        self.ready.set()
        self._on_ready(True)

    async def stop(self) -> None:
        """Ranks are ended by their host."""
        self.ready.clear()

    async def build_ahead(self, context: RankContext) -> None:
        """Nothing."""

    async def fork(self, context: RankContext, events: int, output: int) -> int:
        """Process id of a new rank that writes to these descriptors; ForkFailed or OSError when there is none."""
        try:
            return self._execute(context, events, output)
        except ValueError as error:
            raise ForkFailed(f"spec.custom.command: cannot be run ({error})") from error

    def _execute(self, context: RankContext, events: int, output: int) -> int:
        memory = os.memfd_create("rank-context")
        try:
            os.write(memory, context.model_dump_json(by_alias=True).encode())
            where = (str(os.getpid()), str(memory), str(events), str(context.rank))
            child = subprocess.Popen(
                [sys.executable, "-m", MODULE, *where, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(memory, events),
                env=environment_for(context, self._environment),
                start_new_session=True,
            )
        finally:
            os.close(memory)
        child.returncode = 0  # the reaper waits for it, not this object
        return child.pid


def environment_for(context: RankContext, environment: Mapping[str, str]) -> dict[str, str]:
    """What the command finds in its environment: the pod's variables and, over them, those that torchrun sets."""
    nodes = max(1, context.world_size // context.local_world_size)
    elastic = {
        "GROUP_WORLD_SIZE": nodes,
        "ROLE_NAME": "default",
        "ROLE_RANK": context.rank,
        "ROLE_WORLD_SIZE": context.world_size,
        "TORCHELASTIC_RESTART_COUNT": context.incarnation - 1,
        "TORCHELASTIC_MAX_RESTARTS": context.config.spec.recovery.budgets.crash,
        "TORCHELASTIC_RUN_ID": context.config.run.uid,
        # The last words of a rank that is killed would be lost in a buffer.
        "PYTHONUNBUFFERED": 1,
    }
    own = Path(sys.executable).parent
    return {
        **environment,
        **environment_of(context),
        **{name: str(value) for name, value in elastic.items()},
        # So that `python` is the interpreter that has this package.
        "PATH": os.pathsep.join(part for part in (str(own), environment.get("PATH", os.defpath)) if part),
    }
