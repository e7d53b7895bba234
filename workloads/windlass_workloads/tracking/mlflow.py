"""The tracker of a job that names an MLflow server. Opened on rank 0 by the training loop.

Implements train.tracking.Tracker: metrics by the recorder's thread, the result by a process of its own with a time
limit. Whatever the server does, training goes on and the job is told that tracking is degraded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from windlass.api.contract import RankContext
from windlass.api.meta import SECRET_ROOT
from windlass.api.running import MLflow
from windlass.api.status import Output, Plan, TrackingStatus
from windlass_workloads.checkpoint.store import OUTPUT, PREPARED, RunStore, corpora_of
from windlass_workloads.data.arrays import read_index
from windlass_workloads.data.sources import secret_text
from windlass_workloads.tracking.client import Client
from windlass_workloads.tracking.facts import parameters_of, tags_of
from windlass_workloads.tracking.publish import Answer, Request
from windlass_workloads.tracking.recorder import RESUMED_TAG, Recorder, RunFacts
from windlass_workloads.train.ports import Reporter

FLUSH_SECONDS = 15.0
FAILED_SECONDS = 1.0
"""A rank that failed is to be gone soon, since its exit starts the recovery; the next incarnation sends the rest."""
PUBLISH_SECONDS = 900.0
PARTS = ("merged", "model", "adapter")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the end of a run may wait for tracking."""

    flush_seconds: float = FLUSH_SECONDS
    failed_seconds: float = FAILED_SECONDS
    publish_seconds: float = PUBLISH_SECONDS


def read_credential(settings: MLflow, secrets: Path = Path(SECRET_ROOT)) -> str | None:
    """The server's credential from its mounted Secret; None without one. OSError or ValueError if it cannot be used."""
    if settings.secret_ref is None:
        return None
    return secret_text(secrets / settings.secret_ref.name / settings.secret_ref.key)


class MLflowTracker:
    """One job's run on one server."""

    def __init__(
        self,
        context: RankContext,
        report: Reporter,
        plan: Plan,
        *,
        resumed_step: int,
        credential: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        tracking = context.config.spec.tracking
        if tracking is None:
            raise ValueError("spec.tracking: nothing to record to (got none); allowed a server.")
        self.settings = tracking.mlflow
        self.context = context
        self.report = report
        self.limits = limits or Limits()
        self.credential = credential
        self.client = Client(self.settings.uri, credential)
        self.store = RunStore(context.config.store_path)
        self.recorder = Recorder(
            self.client,
            self.store,
            run=RunFacts(
                self.settings.experiment, parameters_of(context, plan), tags_of(context, plan), resumed_step
            ),
            tell=report.tracking,
        )
        self.closed = False
        self.recorder.start()

    def metrics(self, step: int, figures: dict[str, float]) -> None:
        """Queues figures; never waits."""
        self.recorder.add(step, figures)

    def keep(self) -> None:
        """Makes what is recorded so far outlive a kill."""
        self.recorder.keep()

    def finish(self, output: Output | None, checkpoint_digest: str | None) -> Output | None:
        """Publishes the result and closes the run as FINISHED; the output with what was registered."""
        if self.recorder.flush(self.limits.flush_seconds) and self.recorder.run_id is not None:
            answer = self._publish(output, checkpoint_digest)
            if answer is not None and output is not None:
                output = output.model_copy(
                    update={
                        "registered_model": self.settings.register_as if answer.version else None,
                        "model_version": answer.version,
                    }
                )
        self.close("FINISHED")
        return output

    def close(self, status: str) -> None:
        """Ends recording with the run's status; waits a few seconds at most. The first end counts."""
        if self.closed:
            return
        self.closed = True
        self.recorder.keep()
        failed = status == "FAILED"
        self.recorder.end(status, self.limits.failed_seconds if failed else self.limits.flush_seconds)

    def _datasheet(self) -> list[str]:
        """Files about the corpus of this run, where it has one."""
        prepared = read_index(self.store.root / PREPARED / (self.context.prepared or "none"))
        if prepared is None or prepared.corpus is None:
            return []
        directory = corpora_of(self.store.root) / prepared.corpus
        found = [directory / name for name in ("datasheet.html", "corpus.json")]
        return [str(path) for path in found if path.is_file()]

    def _publish(self, output: Output | None, checkpoint_digest: str | None) -> Answer | None:
        root = self.store.root / OUTPUT
        parts = {name: str(root / name) for name in PARTS if output is not None and (root / name).is_dir()}
        try:
            request = Request(
                uri=self.settings.uri,
                run_id=self.recorder.run_id or "",
                parts=parts,
                main=next(iter(parts), None),
                objective=self.context.config.spec.objective,
                datasheet=self._datasheet(),
                register_as=self.settings.register_as,
                alias=self.settings.alias,
                resumed_steps=self._resumed_steps(),
                tags=self._lineage(output, checkpoint_digest),
            )
            done = subprocess.run(
                [sys.executable, "-m", "windlass_workloads.tracking.publish"],
                input=request.model_dump_json(),
                capture_output=True,
                text=True,
                timeout=self.limits.publish_seconds,
                env=self._environment(),
                check=True,
            )
            return Answer.model_validate_json(done.stdout.strip().splitlines()[-1])
        except subprocess.CalledProcessError as error:
            self._degraded((error.stderr.strip().splitlines() or ["no message"])[-1])
        except Exception as error:  # the run is done: whatever a server or a process says, it stays done
            self._degraded(f"{type(error).__name__}")
        return None

    def _environment(self) -> dict[str, str]:
        """The process's own environment, with the credential in the variables that mlflow reads."""
        environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "GIT_PYTHON_REFRESH": "quiet"}
        user, separator, password = (self.credential or "").partition(":")
        if separator:
            environment |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        elif user:
            environment["MLFLOW_TRACKING_TOKEN"] = user
        return environment

    def _resumed_steps(self) -> list[int]:
        run = self.client.call("GET", "runs/get", {"run_id": self.recorder.run_id})["run"]
        tags = {each["key"]: each["value"] for each in run["data"].get("tags", [])}
        return [int(mark) for mark in tags.get(RESUMED_TAG, "").split(",") if mark]

    def _lineage(self, output: Output | None, checkpoint_digest: str | None) -> dict[str, str]:
        facts = {
            "windlass.checkpoint_digest": checkpoint_digest,
            "windlass.output_digest": output.digest if output else None,
            "windlass.output_uri": output.uri if output else None,
            "windlass.data_digest": self.recorder.tags["windlass.data_digest"],
        }
        return {key: value for key, value in facts.items() if value}

    def _degraded(self, why: str) -> None:
        message = f"the model was not logged to {self.settings.uri}: {why}"[:500]
        status = TrackingStatus(run_id=self.recorder.run_id, spooled=0)
        self.report.tracking(status, message.replace(self.credential, "***") if self.credential else message)
