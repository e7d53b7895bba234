"""The end of recording: whatever the server does, a rank that failed says so first and is gone soon."""

from __future__ import annotations

import socket
import time

import pytest

from windlass.api.contract import RankContext
from windlass.api.status import Plan
from windlass_workloads.checkpoint.store import METRICS_SPOOL, RunStore
from windlass_workloads.data.errors import StopRequested
from windlass_workloads.tracking.mlflow import FAILED_SECONDS, MLflowTracker
from windlass_workloads.train import loop, tasks
from windlass_workloads.train.ports import Reporter

pytestmark = pytest.mark.workloads


@pytest.fixture
def silent():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Events:
    save_requested = False

    def __init__(self):
        self.sent = []

    def send(self, event):
        self.sent.append(event)


def context(root, uri):
    spec = {
        "model": {"uri": "pvc://models/tiny"},
        "data": {"sources": [{"uri": "pvc://data/train.jsonl"}]},
        "training": {"globalBatchSize": 4, "maxSteps": 10},
        "checkpoint": {"store": "pvc://store"},
        "tracking": {"mlflow": {"uri": uri}},
    }
    run = {"kind": "FineTuneJob", "namespace": "team", "name": "run", "uid": "u"}
    config = {"run": run, "attempt": 1, "spec": spec, "leaderHost": "run-0", "storePath": str(root)}
    return RankContext.model_validate({"task": "train", "config": config, "incarnation": 1})


def test_a_server_that_hangs_does_not_hold_up_a_rank_that_failed(tmp_path, silent):
    tracker = MLflowTracker(context(tmp_path, silent), Reporter(Events(), 0), Plan(), resumed_step=0)
    tracker.metrics(1, {"loss": 1.0})
    began = time.monotonic()
    tracker.close("FAILED")
    # Plain ends may wait for a quarter of a minute.
    assert time.monotonic() - began < FAILED_SECONDS + 4
    assert [row["step"] for row in RunStore(tmp_path).read_lines(METRICS_SPOOL)] == [1]


@pytest.mark.parametrize(
    ("error", "told", "code"), [(ZeroDivisionError("x"), ["Failure"], 10), (StopRequested(), [], 0)]
)
def test_a_failure_is_told_before_anything_is_cleared_up(tmp_path, monkeypatch, error, told, code):
    channel = Events()
    at_the_end = []

    def run(context, channel, roots, after):
        after.callback(lambda: at_the_end.extend(event.type for event in channel.sent))
        after.callback(at_the_end.append, "cleared up")
        raise error

    monkeypatch.setattr(loop, "run", run)
    with pytest.raises(SystemExit) as ended:
        tasks.train(context(tmp_path, "http://127.0.0.1:9"), channel)
    assert ended.value.code == code
    assert at_the_end == ["cleared up", *told]
