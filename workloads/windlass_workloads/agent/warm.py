"""The warm parent: a process that has imported what ranks need and forks them on request.

Started by the agent as `python -m windlass_workloads.agent.warm TASKS SOCKET AGENT`. It runs one
thread, opens no device and computes nothing in parallel: a fork of anything else can hang or poison
the child. A request with two descriptors asks for a rank; one without asks to build ahead what ranks need.
With `--rank` it is one rank itself, the slow way, for when forking is not safe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from windlass.api.contract import RankContext
from windlass_workloads.agent.child import run_rank
from windlass_workloads.agent.lifeline import die_with

HEADER: Final = struct.Struct("!I")


class Unsafe(Exception):
    """This process must not be forked now; the text says why."""


def receive(server: socket.socket) -> tuple[bytes, list[int]]:
    """One request with its file descriptors; empty when the agent is gone."""
    header, descriptors, _, _ = socket.recv_fds(server, HEADER.size, 2)
    while header and len(header) < HEADER.size:
        header += server.recv(HEADER.size - len(header))
    if not header:
        return b"", []
    (length,) = HEADER.unpack(header)
    data = bytearray()
    while len(data) < length:
        part = server.recv(length - len(data))
        if not part:
            return b"", []
        data += part
    return bytes(data), list(descriptors)


def answer(server: socket.socket, **fields: object) -> None:
    """Sends one message to the agent."""
    data = json.dumps(fields).encode()
    server.sendall(HEADER.pack(len(data)) + data)


def check_safe() -> None:
    """Raises Unsafe when a fork could break the child."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise Unsafe(f"the warm parent runs {threads} threads, one is allowed")
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise Unsafe("the warm parent has a CUDA context")


def fork_rank(server: socket.socket, data: bytes, descriptors: Sequence[int], tasks: str, agent: int) -> int:
    """Forks twice, so that the rank becomes the agent's child; returns its process id."""
    check_safe()
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            process = os.fork()
            if process == 0:
                os.close(reader)
                os.close(writer)
                server.close()
                events, log = descriptors
                run_rank(data, tasks=tasks, events=events, log=log, agent=agent)
            os.write(writer, HEADER.pack(process))
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, HEADER.size)
    os.close(reader)
    os.waitpid(middle, 0)
    if len(told) != HEADER.size:
        raise Unsafe("the fork failed")
    return int(HEADER.unpack(told)[0])


def build_ahead(data: bytes, tasks: str) -> dict[str, object]:
    """Has the tasks module build what ranks of this context begin with: `built`, or why not.

    A failure is not told as one: the rank that meets it again tells it with all that belongs to it.
    """
    module = sys.modules[tasks]
    build = getattr(module, "build_ahead", None)
    if build is None:
        return {"built": False, "why": "these tasks have nothing to build"}
    outcome: dict[str, object]
    try:
        outcome = {"built": bool(build(RankContext.model_validate_json(data)))}
    except Exception as error:  # whatever it is, a rank will meet it again and tell it
        outcome = {"built": False, "why": f"{type(error).__name__}: {error}"[:500]}
    gc.collect()
    gc.freeze()
    try:
        check_safe()
    except Unsafe as error:
        return {"built": False, "unsafe": str(error)}
    return outcome


def serve(server: socket.socket, tasks: str, agent: int) -> None:
    """Answers requests until the agent closes the socket."""
    while True:
        data, descriptors = receive(server)
        if not data:
            return
        if not descriptors:
            answer(server, **build_ahead(data, tasks))
            continue
        try:
            answer(server, process=fork_rank(server, data, descriptors, tasks, agent))
        except (Unsafe, OSError) as error:
            answer(server, error=str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def preload(tasks: str) -> None:
    """Imports the tasks module and what it wants warm, then freezes the heap for sharing."""
    module = importlib.import_module(tasks)
    module.preload()
    gc.collect()
    gc.disable()
    gc.freeze()


def main(arguments: Sequence[str]) -> int:
    """Entry of the process."""
    tasks, descriptor, agent = arguments[0], int(arguments[1]), int(arguments[2])
    if arguments[3:4] == ["--rank"]:
        events, log = int(arguments[4]), int(arguments[5])
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read()
        run_rank(data, tasks=tasks, events=events, log=log, agent=agent)
    die_with(agent)
    # The warm parent ends when the agent wants it to. Blocked and not ignored: a rank that is asked to save
    # before it has a handler hears of it as soon as it has one.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = socket.socket(fileno=descriptor)
    began = time.monotonic()
    preload(tasks)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        answer(server, ready=True, seconds=round(time.monotonic() - began, 3))
        serve(server, tasks, agent)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
