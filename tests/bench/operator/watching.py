"""Watches how status follows what leaders tell, and how much memory the operator takes meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from bench.operator.load import ALL_JOBS, Api
from contract.operator.harness import Operator

Json = dict[str, Any]


def newest_step(job: Json) -> int:
    """The step of a job's newest verified checkpoint, by its status."""
    rows = (job.get("status") or {}).get("checkpoints") or []
    return max((row["step"] for row in rows), default=0)


@dataclass
class Shown:
    """When each step of each job was first seen in its status, by the benchmark's own watch."""

    times: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def take(self, at: float, job: Json) -> None:
        """One event of the watch."""
        name, step = job["metadata"]["name"], newest_step(job)
        seen = self.times.setdefault(name, [])
        if not seen or step > seen[-1][0]:
            seen.append((step, at))

    def at(self, job: str, step: int) -> float | None:
        """When status held this step or a later one; None if it never did."""
        return next((at for shown, at in self.times.get(job, ()) if shown >= step), None)

    def delays(self, told: dict[tuple[str, int], float]) -> tuple[list[float], int]:
        """Seconds from telling to showing of each change, and how many never showed."""
        found = [(self.at(job, step), at) for (job, step), at in told.items()]
        return [shown - at for shown, at in found if shown is not None], sum(
            shown is None for shown, _ in found
        )

    async def follow(self, api: Api, since: str) -> None:
        """Watch until cancelled."""
        async for at, event in api.watch(ALL_JOBS, since):
            if event.get("type") in ("ADDED", "MODIFIED"):
                self.take(at, event["object"])


@dataclass
class Memory:
    """Resident memory of operators, sampled each second."""

    megabytes: dict[str, list[float]] = field(default_factory=dict)

    async def follow(self, name: str, operator: Operator) -> None:
        """Sample until the process ends or this is cancelled."""
        samples = self.megabytes.setdefault(name, [])
        while operator.process.poll() is None:
            samples.append(operator.resident_megabytes())
            await asyncio.sleep(1.0)

    def highest(self) -> float:
        """The highest sample of all."""
        return round(max(max(samples) for samples in self.megabytes.values() if samples), 1)
