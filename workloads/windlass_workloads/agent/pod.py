"""What leader and follower have in common: the pod's ranks, its warm parent, its signals and its end.

Made by `__main__`. Whatever happens, `ended` gets exactly one verdict, and close() leaves no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence

from windlass.api.contract import RankContext, RunConfig, Verdict
from windlass_workloads.agent import verdict as verdicts
from windlass_workloads.agent.commands import Commands
from windlass_workloads.agent.console import show_now
from windlass_workloads.agent.forking import WarmParent
from windlass_workloads.agent.identity import (
    GRACE_RESERVE_SECONDS,
    Identity,
    Options,
    available_processors,
    rank_threads,
)
from windlass_workloads.agent.messages import Broken, Hello, Leaving, Ready, Said, Start, Upward
from windlass_workloads.agent.ranks import RankHost
from windlass_workloads.agent.reaper import Reaper
from windlass_workloads.checkpoint.store import parse_checkpoint_name

log = logging.getLogger(__name__)


class Pod:
    """This pod. `sink` takes what happens in it; the leader and the follower set it."""

    def __init__(
        self,
        identity: Identity,
        options: Options,
        config: RunConfig,
        *,
        show: Callable[[bytes], None] = show_now,
    ) -> None:
        self.identity = identity
        self.options = options
        self.limits = options.limits
        self.config = config
        self.sink: Callable[[Upward], None] = lambda _: None
        self.ended: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.leaving_at: float | None = None
        self.parting: Callable[[], Verdict] = self._parting
        self._saved_step = 0
        self._last_step = 0
        reaper = Reaper()
        reaper.install(asyncio.get_running_loop())
        self.warm = self._starter(reaper, show)
        self.host = RankHost(self.warm, reaper, self.tell, show)
        self._threads = rank_threads(config, available_processors())

    def _starter(self, reaper: Reaper, show: Callable[[bytes], None]) -> WarmParent | Commands:
        """What starts ranks here."""

        def on_ready(ready: bool) -> None:
            self.tell(Ready(ready=ready))

        custom = self.config.spec.custom
        if custom is not None:
            return Commands(custom.command, on_ready=on_ready, environment=os.environ)
        warm = WarmParent(
            self.config.tasks,
            reaper,
            on_ready=on_ready,
            on_broken=lambda tail: self.tell(Broken(at=time.time(), tail=tail[-60:])),
            environment=os.environ,
            show=show,
        )
        warm.limit_seconds = self.limits.import_seconds
        return warm

    def start(self) -> None:
        """Starts the warm parent and listens to signals."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        self.warm.start()

    def tell(self, message: Upward) -> None:
        """Something happened in this pod."""
        if isinstance(message, Said):
            self._follow(message)
        self.sink(message)

    def hello(self) -> Hello:
        """How this agent introduces itself."""
        me = self.identity
        return Hello(
            pod=me.pod,
            pod_uid=me.pod_uid,
            pod_ip=me.pod_ip,
            node=me.node,
            index=me.index,
            ticket=me.ticket,
            attempt=me.attempt,
            ready=self.warm.ready.is_set(),
        )

    def announce(self) -> None:
        """Tells a new leader what it may have missed."""
        self.sink(Ready(ready=self.warm.ready.is_set()))
        if self.leaving_at is not None:
            self.sink(Leaving(at=self.leaving_at))

    def start_ranks(self, message: Start) -> None:
        """Starts ranks with this pod's share of threads."""
        self._last_step = self._saved_step = resumed_step(message.contexts)
        contexts: list[RankContext] = [
            context.model_copy(update={"threads": self._threads}) for context in message.contexts
        ]
        self.host.start(message.incarnation, contexts)

    def verified(self, step: int) -> None:
        """A checkpoint of this step counts, whether or not a rank here has heard of it."""
        self._saved_step = max(self._saved_step, step)

    def end(self, verdict: Verdict) -> None:
        """The first verdict counts. It is written at once: the kubelet may not wait for what follows."""
        if not self.ended.done():
            verdicts.write(self.options.termination_log, verdict)
            self.ended.set_result(verdict)

    async def close(self) -> bool:
        """Kills what is left of the ranks; False when one of them could not be killed."""
        self.sink = lambda _: None
        clean = await self.host.kill_and_wait(self.limits.stop_seconds)
        await self.warm.stop()
        return clean

    def _terminate(self) -> None:
        if self.leaving_at is not None:
            self.end(self.parting())
            return
        self.leaving_at = time.time()
        log.info("asked to leave", extra={"ranksOf": self.host.incarnation})
        grace = self.config.spec.recovery.termination_grace_period_seconds - GRACE_RESERVE_SECONDS
        asyncio.get_running_loop().call_later(max(1.0, grace) + 0.5, self._out_of_time)
        self.tell(Leaving(at=self.leaving_at))

    def _out_of_time(self) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            self.end(self.parting())

    def _follow(self, message: Said) -> None:
        event = message.event
        if event.type == "Step" and event.step is not None:
            self._last_step = event.step
        elif event.type in ("Saved", "Checkpoint") and event.step is not None:
            self.verified(event.step)

    def _parting(self) -> Verdict:
        """The verdict of a pod that must go without its leader's word."""
        lost = max(0, self._last_step - self._saved_step)
        return Verdict(result="Preempted", step=self._saved_step, lost_steps=lost)


def resumed_step(contexts: Sequence[RankContext]) -> int:
    """The step that ranks begin from, by the name of the checkpoint that they load; 0 at the beginning."""
    names = (context.resume for context in contexts)
    found = next((key for name in names if name is not None and (key := parse_checkpoint_name(name))), None)
    return found[0] if found is not None else 0
