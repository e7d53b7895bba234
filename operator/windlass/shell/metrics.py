"""All Prometheus metrics of the operator, in one registry; names are part of the product's interface.

The parts of the shell call the small methods here. Numbers of jobs are read from the cache when somebody
scrapes, so that a restart loses none of them; only the leader shows them. Labels never carry UIDs.
docs/reference/metrics.md is made from this module (`python -m windlass.shell.metrics`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from windlass.shell.clock import utc_now
from windlass.shell.jobs import key_of
from windlass.shell.run_metrics import RecoveryMeter, RunCollector

Json = dict[str, Any]
SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
DOCUMENT: Final = Path("docs/reference/metrics.md")


class JobCollector(Collector):
    """Numbers of each job, from the statuses in the cache."""

    def __init__(self, jobs: Callable[[], Iterable[Json]], is_leader: Callable[[], bool]) -> None:
        self._jobs = jobs
        self._is_leader = is_leader

    def describe(self) -> Iterable[Metric]:
        """Names only, so that registering does not read the cache."""
        return self.families()

    @staticmethod
    def families() -> list[GaugeMetricFamily | CounterMetricFamily]:
        """The families, empty."""
        job = ["kind", "namespace", "name"]
        return [
            GaugeMetricFamily(
                "windlass_job_goodput_ratio",
                "Share of the seconds since admission spent on new steps.",
                labels=job,
            ),
            GaugeMetricFamily("windlass_job_step", "Last finished optimiser step.", labels=job),
            GaugeMetricFamily("windlass_job_loss", "Training loss of the last reported step.", labels=job),
            GaugeMetricFamily(
                "windlass_job_tokens_per_second", "Training throughput of the whole gang.", labels=job
            ),
            CounterMetricFamily(
                "windlass_job_lost_steps", "Steps that had to be done again after failures.", labels=job
            ),
            CounterMetricFamily(
                "windlass_job_restarts", "Restarts of the gang over the life of the job.", labels=job
            ),
            GaugeMetricFamily(
                "windlass_job_cost", "Cost so far, by the price list.", labels=[*job, "currency"]
            ),
            GaugeMetricFamily(
                "windlass_job_cost_wasted",
                "What recovering, reworked steps and back-off cost.",
                labels=[*job, "currency"],
            ),
            GaugeMetricFamily(
                "windlass_job_condition",
                "1 for each condition of a job that is True.",
                labels=[*job, "type", "reason"],
            ),
        ]

    def collect(self) -> Iterator[Metric]:
        """One sample per job and family; none on a standby."""
        families = self.families()
        goodput, step, loss, tokens, lost, restarts, *costs, condition = families
        for job in self._jobs() if self._is_leader() else ():
            labels = list(key_of(job))
            status = job.get("status") or {}
            progress = status.get("progress") or {}
            good = status.get("goodput") or {}
            add(goodput, labels, good.get("ratio"))
            add(step, labels, progress.get("step"))
            add(loss, labels, progress.get("loss"))
            add(tokens, labels, progress.get("tokensPerSecond"))
            add(lost, labels, good.get("lostSteps"))
            add(restarts, labels, (status.get("counters") or {}).get("restarts"))
            add_costs(costs, labels, status.get("cost"))
            for item in status.get("conditions") or ():
                if item.get("status") == "True":
                    add(condition, [*labels, item["type"], item.get("reason", "")], 1)
        yield from families


def add(family: GaugeMetricFamily | CounterMetricFamily, labels: list[str], value: float | None) -> None:
    """Add a sample unless the value is unknown."""
    if value is not None:
        family.add_metric(labels, float(value))


def add_costs(
    families: list[GaugeMetricFamily | CounterMetricFamily], labels: list[str], cost: Json | None
) -> None:
    """Money and what was wasted; nothing without a price list."""
    if cost is None:
        return
    total, wasted = families
    priced = [*labels, str(cost.get("currency", ""))]
    add(total, priced, float(cost.get("total", "0")))
    add(wasted, priced, float(cost.get("wasted", "0")))


class Metrics:
    """Counters and gauges of one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.reconciles = Counter(
            "windlass_reconcile",
            "Rounds by result (done, written, conflict, error).",
            ["result"],
            registry=registry,
        )
        self.reconcile_seconds = Histogram(
            "windlass_reconcile_seconds", "Seconds of one round.", buckets=SECONDS, registry=registry
        )
        self.queue_adds = Counter("workqueue_adds", "Keys that became due.", registry=registry)
        self.queue_retries = Counter("workqueue_retries", "Keys put back after an error.", registry=registry)
        self.queue_waits = Histogram(
            "workqueue_queue_duration_seconds",
            "Seconds a key was due before a worker took it.",
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_works = Histogram(
            "workqueue_work_duration_seconds",
            "Seconds a worker held a key.",
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge("workqueue_depth", "Keys that are due.", registry=registry)
        self.queue_unfinished = Gauge(
            "workqueue_unfinished_work_seconds",
            "Seconds that keys have been worked on by now.",
            registry=registry,
        )
        self.requests = Histogram(
            "windlass_api_request_duration_seconds",
            "Seconds of requests to the API server.",
            ["method", "code"],
            buckets=SECONDS,
            registry=registry,
        )
        self.watch_age = Gauge(
            "windlass_watch_age_seconds",
            "Seconds since a watch was last known to be alive.",
            ["kind"],
            registry=registry,
        )
        self.leading = Gauge("windlass_leader", "1 on the replica that holds the Lease.", registry=registry)
        self.lease_age = Gauge(
            "windlass_lease_age_seconds", "Seconds since the Lease was renewed.", registry=registry
        )
        self.loop_lag = Gauge("windlass_loop_lag_seconds", "Delay of the event loop.", registry=registry)
        self.reports = Counter("windlass_reports", "Reports by answer.", ["code"], registry=registry)
        self.events_dropped = Gauge(
            "windlass_events_dropped",
            "Events not recorded because of the rate limit or a full box.",
            registry=registry,
        )
        self.meter = RecoveryMeter(registry)

    def show_jobs(
        self,
        jobs: Callable[[], Iterable[Json]],
        is_leader: Callable[[], bool],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Add the numbers of jobs."""
        self.registry.register(JobCollector(jobs, is_leader))
        self.registry.register(RunCollector(jobs, is_leader, now))

    # Names of client.Observer and queue.QueueObserver.

    def request(self, method: str, code: str, seconds: float) -> None:
        """A finished request."""
        self.requests.labels(method, code).observe(seconds)

    def added(self) -> None:
        """A key became due."""
        self.queue_adds.inc()

    def taken(self, waited_seconds: float) -> None:
        """A worker took a key."""
        self.queue_waits.observe(waited_seconds)

    def finished(self, worked_seconds: float) -> None:
        """A worker is done with a key."""
        self.queue_works.observe(worked_seconds)

    def retried(self) -> None:
        """A key was put back."""
        self.queue_retries.inc()

    def count_recoveries(self, job: Json) -> None:
        """Take in what is new in `status.recoveries`."""
        self.meter.look(job)

    def forget(self, job: Json) -> None:
        """The job is gone: its series end."""
        self.meter.forget(job)

    def render(self) -> bytes:
        """The text that /metrics answers."""
        return generate_latest(self.registry)


def document() -> str:
    """docs/reference/metrics.md: every metric with kind, labels and meaning."""
    metrics = Metrics()
    rows = []
    collectors: list[Any] = [
        value
        for holder in (metrics, metrics.meter)
        for value in vars(holder).values()
        if isinstance(value, Counter | Gauge | Histogram)
    ]
    for one in collectors:
        suffix = "_total" if isinstance(one, Counter) else ""
        rows.append((one._name + suffix, one._type, ", ".join(one._labelnames), one._documentation))
    for family in (*JobCollector.families(), *RunCollector.families()):
        suffix = "_total" if isinstance(family, CounterMetricFamily) else ""
        rows.append((family.name + suffix, family.type, ", ".join(family._labelnames), family.documentation))
    lines = [
        "# Metrics of the operator",
        "",
        "Served at `/metrics` on the health port of every replica; numbers of jobs come from the leader only.",
        "This page is generated by `python -m windlass.shell.metrics`.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {kind} | {labels or '—'} | {text} |" for name, kind, labels, text in sorted(rows)
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    parser = argparse.ArgumentParser(description="Write docs/reference/metrics.md.")
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        return 0 if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == document() else 1
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
