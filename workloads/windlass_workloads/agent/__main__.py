"""Entry of a training pod: `python -m windlass_workloads.agent`, PID 1 of the container.

Exit code and termination message say how it ended. Must never end while a rank of it runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from windlass.api.contract import RunConfig, Verdict
from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.api.status import Failure
from windlass_workloads.agent import verdict as verdicts
from windlass_workloads.agent.console import Console
from windlass_workloads.agent.follower import Follower
from windlass_workloads.agent.identity import (
    Identity,
    Options,
    StartError,
    identity_from,
    load_run_config,
    options_from,
)
from windlass_workloads.agent.pod import Pod
from windlass_workloads.checkpoint.store import RunStore

log = logging.getLogger("windlass.agent")

LOG_SECONDS: Final = 2.0
STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LineFormatter(logging.Formatter):
    """`[agent] level message key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        extra = {key: value for key, value in vars(record).items() if key not in STANDARD}
        words = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in extra.items())
        line = f"[agent] {record.levelname.lower()} {record.getMessage()} {words}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def main(arguments: Sequence[str], console: Console) -> int:
    """Runs the agent; returns its exit code."""
    handler = logging.StreamHandler(console)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    options = options_from(arguments)
    try:
        identity = identity_from(os.environ)
        config = load_run_config(options.run_config)
    except StartError as error:
        verdict = _unstartable(str(error))
        code = verdicts.exit_code(verdict)
    else:
        verdict, code = _run(identity, options, config, console)
    log.info("ended", extra={"result": verdict.result, "step": verdict.step, "code": int(code)})
    verdicts.write(options.termination_log, verdict)
    return int(code)


def leave(code: int, console: Console) -> NoReturn:
    """Ends the process now. A thread that waits for a store which does not answer must not hold it up."""
    console.drain(LOG_SECONDS)
    os._exit(code)


def _run(
    identity: Identity, options: Options, config: RunConfig, console: Console
) -> tuple[Verdict, ExitCode]:
    # Not asyncio.run, which joins the threads of unanswered file operations.
    loop = asyncio.new_event_loop()
    try:
        verdict = loop.run_until_complete(_live(identity, options, config, console))
    except Exception as error:  # the operator must learn of our own mistakes too
        log.exception("the agent is broken")
        failure = Failure(
            reason=str(Reason.CRASH),
            failure_class=FailureClass.CRASH,
            message=f"the agent itself failed: {type(error).__name__}: {error}",
            hint="this is a fault of Windlass; the pod's log has the traceback",
        )
        return Verdict(result="Failed", failure=failure), ExitCode.INTERNAL
    return verdict, verdicts.exit_code(verdict)


async def _live(identity: Identity, options: Options, config: RunConfig, console: Console) -> Verdict:
    pod = Pod(identity, options, config, show=console.show)
    store = RunStore(config.store_path)
    log.info(
        "agent",
        extra={
            "pod": identity.pod,
            "index": identity.index,
            "ticket": identity.ticket,
            "attempt": identity.attempt,
        },
    )
    try:
        if identity.index == 0:
            # Followers do without the weight of what only a leader needs.
            from windlass_workloads.agent.leader import Leader

            return await Leader(pod, store).run()
        return await Follower(pod, store).run()
    finally:
        await pod.close()


def _unstartable(message: str) -> Verdict:
    text, _, hint = message.partition(" hint: ")
    failure = Failure(
        reason=str(Reason.CONFIGURATION),
        failure_class=FailureClass.CONFIGURATION,
        message=text,
        hint=hint,
    )
    return Verdict(result="Failed", failure=failure)


if __name__ == "__main__":
    out = Console()
    leave(main(sys.argv[1:], out), out)
