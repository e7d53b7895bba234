"""Sends a run's metrics to MLflow from a thread of its own, in order, each step once.

Rows wait in a bounded list, and in the store's metrics-spool.jsonl while the server is away. After a restart the
server's own last steps decide what is new. Training only ever adds a row.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from windlass.api.status import TrackingStatus
from windlass_workloads.checkpoint.store import METRICS_SPOOL, TRACKING, RunStore
from windlass_workloads.tracking.client import Client, Refused, Unreachable
from windlass_workloads.tracking.facts import UID_TAG

WAITING_ROWS = 10_000
BATCH_ROWS = 60
"""The server takes at most 1000 metrics at a time; a row has about ten."""
RETRY_SECONDS = 5.0
RESUMED_TAG = "windlass.resumed_steps"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of the run when this incarnation begins."""

    experiment: str
    parameters: dict[str, str]
    tags: dict[str, str]
    resumed_step: int = 0


class Recorder:
    """The thread and its run. `tell` gets a status and, when degraded, the reason."""

    def __init__(
        self,
        client: Client,
        store: RunStore,
        *,
        run: RunFacts,
        tell: Callable[[TrackingStatus, str | None], None],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.client = client
        self.store = store
        self.experiment = run.experiment
        self.parameters, self.tags = run.parameters, run.tags
        self.tell = tell
        self.resumed_step = run.resumed_step
        self.retry_seconds = retry_seconds
        self.run_id: str | None = None
        self.problem: str | None = None
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()
        self._unsent: list[Row] = [
            dict(row) for row in store.read_lines(METRICS_SPOOL) if {"step", "at", "figures"} <= row.keys()
        ]
        self._spooled = len(self._unsent)
        """How many of the unsent rows, from the first, are in the spool."""
        self._told: tuple[str | None, str | None] | None = None
        self._end_as: str | None = None
        self._wake, self._idle = threading.Event(), threading.Event()
        self._wake.set()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Takes a row; drops it when ten thousand wait already."""
        row = {"step": step, "at": int(time.time() * 1000), "figures": figures}
        with self._lock:
            self._idle.clear()
            if len(self._unsent) < WAITING_ROWS:
                self._unsent.append(row)
        self._wake.set()

    def keep(self) -> None:
        """Writes what is not sent yet to the spool: called with every checkpoint, so that a kill loses no row of a
        step that will not be done again."""
        try:
            with self._lock:
                for row in self._unsent[self._spooled :]:
                    self.store.append_line(METRICS_SPOOL, row)
                    self._spooled += 1
        except OSError as error:
            self._report(f"metrics cannot be kept in the store ({error.strerror})")

    def flush(self, limit_seconds: float) -> bool:
        """Waits until everything is sent, at most so long; True when it is."""
        return self._idle.wait(limit_seconds) and self.problem is None

    def end(self, status: str, limit_seconds: float) -> None:
        """Sends what is left and sets the run's status (FINISHED, FAILED, KILLED); waits at most so long for that."""
        self._end_as = status
        self._wake.set()
        self._thread.join(limit_seconds)

    # --- in the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        status: str | None = None
        while status is None:
            self._wake.wait(self.retry_seconds if self.problem is not None else None)
            self._wake.clear()
            status = self._end_as
            try:
                if self.run_id is None:
                    self._open()
                self._send()
                if status is not None:
                    self._finish(status)
            except (Unreachable, Refused) as error:
                self.keep()
                self._report(str(error))
            except Exception as error:
                # Tracking may break in ways not thought of; training must not notice.
                self.keep()
                self._report(f"{type(error).__name__}: {error}"[:300])
            else:
                self._report(None)

    def _open(self) -> None:
        """Finds or makes the one run of this job."""
        record = self.store.read(TRACKING)
        experiment = self.client.experiment(self.experiment)
        run_id = (
            str(json.loads(record)["run_id"])
            if record
            else self.client.find_run(experiment, UID_TAG, self.tags[UID_TAG])
        )
        if run_id is None:
            run_id = self._create(experiment)
        if record is None and not self.store.create(TRACKING, json.dumps({"run_id": run_id}).encode()):
            run_id = str(json.loads(self.store.read(TRACKING) or b"{}")["run_id"])
        run = self.client.call("GET", "runs/get", {"run_id": run_id})["run"]
        self._last = {metric["key"]: int(metric.get("step", 0)) for metric in run["data"].get("metrics", [])}
        self._reopen(run_id, run)
        self.run_id = run_id

    def _create(self, experiment: str) -> str:
        tags = [{"key": key, "value": value} for key, value in self.tags.items()]
        body = {"experiment_id": experiment, "start_time": int(time.time() * 1000), "tags": tags}
        run = self.client.call("POST", "runs/create", {**body, "run_name": self.tags["mlflow.runName"]})[
            "run"
        ]
        return str(run["info"]["run_id"])

    def _reopen(self, run_id: str, run: dict[str, Any]) -> None:
        """Parameters once, the status back to RUNNING, and a mark where this incarnation went on."""
        known = {each["key"] for each in run["data"].get("params", [])}
        params = [{"key": key, "value": value} for key, value in self.parameters.items() if key not in known]
        tags = {each["key"]: each["value"] for each in run["data"].get("tags", [])}
        marks = [mark for mark in tags.get(RESUMED_TAG, "").split(",") if mark]
        if self.resumed_step:
            marks.append(str(self.resumed_step))
        body = {"run_id": run_id, "params": params, "tags": [{"key": RESUMED_TAG, "value": ",".join(marks)}]}
        self.client.call("POST", "runs/log-batch", body)
        self.client.call("POST", "runs/update", {"run_id": run_id, "status": "RUNNING"})

    def _finish(self, status: str) -> None:
        body = {"run_id": self.run_id, "status": status, "end_time": int(time.time() * 1000)}
        self.client.call("POST", "runs/update", body)

    def _send(self) -> None:
        """Sends unsent rows, oldest first, leaving out what the server has."""
        while True:
            with self._lock:
                if not self._unsent:
                    if self.store.exists(METRICS_SPOOL):
                        self.store.remove(METRICS_SPOOL)
                    self._idle.set()
                    return
                rows = self._unsent[:BATCH_ROWS]
            metrics = self._distinct(
                [
                    {"key": key, "value": wire_number(value), "timestamp": row["at"], "step": row["step"]}
                    for row in rows
                    for key, value in row["figures"].items()
                    if row["step"] > self._last.get(key, -1)
                ]
            )
            if metrics:
                self.client.call("POST", "runs/log-batch", {"run_id": self.run_id, "metrics": metrics})
            for metric in metrics:
                self._last[metric["key"]] = max(metric["step"], self._last.get(metric["key"], -1))
            with self._lock:
                del self._unsent[: len(rows)]
                self._spooled = max(0, self._spooled - len(rows))

    def _distinct(self, metrics: list[Row]) -> list[Row]:
        """The first of rows with equal key and step: a step done again after a restart may wait beside the old one."""
        seen: dict[tuple[str, int], Row] = {}
        for metric in metrics:
            seen.setdefault((metric["key"], metric["step"]), metric)
        return list(seen.values())

    def _report(self, problem: str | None) -> None:
        """Tells changes only."""
        self.problem = problem
        now = (self.run_id, problem)
        if now != self._told:
            self._told = now
            url = f"{self.client.uri.rstrip('/')}/#/runs/{self.run_id}" if self.run_id else None
            self.tell(TrackingStatus(run_id=self.run_id, url=url, spooled=self._spooled), problem)


def wire_number(value: float) -> float | str:
    """A number as the server reads it. A bare NaN of JSON would end its reading, and the rest of the batch be lost."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
