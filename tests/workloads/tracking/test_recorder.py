"""One MLflow run per job: made once, never ahead of or behind itself, whole again after the server was away."""

from __future__ import annotations

import time

import pytest

from windlass_workloads.checkpoint.store import METRICS_SPOOL, TRACKING, RunStore
from windlass_workloads.tracking.client import Client, Refused, Unreachable
from windlass_workloads.tracking.recorder import RESUMED_TAG, Recorder, RunFacts

pytestmark = pytest.mark.workloads


class Job:
    """A job's store and the recorders of its incarnations."""

    def __init__(self, server, root, uid):
        self.server = server
        self.store = RunStore(root)
        self.uid = uid
        self.told = []

    def recorder(self, resumed_step=0, parameters=None, start=True):
        tags = {"windlass.uid": self.uid, "mlflow.runName": "job"}
        facts = RunFacts("recorder", parameters or {"seed": "17"}, tags, resumed_step)
        made = Recorder(
            Client(self.server.uri, timeout_seconds=3),
            self.store,
            run=facts,
            tell=lambda status, problem: self.told.append((status, problem)),
            retry_seconds=0.2,
        )
        if start:
            made.start()
        return made

    def get(self, run_id):
        return Client(self.server.uri).call("GET", "runs/get", {"run_id": run_id})["run"]

    def history(self, run_id, key="loss"):
        body = {"run_id": run_id, "metric_key": key}
        found = Client(self.server.uri).call("GET", "metrics/get-history", body).get("metrics", [])
        return [(metric.get("step", 0), metric["value"]) for metric in found]


@pytest.fixture
def job(server, tmp_path, request):
    return Job(server, tmp_path / "store", request.node.name)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


def test_incarnations_share_one_run_and_log_each_step_once(job):
    first = job.recorder()
    for step in range(1, 6):
        first.add(step, {"loss": 10.0 - step})
    assert first.flush(60)
    first.end("KILLED", 30)
    assert job.get(first.run_id)["info"]["status"] == "KILLED"

    second = job.recorder(resumed_step=3, parameters={"seed": "17", "late": "yes"})
    for step in range(4, 8):
        second.add(step, {"loss": 20.0 - step})
    assert second.flush(60)
    assert job.get(first.run_id)["info"]["status"] == "RUNNING"
    second.end("FINISHED", 30)

    assert second.run_id == first.run_id
    assert job.history(first.run_id) == [
        (1, 9.0),
        (2, 8.0),
        (3, 7.0),
        (4, 6.0),
        (5, 5.0),
        (6, 14.0),
        (7, 13.0),
    ]
    run = job.get(first.run_id)
    assert run["info"]["status"] == "FINISHED"
    assert {each["key"]: each["value"] for each in run["data"]["params"]} == {"seed": "17", "late": "yes"}
    assert {each["key"]: each["value"] for each in run["data"]["tags"]}[RESUMED_TAG] == "3"


def test_a_run_whose_record_was_lost_is_found_by_its_tag(job):
    first = job.recorder()
    assert first.flush(60)
    first.end("KILLED", 30)
    job.store.remove(TRACKING)
    second = job.recorder()
    assert second.flush(60)
    second.end("FINISHED", 30)
    assert second.run_id == first.run_id


@pytest.mark.fault("F37")
def test_nothing_is_lost_or_doubled_while_the_server_is_away(job, server):
    first = job.recorder()
    first.add(1, {"loss": 1.0})
    assert first.flush(60)
    server.down()
    began = time.monotonic()
    for step in (2, 3, 4):
        first.add(step, {"loss": float(step)})
    assert time.monotonic() - began < 0.5
    wait_for(lambda: len(job.store.read_lines(METRICS_SPOOL)) == 3)
    wait_for(lambda: job.told and job.told[-1][1] is not None)
    assert job.told[-1][1].startswith(f"{server.uri} does not answer (")
    first.end("KILLED", 10)

    second = job.recorder(resumed_step=2)
    for step in (3, 4, 5):
        second.add(step, {"loss": 10.0 * step})
    wait_for(lambda: second.problem is not None)
    server.up()
    assert second.flush(60)
    assert job.told[-1][1] is None
    assert job.history(first.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0)]
    assert not job.store.exists(METRICS_SPOOL)
    second.end("FINISHED", 30)


def test_a_kill_before_the_first_answer_loses_nothing_that_was_kept(job):
    killed = job.recorder(start=False)
    for step in (1, 2, 3):
        killed.add(step, {"loss": float(step)})
    killed.keep()
    killed.add(4, {"loss": 4.0})
    second = job.recorder(resumed_step=3)
    second.add(4, {"loss": 40.0})
    assert second.flush(60)
    second.end("FINISHED", 30)
    assert job.history(second.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert not job.store.exists(METRICS_SPOOL)


def test_a_full_queue_drops_rows_and_never_waits(job):
    recorder = job.recorder(start=False)
    began = time.monotonic()
    for step in range(20_000):
        recorder.add(step, {"loss": 1.0})
    assert time.monotonic() - began < 10


def test_errors_of_the_client_say_who_and_what(server):
    with pytest.raises(
        Unreachable, match=r"http://127\.0\.0\.1:9 does not answer \(ConnectionRefusedError: "
    ):
        Client("http://127.0.0.1:9").call("GET", "experiments/get-by-name", {})
    with pytest.raises(Refused, match="RESOURCE_DOES_NOT_EXIST: "):
        Client(server.uri).call("GET", "runs/get", {"run_id": "0" * 32})
    with pytest.raises(Unreachable, match="answers with status 404"):
        Client(f"{server.uri}/nowhere").call("GET", "runs/get", {})


def test_a_number_that_is_none_is_logged_as_such_and_takes_no_other_with_it(job):
    """Weights that broke in the last step: a validation loss of 0 would make the worst run the best."""
    recorder = job.recorder()
    recorder.add(5, {"validation_loss": float("nan"), "up": float("inf"), "down": float("-inf")})
    recorder.add(6, {"loss": 1.0})
    assert recorder.flush(60)
    recorder.end("FINISHED", 30)
    run_id = recorder.run_id
    for key in ("validation_loss", "up", "down"):
        ((step, value),) = job.history(run_id, key)
        assert step == 5 and value not in (0, 0.0), (key, value)
    assert job.history(run_id) == [(6, 1.0)]
