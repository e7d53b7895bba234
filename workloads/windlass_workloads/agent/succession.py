"""When a new leader may take over: not while the one before it is still on its way out.

A leader's pod that was asked to end still saves, and a claim would fence that save off. Its successor's
pod is made at once, imports meanwhile, and watches here for the last sign of life. Never a safeguard:
that is the fence. This only decides how long to be polite.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from windlass_workloads.agent.timeline import ALIVE, is_last
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.incarnations import Claimant
from windlass_workloads.checkpoint.store import RunStore

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1


@dataclass(slots=True)
class Predecessor:
    """Judges by the signs alone; the only clock is the watcher's own, in seconds that never go back."""

    quiet_seconds: float
    limit_seconds: float
    _sign: bytes | None = None
    _began_at: float | None = None
    _changed_at: float = 0.0

    def is_gone(self, sign: bytes | None, now: float) -> bool:
        """Whether it said its last word, gave no new sign for long, or has had all the time that a pod has."""
        if self._began_at is None or sign != self._sign:
            self._sign, self._changed_at = sign, now
        if self._began_at is None:
            self._began_at = now
        quiet = now - self._changed_at >= self.quiet_seconds
        return is_last(sign) or quiet or now - self._began_at >= self.limit_seconds


async def wait_for_predecessor(
    store: RunStore, me: Claimant, watch: Predecessor, stop: Callable[[], bool]
) -> bool:
    """Returns once the leader before `me` has ended, True; or False when `stop` says so first.

    Raises what the store raises. There is nothing to wait for when there was no leader, when it was this
    pod, or when this pod may not follow it: then the claim will say so.
    """
    newest = await asyncio.to_thread(incarnations.newest, store)
    if newest is None or newest.owner_pod_uid == me.pod_uid or not incarnations.may_claim(newest, me):
        return True
    began = time.monotonic()
    while not watch.is_gone(await asyncio.to_thread(store.read, ALIVE), time.monotonic()):
        if stop():
            return False
        await asyncio.sleep(LOOK_SECONDS)
    waited = round(time.monotonic() - began, 2)
    log.info("the leader before is gone", extra={"pod": newest.owner_pod, "waited": waited})
    return True
