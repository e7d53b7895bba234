"""The first moments of a rank, between the fork and the task's own code, and its end.

Called by `warm` in the forked process. Must never return: what the warm parent still has on its stack
is not the rank's business.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import sys
import traceback
from contextlib import suppress
from types import ModuleType
from typing import NoReturn

from windlass.api.contract import RankContext
from windlass.api.meta import ExitCode
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.agent.lifeline import die_with


def environment_of(context: RankContext) -> dict[str, str]:
    """The standard variables that torch.distributed and launchers agree on."""
    nodes = max(1, context.world_size // context.local_world_size)
    common = {
        "RANK": context.rank,
        "WORLD_SIZE": context.world_size,
        "LOCAL_RANK": context.local_rank,
        "LOCAL_WORLD_SIZE": context.local_world_size,
        "GROUP_RANK": context.rank // context.local_world_size,
        "MASTER_ADDR": context.master_address,
        "MASTER_PORT": context.master_port,
        "PET_NNODES": nodes,
        "PET_NPROC_PER_NODE": context.local_world_size,
        "PET_NODE_RANK": context.rank // context.local_world_size,
        "PET_MASTER_ADDR": context.master_address,
        "PET_MASTER_PORT": context.master_port,
        "OMP_NUM_THREADS": context.threads,
        "OPENBLAS_NUM_THREADS": context.threads,
        "MKL_NUM_THREADS": context.threads,
    }
    return {name: str(value) for name, value in common.items()}


def run_rank(context_json: bytes, *, tasks: str, events: int, log: int, agent: int) -> NoReturn:
    """Runs one task in this process and exits with its code."""
    code: int = ExitCode.INTERNAL
    channel: RankChannel | None = None
    try:
        _take_streams(log)
        die_with(agent)
        context = RankContext.model_validate_json(context_json)
        channel = RankChannel(events, context.rank)
        _prepare_process(context, channel)
        module = importlib.import_module(tasks)
        code = _run_task(module, context, channel)
    except BaseException:  # the process must end here, whatever happened
        traceback.print_exc()
    finally:
        if channel is not None:
            channel.close()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Destructors of a broken process group can hang or abort; tasks close what they open.
        os._exit(code)


def _take_streams(log: int) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")


def _name_process(name: str) -> None:
    """What ps and top show; the kernel keeps 15 bytes."""
    with suppress(OSError), open("/proc/self/comm", "w") as out:
        out.write(name[:15])


def _prepare_process(context: RankContext, channel: RankChannel) -> None:
    os.environ.update(environment_of(context))
    _name_process(f"windlass-rank-{context.rank}" if context.task == "train" else "windlass-data")
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGTERM, lambda *_: channel.request_save())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.enable()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(context.threads)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # Forked ranks would otherwise all draw the same "random" numbers.
        numpy.random.seed()


def _run_task(module: ModuleType, context: RankContext, channel: RankChannel) -> int:
    task = module.prepare if context.task == "prepare" else module.train
    try:
        task(context, channel)
    except SystemExit as ending:
        return _code_of(ending.code)
    except MemoryError:
        traceback.print_exc()
        return ExitCode.OUT_OF_MEMORY
    except BaseException:  # any error of training code ends the rank, with its traceback in the log
        traceback.print_exc()
        return ExitCode.CRASH
    return ExitCode.SUCCESS


def _code_of(code: object) -> int:
    if code is None:
        return ExitCode.SUCCESS
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)  # noqa: T201 - as the interpreter does with sys.exit("text")
    return 1
