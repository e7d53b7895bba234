"""The tracker at the end of a run: no trouble fails a finished run, and only what is listed goes out."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import RankContext
from windlass.api.status import Output, Plan, TrackingStatus
from windlass_workloads.checkpoint.store import METRICS_SPOOL, OUTPUT
from windlass_workloads.tracking import mlflow as tracking
from windlass_workloads.tracking.facts import UID_TAG, parameters_of, tags_of
from windlass_workloads.tracking.mlflow import Limits, MLflowTracker, read_credential
from workloads.checkpoint.support import context
from workloads.tracking import fake_mlflow as fake
from workloads.tracking.fake_mlflow import FakeMLflow, wait_for


@pytest.fixture
def server(fake_server: FakeMLflow) -> FakeMLflow:
    return fake_server


class Reports:
    def __init__(self) -> None:
        self.told: list[tuple[TrackingStatus, str | None]] = []

    def tracking(self, status: TrackingStatus, message: str | None) -> None:
        self.told.append((status, message))


def tracked(server: FakeMLflow, root: Path, **settings: Any) -> RankContext:
    plain = context(root)
    spec = plain.config.spec.to_wire()
    spec["tracking"] = {"mlflow": {"uri": server.uri, "experiment": "exp", **settings}}
    config = {**plain.config.to_wire(), "spec": spec}
    return RankContext.model_validate({**plain.to_wire(), "config": config})


def tracker(server: FakeMLflow, root: Path, reports: Reports, **settings: Any) -> MLflowTracker:
    return MLflowTracker(
        tracked(server, root, **settings),
        reports,  # type: ignore[arg-type]
        Plan(total_steps=10, data_digest="sha256:d"),
        resumed_step=0,
        credential="user:correct-horse",
        limits=Limits(flush_seconds=5.0, publish_seconds=5.0),
    )


OUT = Output(uri="pvc://store/output", digest="d")


def publishing(answer: Any) -> Callable[..., Any]:
    def run(command: list[str], **options: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, stdout=answer, stderr="")

    return run


PUBLISHED = 'noise\n{"version": "3", "flavor": "artifacts"}\n'
FAILED_PUBLISH: list[tuple[str, Any, str]] = [
    (
        "fails",
        subprocess.CalledProcessError(1, ["x"], stderr="a\nValueError: no user:correct-horse\n"),
        "no ***",
    ),
    ("fails silently", subprocess.CalledProcessError(1, ["x"], stderr=""), "no message"),
    ("takes too long", subprocess.TimeoutExpired(["x"], 5.0), "TimeoutExpired"),
    ("cannot start", OSError(12, "Cannot allocate memory"), "OSError"),
    ("says nothing", "", "IndexError"),
    ("says something else", "hello\n", "ValidationError"),
]


@pytest.mark.parametrize(
    ("answer", "said"), [row[1:] for row in FAILED_PUBLISH], ids=[row[0] for row in FAILED_PUBLISH]
)
def test_a_model_that_cannot_be_published_does_not_fail_the_run(
    server: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, said: str
) -> None:
    monkeypatch.setattr(tracking.subprocess, "run", publishing(answer))
    reports = Reports()
    mine = tracker(server, tmp_path, reports, registerAs="model")
    mine.metrics(1, {"loss": 1.0})
    output = mine.finish(OUT, "digest")
    assert (output.registered_model, output.model_version) == (None, None)
    messages = [message for _, message in reports.told if message]
    assert len(messages) == 1 and said in messages[0] and "correct-horse" not in messages[0]
    assert server.runs["run1"]["status"] == "FINISHED"


@pytest.mark.parametrize("trouble", [row[1] for row in fake.TROUBLES], ids=[row[0] for row in fake.TROUBLES])
@pytest.mark.parametrize("where", ["runs/get", "runs/update"])
def test_no_trouble_at_the_end_fails_a_finished_run(
    server: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: fake.Answer, where: str
) -> None:
    monkeypatch.setattr(tracking.subprocess, "run", publishing(PUBLISHED))
    mine = tracker(server, tmp_path, Reports())
    mine.metrics(1, {"loss": 1.0})
    wait_for(lambda: mine.recorder.flush(0.2))
    server.trouble, server.where = trouble, where
    output = mine.finish(OUT, "digest")
    assert output is not None and output.uri == OUT.uri


def test_what_was_published_is_told(
    server: FakeMLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options)
        return subprocess.CompletedProcess(command, 0, stdout=PUBLISHED, stderr="")

    monkeypatch.setattr(tracking.subprocess, "run", run)
    (tmp_path / OUTPUT / "merged").mkdir(parents=True)
    (tmp_path / OUTPUT / "other").mkdir()
    mine = tracker(server, tmp_path, Reports(), registerAs="model", alias="champion")
    output = mine.finish(OUT, "digest")
    assert (output.registered_model, output.model_version) == ("model", "3")
    request = json.loads(seen["input"])
    assert (request["main"], list(request["parts"])) == ("merged", ["merged"])
    assert (request["register_as"], request["alias"], request["run_id"]) == ("model", "champion", "run1")
    assert request["tags"]["windlass.checkpoint_digest"] == "digest"
    assert request["tags"]["windlass.data_digest"] == "sha256:d"
    assert "correct-horse" not in seen["input"]
    assert seen["env"]["MLFLOW_TRACKING_USERNAME"] == "user"
    assert seen["env"]["MLFLOW_TRACKING_PASSWORD"] == "correct-horse"


def test_a_server_that_never_came_costs_the_end_only_its_limit(server: FakeMLflow, tmp_path: Path) -> None:
    server.trouble = fake.hang_up
    reports = Reports()
    mine = tracker(server, tmp_path, reports)
    mine.limits = Limits(flush_seconds=0.1, publish_seconds=0.1)
    mine.metrics(1, {"loss": 1.0})
    began = time.monotonic()
    assert mine.finish(OUT, "digest") == OUT
    assert time.monotonic() - began < 5
    assert [row["step"] for row in mine.store.read_lines(METRICS_SPOOL)] == [1], (
        "kept for whoever comes later"
    )
    assert reports.told[-1][1] is not None


# --- what goes out ------------------------------------------------------------------------------------


def test_only_what_is_listed_goes_out(server: FakeMLflow, tmp_path: Path) -> None:
    made = tracked(server, tmp_path, secretRef={"name": "hidden-secret"})
    plan = Plan(world_size=2, total_steps=10)
    sent = json.dumps([parameters_of(made, plan), tags_of(made, plan)])
    assert "hidden-secret" not in sent and server.uri not in sent and "storePath" not in sent
    assert parameters_of(made, plan)["world_size"] == "2"
    assert "precision" not in parameters_of(made, plan), "what is not known is left out"
    assert tags_of(made, plan)[UID_TAG] == made.config.run.uid


def test_a_credential_comes_from_its_mount_alone(server: FakeMLflow, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "token").write_text(" correct-horse\n")
    made = tracked(server, tmp_path, secretRef={"name": "hidden"}).config.spec.tracking
    assert read_credential(made.mlflow, tmp_path) == "correct-horse"
    assert read_credential(tracked(server, tmp_path).config.spec.tracking.mlflow, tmp_path) is None
    with pytest.raises(OSError, match="No such file"):
        read_credential(made.mlflow, tmp_path / "elsewhere")
