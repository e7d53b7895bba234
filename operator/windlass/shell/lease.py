"""Leader election by a Lease: one replica acts, the others keep their caches warm.

The elector runs in the main loop. Time is monotonic and local: another holder's Lease counts as expired only
when this process has seen it unchanged for the whole duration. A leader that cannot renew must not go on for
a moment, since a cancelled task is no fence: it calls `on_lost`, which ends the process.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from windlass.shell.client import Client
from windlass.shell.clock import Clock
from windlass.shell.errors import ApiError, Conflict, NotFound, Unreachable
from windlass.shell.logging import logger
from windlass.shell.resources import LEASES

LOG = logger("lease")

DURATION_SECONDS: Final = 15.0
RENEW_DEADLINE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 2.0
EXIT_LEASE_LOST: Final = 3


def end_process() -> None:
    """End this process now, without cleaning up: somebody else may be leading already."""
    os._exit(EXIT_LEASE_LOST)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the election."""

    duration: float = DURATION_SECONDS
    renew_deadline: float = RENEW_DEADLINE_SECONDS
    retry: float = RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class Candidate:
    """Which Lease, and as whom."""

    namespace: str
    name: str
    identity: str
    timing: Timing = Timing()


class Elector:
    """Acquires, renews and releases one Lease."""

    def __init__(
        self,
        client: Client,
        candidate: Candidate,
        *,
        clock: Clock,
        on_lost: Callable[[], None] = end_process,
    ) -> None:
        self.leading = False
        self._client = client
        self._namespace = candidate.namespace
        self._name = candidate.name
        self._identity = candidate.identity
        self._timing = candidate.timing
        self._clock = clock.monotonic
        self._now = clock.now
        self._sleep = clock.sleep
        self._on_lost = on_lost
        self._lease: dict[str, Any] | None = None
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = clock.monotonic()
        self._renewed_at = clock.monotonic()

    async def acquire(self) -> None:
        """Wait until this process is the leader."""
        while not await self.attempt():
            await self._sleep(self.pause())

    async def keep(self) -> None:
        """Renew until cancelled; call `on_lost` when another holds the Lease or the deadline passes."""
        while self.leading:
            await self._sleep(self.pause())
            if await self.attempt():
                continue
            held_by_other = self._holder() not in (self._identity, "", None)
            if held_by_other or self._clock() - self._renewed_at > self._timing.renew_deadline:
                self.leading = False
                LOG.error("lease lost", holder=self._holder())
                self._on_lost()

    def seconds_since_renewal(self) -> float:
        """Seconds since this process last wrote the Lease."""
        return self._clock() - self._renewed_at

    def pause(self) -> float:
        """Seconds until the next try, with jitter."""
        return self._timing.retry * random.uniform(0.8, 1.2)

    async def attempt(self) -> bool:
        """One try to acquire or renew; whether this process leads."""
        began = self._clock()
        try:
            # A hanging request must not eat the whole deadline.
            async with asyncio.timeout(self._timing.renew_deadline / 2):
                renewed = await self._attempt()
        except (ApiError, Unreachable, TimeoutError) as error:
            LOG.warning("lease attempt failed", problem=str(error)[:300], leading=self.leading)
            return False
        if renewed:
            # Counted from before the request: the server may have written it at any time since.
            self._renewed_at = began
            if not self.leading:
                LOG.info("lease acquired", identity=self._identity)
            self.leading = True
        return renewed

    async def _attempt(self) -> bool:
        if self._lease is None or not self.leading:
            await self._read()
        if self._lease is None:
            self._lease = await self._client.create(LEASES, self._first())
            return self._holder() == self._identity
        if not self._may_take():
            return False
        try:
            self._lease = await self._client.replace(LEASES, self._mine())
        except (Conflict, NotFound):
            await self._read()
            return False
        return True

    async def _read(self) -> None:
        try:
            self._lease = await self._client.get(LEASES, self._name, namespace=self._namespace)
        except NotFound:
            self._lease = None
            return
        spec = self._lease.get("spec") or {}
        seen = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()

    def _holder(self) -> str | None:
        return ((self._lease or {}).get("spec") or {}).get("holderIdentity")

    def _may_take(self) -> bool:
        holder = self._holder()
        if not holder or holder == self._identity:
            return True
        spec = (self._lease or {}).get("spec") or {}
        duration = float(spec.get("leaseDurationSeconds") or self._timing.duration)
        return self._clock() - self._seen_at >= duration

    def _times(self) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._timing.duration),
            "renewTime": micro_time(self._now()),
        }

    def _first(self) -> dict[str, Any]:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {**self._times(), "acquireTime": micro_time(self._now()), "leaseTransitions": 0},
        }

    def _mine(self) -> dict[str, Any]:
        assert self._lease is not None  # noqa: S101 - callers read the Lease first
        old = self._lease.get("spec") or {}
        spec = {**old, **self._times()}
        if old.get("holderIdentity") != self._identity:
            spec["acquireTime"] = micro_time(self._now())
            spec["leaseTransitions"] = int(old.get("leaseTransitions") or 0) + 1
        return {**self._lease, "spec": spec}

    async def release(self) -> None:
        """Hand the Lease over at once, so that a standby need not wait for it to expire."""
        if not self.leading or self._lease is None:
            return
        self.leading = False
        body = self._mine()
        body["spec"] = {**body["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._timing.renew_deadline / 2):
                await self._client.replace(LEASES, body)
            LOG.info("lease released", identity=self._identity)
        except (ApiError, Unreachable, TimeoutError) as error:
            LOG.warning("lease not released", problem=str(error)[:300])


def micro_time(at: datetime) -> str:
    """A time as Kubernetes writes MicroTime: UTC with six digits, also when they are zero."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
