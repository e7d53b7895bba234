"""Metrics of runs: where their seconds went, how old their checkpoints are, and what recoveries took.

`RunCollector` reads statuses when somebody scrapes, so its series end with their job. `RecoveryMeter` counts rows of
`status.recoveries` as they appear; its histogram has no label of a job, since a histogram for each would be many
series for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from windlass.api.status import GoodputSeconds, RecoverySeconds
from windlass.core.observed import parse_status
from windlass.core.waste import devices, wasted_accelerator_seconds
from windlass.shell.jobs import key_of

Json = dict[str, Any]
Identity = tuple[str, str, str, str]
"""Kind, namespace, name and UID of a job."""

RECOVERY_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900)
PARTS: Final = {name: field.alias or name for name, field in GoodputSeconds.model_fields.items()}
"""Parts of goodput: their names in Python and in status, which the label carries."""
PHASES: Final = {name: field.alias or name for name, field in RecoverySeconds.model_fields.items()}


class RunCollector(Collector):
    """Seconds, waste and checkpoints of each run, from the statuses in the cache; nothing on a standby."""

    def __init__(
        self,
        jobs: Callable[[], Iterable[Json]],
        is_leader: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._jobs = jobs
        self._is_leader = is_leader
        self._now = now

    def describe(self) -> Iterable[Metric]:
        """Names only, so that registering does not read the cache."""
        return self.families()

    @staticmethod
    def families() -> list[GaugeMetricFamily]:
        """The families, empty."""
        job = ["kind", "namespace", "name"]
        return [
            GaugeMetricFamily(
                "windlass_job_goodput_seconds",
                "Seconds since creation by what they went into; the parts of a job sum to its wall time.",
                labels=[*job, "part"],
            ),
            GaugeMetricFamily(
                "windlass_job_wasted_accelerator_seconds",
                "Accelerators of the whole gang times the seconds of recovering, of steps done again and of back-off.",
                labels=job,
            ),
            GaugeMetricFamily(
                "windlass_job_checkpoint_step", "Step of the newest verified checkpoint.", labels=job
            ),
            GaugeMetricFamily(
                "windlass_job_checkpoint_age_seconds",
                "Seconds since the newest verified checkpoint, while the job is neither finished nor suspended.",
                labels=job,
            ),
        ]

    def collect(self) -> Iterator[Metric]:
        """Samples of every job that has numbers."""
        seconds, wasted, step, age = families = self.families()
        for job in self._jobs() if self._is_leader() else ():
            labels = list(key_of(job))
            status = parse_status(job.get("status") or {})
            parts = status.goodput.seconds
            if status.goodput.since_creation > 0:
                for name, shown in PARTS.items():
                    seconds.add_metric([*labels, shown], getattr(parts, name))
                wasted.add_metric(labels, wasted_accelerator_seconds(*devices(job), parts))
            if not status.checkpoints:
                continue
            newest = status.checkpoints[0]
            step.add_metric(labels, newest.step)
            if newest.committed_at and not (status.finished_at or status.suspended_at):
                age.add_metric(labels, max((self._now() - newest.committed_at).total_seconds(), 0.0))
        yield from families


class RecoveryMeter:
    """Counts each recovery once, and measures its phases once they are all known."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counter = Counter(
            "windlass_job_recoveries",
            "Recoveries since this process leads.",
            ["kind", "namespace", "name", "rung", "failure_class"],
            registry=registry,
        )
        self.seconds = Histogram(
            "windlass_recovery_seconds",
            "Seconds of each phase of a recovery, of all jobs since this process leads; phase total is from the fault "
            "to the first new step.",
            ["phase", "rung", "failure_class"],
            buckets=RECOVERY_BUCKETS,
            registry=registry,
        )
        self._counted: dict[Identity, int] = {}
        self._unmeasured: dict[Identity, set[int]] = {}

    def look(self, job: Json) -> None:
        """Take in what is new in a job's rows. Rows at the first look are from before this process leads."""
        identity = (*key_of(job), job["metadata"]["uid"])
        rows = {
            int(row.get("incarnation", 0)): row for row in (job.get("status") or {}).get("recoveries") or ()
        }
        newest = max(rows, default=0)
        last = self._counted.get(identity)
        self._counted[identity] = max(newest, last or 0)
        waiting = self._unmeasured.setdefault(identity, set())
        if last is None:
            waiting |= {number for number, row in rows.items() if not is_whole(row)}
            return
        for number, row in rows.items():
            if number > last:
                self.counter.labels(*identity[:3], row.get("rung", ""), row.get("class", "")).inc()
                waiting.add(number)
        for number in sorted(waiting):
            if number not in rows:
                waiting.discard(number)
            elif is_whole(rows[number]):
                waiting.discard(number)
                self._measure(rows[number])

    def _measure(self, row: Json) -> None:
        told = row.get("seconds") or {}
        for shown in PHASES.values():
            # A phase that a rung does not have (no pod was made, say) is no zero of that phase.
            if float(told.get(shown) or 0.0) > 0:
                labels = (shown, row.get("rung", ""), row.get("class", ""))
                self.seconds.labels(*labels).observe(float(told[shown]))

    def forget(self, job: Json) -> None:
        """The job is gone: its series end."""
        identity = (*key_of(job), job["metadata"]["uid"])
        self._counted.pop(identity, None)
        self._unmeasured.pop(identity, None)
        for labels in list(self.counter._metrics):
            if labels[:3] == identity[:3]:
                self.counter.remove(*labels)


def is_whole(row: Json) -> bool:
    """Whether a recovery is over: a row is there before its phases are measured."""
    return float((row.get("seconds") or {}).get("total") or 0.0) > 0
