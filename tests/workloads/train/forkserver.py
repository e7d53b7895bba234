"""A process that has imported torch and forks training ranks on request, as the agent's warm parent does.

Started once per test session. One JSON request per line on stdin, one JSON answer per line on stdout.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from windlass.api.contract import RankContext, RankEvent  # noqa: E402
from windlass_workloads.agent.child import environment_of  # noqa: E402
from windlass_workloads.data.sources import Roots  # noqa: E402
from windlass_workloads.train import ahead, tasks  # noqa: E402


class FileChannel:
    """Writes events to a file, and carries out what a test wants to happen at one of them."""

    def __init__(self, path: Path, rank: int, actions: list[dict[str, Any]]) -> None:
        self.file = path.open("a")
        self.rank = rank
        self.actions = [action for action in actions if action.get("rank", rank) == rank]
        self.save_requested = False
        signal.signal(signal.SIGTERM, self._asked)

    def _asked(self, number: int, frame: object) -> None:
        self.save_requested = True

    def send(self, event: RankEvent) -> None:
        self.file.write(event.model_dump_json(by_alias=True, exclude_none=True) + "\n")
        self.file.flush()
        for action in self.actions:
            if action["type"] == event.type and action.get("step", event.step) == event.step:
                os.kill(os.getpid(), getattr(signal, action["signal"]))


def run_rank(request: dict[str, Any], index: int) -> int:
    context = RankContext.model_validate(request["ranks"][index])
    directory = Path(request["directory"])
    log = os.open(directory / f"rank-{index}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update({**environment_of(context), **request.get("environment", {})})
    channel = FileChannel(directory / f"events-{index}.jsonl", context.rank, request["actions"])
    # A path with {rank} in it gives each rank volumes of its own, as another node might.
    roots = Roots(Path(request["volumes"].replace("{rank}", str(index))), Path(request["secrets"]))
    task = tasks.prepare if context.task == "prepare" else tasks.train
    try:
        if request.get("function"):
            import importlib

            module, _, function = request["function"].rpartition(".")
            getattr(importlib.import_module(module), function)(context, directory)
        else:
            task(context, channel, roots)
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


def fork(request: dict[str, Any], index: int) -> int:
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        code = run_rank(request, index)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(request: dict[str, Any]) -> list[int]:
    """Exit codes by rank (negative: signal). One rank's bad end kills the others, as an agent would."""
    if request.get("deepspeed"):
        from windlass_workloads.train.strategies.deepspeed import load_library

        load_library()
    if request.get("ahead"):
        roots = Roots(Path(request.get("ahead_volumes", request["volumes"])), Path(request["secrets"]))
        request["built"] = tasks.build_ahead(RankContext.model_validate(request["ranks"][0]), roots)
        request["threads"] = len(os.listdir("/proc/self/task"))
    processes = {fork(request, index): index for index in range(len(request["ranks"]))}
    codes: dict[int, int] = {}
    deadline = time.monotonic() + request["limit"]
    while processes:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in processes:
            codes[processes.pop(process)] = os.waitstatus_to_exitcode(status)
            bad = codes[max(codes)] != 0 or any(codes.values())
            if bad and request.get("stop_peers", True):
                kill(list(processes))
        elif time.monotonic() > deadline:
            kill(list(processes))
        else:
            time.sleep(0.01)
    return [codes[index] for index in range(len(request["ranks"]))]


def kill(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tasks.preload()
    # As the warm parent does: a rank's garbage collector would copy all that was imported.
    gc.freeze()
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"codes": serve(request), **{key: request.get(key) for key in ("built", "threads")}}
        # The next test starts from nothing.
        ahead.forget()
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
