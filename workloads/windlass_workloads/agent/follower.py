"""The agent of every pod but the first: obeys the leader, and stops its ranks when there is none.

Looks up the leader's name anew for each connection: a replaced leader has another address. Must never
say hello while a rank of it still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from windlass.api.contract import Verdict
from windlass_workloads.agent.messages import (
    DOWNWARD,
    Beat,
    Downward,
    Dump,
    Finish,
    Leaving,
    Start,
    Stop,
    Upward,
)
from windlass_workloads.agent.pod import Pod
from windlass_workloads.agent.wire import LINE_LIMIT, Link, Refusal, gang_key, greet_leader
from windlass_workloads.checkpoint import incarnations, ledger
from windlass_workloads.checkpoint.errors import CheckpointError
from windlass_workloads.checkpoint.store import RunStore

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
NEXT_ADDRESS_SECONDS = 0.25
LOOK_SECONDS = 2.0
"""How long a pod that goes looks for the newest checkpoint: its verdict must not wait for a store that is away."""


class Follower:
    """Runs until the leader, or the end of the pod's time, gives a verdict."""

    def __init__(self, pod: Pod, store: RunStore) -> None:
        self._pod = pod
        self._store = store
        self._link: Link | None = None
        self._last: asyncio.Task[None] | None = None

    async def run(self) -> Verdict:
        """The verdict that this pod ends with."""
        self._pod.sink = self._tell
        self._pod.start()
        life = asyncio.get_running_loop().create_task(self._live())
        try:
            return await self._pod.ended
        finally:
            life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await life

    async def _live(self) -> None:
        limits, told = self._pod.limits, ""
        while not self._pod.ended.done():
            try:
                await self._serve()
            except (Refusal, OSError, TimeoutError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("no leader", extra={"reason": told})
            if not await self._pod.host.kill_and_wait(limits.stop_seconds):
                # A rank in uninterruptible sleep: only a new pod helps.
                await self._part()
            elif self._pod.leaving_at is not None:
                await self._part()
            else:
                await asyncio.sleep(limits.retry_seconds)

    async def _part(self) -> None:
        """Ends without the leader's word. Of checkpoints only the first rank hears, which runs in the leader's pod."""
        with contextlib.suppress(CheckpointError, OSError, TimeoutError):
            self._pod.verified(
                await asyncio.wait_for(asyncio.to_thread(verified_step, self._store), LOOK_SECONDS)
            )
        self._pod.end(self._pod.parting())

    async def _serve(self) -> None:
        """One connection, until it ends."""
        key = await asyncio.to_thread(gang_key, self._store)
        if key is None:
            raise Refusal("the gang has no key yet")
        # The name has two addresses for a while when a leader is replaced, and one of them may not answer.
        opening = asyncio.open_connection(
            self._pod.config.leader_host,
            self._pod.options.port,
            limit=LINE_LIMIT,
            happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
        )
        link = Link(*await asyncio.wait_for(opening, CONNECT_SECONDS))
        try:
            await greet_leader(link, key, self._pod.hello())
            log.info("joined", extra={"leader": self._pod.config.leader_host})
            self._link = link
            self._pod.announce()
            await self._obey(link)
        finally:
            self._link = None
            link.close()

    async def _obey(self, link: Link) -> None:
        beats = asyncio.get_running_loop().create_task(self._beat(link))
        try:
            while not self._pod.ended.done():
                self._do(DOWNWARD.validate_json(await link.line(self._pod.limits.silence_seconds)))
        except ValueError as error:
            raise Refusal("the leader speaks another language") from error
        finally:
            beats.cancel()

    async def _beat(self, link: Link) -> None:
        while True:
            link.send(Beat())
            await asyncio.sleep(self._pod.limits.heartbeat_seconds)

    def _do(self, message: Downward) -> None:
        if isinstance(message, Start):
            self._pod.start_ranks(message)
        elif isinstance(message, Stop):
            if message.incarnation == self._pod.host.incarnation:
                self._pod.host.stop(message.mode)
        elif isinstance(message, Dump):
            self._pod.host.dump(message.incarnation)
        elif isinstance(message, Finish):
            self._pod.end(message.verdict)

    def _tell(self, message: Upward) -> None:
        if self._link is not None:
            self._link.send(message)
        elif isinstance(message, Leaving) and not self._pod.host.incarnation:
            self._last = asyncio.get_running_loop().create_task(self._part())


def verified_step(store: RunStore) -> int:
    """The step of the newest checkpoint in the store that counts; 0 without one."""
    rows = ledger.rows(store, incarnations.newest(store))
    return max((row.step for row in rows), default=0)
