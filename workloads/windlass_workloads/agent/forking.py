"""The agent's side of the warm parent: starts it, keeps it alive and asks it for ranks.

The warm parent's death kills no rank; it is started again. One that never comes up, or hangs in its
imports, is reported as broken, with the end of its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from windlass.api.contract import RankContext
from windlass_workloads.agent.console import show_now
from windlass_workloads.agent.pumps import LogPump
from windlass_workloads.agent.reaper import Ending, Reaper
from windlass_workloads.agent.warm import HEADER

log = logging.getLogger(__name__)

MODULE: Final = "windlass_workloads.agent.warm"
TRIES: Final = 3
ANSWER_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 10.0
KILL_SECONDS: Final = 5.0
ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Counting devices through the CUDA runtime before a fork would poison the children.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


class ForkFailed(Exception):
    """A rank could not be started; the text says why."""


class WarmParent:
    """One warm parent at a time. `on_ready` tells changes, `on_broken` that it does not come up."""

    def __init__(
        self,
        tasks: str,
        reaper: Reaper,
        *,
        on_ready: Callable[[bool], None],
        on_broken: Callable[[list[str]], None],
        environment: Mapping[str, str],
        show: Callable[[bytes], None] = show_now,
    ) -> None:
        self._show = show
        self._tasks = tasks
        self._reaper = reaper
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._environment = {**environment, **ONE_THREAD}
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._pump: LogPump | None = None
        self._process = 0
        self._supervisor: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        self.limit_seconds = 300.0
        """What its imports may take, and what building ahead may."""
        self._builds_ahead = True
        self._built_in = 0

    @property
    def has_built(self) -> bool:
        """Whether nothing is left to build ahead, or nothing will be."""
        return not self._builds_ahead or self._built_in == self._process

    @property
    def process(self) -> int:
        """Process id of the present warm parent, 0 when there is none."""
        return self._process

    def start(self) -> None:
        """Starts it and keeps it alive until stop()."""
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def stop(self) -> None:
        """Ends it; ranks are not touched."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
        self._close()

    async def fork(self, context: RankContext, events: int, output: int) -> int:
        """Process id of a new rank that writes to these descriptors. Must not be cancelled half-way."""
        async with self._lock:
            channel = self._socket
            if channel is None:
                raise ForkFailed("the warm parent has just ended")
            data = context.model_dump_json(by_alias=True).encode()
            loop = asyncio.get_running_loop()
            try:
                socket.send_fds(channel, [HEADER.pack(len(data))], [events, output])
                await loop.sock_sendall(channel, data)
                reply = await asyncio.wait_for(self._receive(channel), ANSWER_SECONDS)
            except TimeoutError as error:
                os.kill(self._process, signal.SIGKILL)
                raise ForkFailed(f"the warm parent has not answered for {ANSWER_SECONDS:.0f} s") from error
            except OSError as error:
                raise ForkFailed(f"the warm parent does not answer: {error}") from error
        if "process" in reply:
            return int(str(reply["process"]))
        if "error" in reply:
            log.warning("fork is not safe, starting the slow way", extra={"reason": str(reply["error"])})
            return self._execute(data, events, output)
        raise ForkFailed("the warm parent has ended")

    async def build_ahead(self, context: RankContext) -> None:
        """Has it build what ranks begin with, once in its life. Must not be cancelled half-way.

        Never fails: a rank does by itself what was not done here. One that dies of it is not asked again.
        """
        async with self._lock:
            channel, process = self._socket, self._process
            if channel is None or self.has_built:
                return
            data = context.model_dump_json(by_alias=True).encode()
            loop = asyncio.get_running_loop()
            began = time.monotonic()
            try:
                await loop.sock_sendall(channel, HEADER.pack(len(data)) + data)
                reply = await asyncio.wait_for(self._receive(channel), self.limit_seconds)
            except (TimeoutError, OSError) as error:
                reply = {"unsafe": str(error) or f"no answer for {self.limit_seconds:g} s"}
            if not reply or "unsafe" in reply:
                log.warning(
                    "nothing is built ahead any more", extra={"reason": reply.get("unsafe", "it died")}
                )
                self._builds_ahead = False
                # Nobody may ask this one for a rank any more, even before its end is noticed.
                self.ready.clear()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                return
            self._built_in = process
            seconds = round(time.monotonic() - began, 2)
            log.info(
                "built ahead",
                extra={"built": reply.get("built"), "seconds": seconds, "why": reply.get("why", "")},
            )

    def _execute(self, data: bytes, events: int, output: int) -> int:
        """A rank in a fresh interpreter."""
        memory = os.memfd_create("rank-context")
        os.write(memory, data)
        os.lseek(memory, 0, os.SEEK_SET)
        arguments = [self._tasks, str(memory), str(os.getpid()), "--rank", str(events), str(output)]
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", MODULE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(memory, events, output),
                env=self._environment,
            )
        finally:
            os.close(memory)
        child.returncode = 0  # the reaper waits for it, not this object
        return child.pid

    async def _supervise(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            ending = self._spawn()
            note: list[str] = []
            try:
                came_up = await self._wait_ready(ending)
            except TimeoutError:
                came_up, note = False, await self._end_hung(ending)
            if came_up:
                failures = 0
                log.info("warm parent is ready", extra={"seconds": round(time.monotonic() - began, 2)})
                self.ready.set()
                self._on_ready(True)
            result = await ending
            self._process = 0
            self.ready.clear()
            if came_up:
                self._on_ready(False)
            failures += 1
            log.warning("warm parent ended", extra={"code": result.code, "signal": result.signal})
            tail = [*await self._end_of_log(), *note]
            self._close()
            if failures % TRIES == 0 and not came_up:
                self._on_broken(tail)
            await asyncio.sleep(0 if came_up else min(PAUSE_SECONDS, float(failures)))

    def _spawn(self) -> asyncio.Future[Ending]:
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE, self._tasks, str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            pass_fds=(theirs.fileno(),),
            env=self._environment,
        )
        child.returncode = 0  # the reaper waits for it, not this object
        theirs.close()
        os.close(writer)
        ours.setblocking(False)
        self._socket, self._process = ours, child.pid
        self._pump = LogPump(reader, "warm", self._show)
        return self._reaper.claim(child.pid)

    async def _end_hung(self, ending: asyncio.Future[Ending]) -> list[str]:
        """Kills one that hangs in its imports; what to say of it. In the kernel it hangs on: that is told at once."""
        note = f"error: the warm parent has not imported its modules within {self.limit_seconds:g} s"
        log.warning("warm parent hangs", extra={"seconds": self.limit_seconds})
        os.kill(self._process, signal.SIGKILL)
        await asyncio.wait([ending], timeout=KILL_SECONDS)
        if not ending.done():
            self._on_broken([f"{note} and survives SIGKILL"])
        return [note]

    async def _wait_ready(self, ending: asyncio.Future[Ending]) -> bool:
        """Whether it came up; TimeoutError when it does neither that nor end."""
        channel = self._socket
        if channel is None:
            return False
        reply = asyncio.ensure_future(self._receive(channel))
        both: list[asyncio.Future[Any]] = [reply, ending]
        done, _ = await asyncio.wait(both, timeout=self.limit_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            reply.cancel()
            raise TimeoutError
        if reply.done() and not reply.cancelled() and reply.exception() is None:
            return bool(reply.result().get("ready"))
        reply.cancel()
        return False

    async def _end_of_log(self) -> list[str]:
        if self._pump is None:
            return []
        await self._pump.drain(0.5)
        return self._pump.tail()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _receive(self, channel: socket.socket) -> dict[str, object]:
        """One message; empty when the other side has closed."""
        loop = asyncio.get_running_loop()
        data = b""
        wanted = HEADER.size
        header = True
        while len(data) < wanted:
            part = await loop.sock_recv(channel, wanted - len(data))
            if not part:
                return {}
            data += part
            if header and len(data) == wanted:
                header, wanted, data = False, int(HEADER.unpack(data)[0]), b""
        reply: dict[str, object] = json.loads(data)
        return reply
