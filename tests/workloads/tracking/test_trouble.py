"""A tracking server in every kind of trouble: training never waits, nothing is lost or logged twice, and it is told."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.status import TrackingStatus
from windlass_workloads.checkpoint.store import METRICS_SPOOL, TRACKING, RunStore
from windlass_workloads.tracking.client import Client, Refused, Unreachable
from windlass_workloads.tracking.facts import UID_TAG
from windlass_workloads.tracking.recorder import RESUMED_TAG, WAITING_ROWS, Recorder, RunFacts
from workloads.tracking import fake_mlflow as fake
from workloads.tracking.fake_mlflow import FakeMLflow, wait_for


@pytest.fixture
def server(fake_server: FakeMLflow) -> FakeMLflow:
    return fake_server


class Job:
    """A job's store, and the recorders of its incarnations."""

    def __init__(self, server: FakeMLflow, root: Path) -> None:
        self.server, self.store = server, RunStore(root)
        self.told: list[tuple[TrackingStatus, str | None]] = []

    def recorder(self, resumed_step: int = 0, *, start: bool = True, timeout: float = 2.0) -> Recorder:
        facts = RunFacts("exp", {"seed": "17"}, {UID_TAG: "uid-1", "mlflow.runName": "job"}, resumed_step)
        made = Recorder(
            Client(self.server.uri, timeout_seconds=timeout),
            self.store,
            run=facts,
            tell=lambda status, problem: self.told.append((status, problem)),
            retry_seconds=0.02,
        )
        if start:
            made.start()
        return made

    @property
    def spool(self) -> list[Any]:
        return [row["step"] for row in self.store.read_lines(METRICS_SPOOL)]


@pytest.fixture
def job(server: FakeMLflow, tmp_path: Path) -> Job:
    return Job(server, tmp_path / "store")


def log(recorder: Recorder, *steps: int, base: float = 0.0) -> None:
    for step in steps:
        recorder.add(step, {"loss": base + step})


# --- one kind of trouble after the other --------------------------------------------------------------


@pytest.mark.fault("F68")
@pytest.mark.parametrize("where", ["", "log-batch"])
@pytest.mark.parametrize(
    ("trouble", "said"), [row[1:] for row in fake.TROUBLES], ids=[row[0] for row in fake.TROUBLES]
)
def test_each_kind_of_trouble_is_told_kept_through_and_made_good(
    job: Job, server: FakeMLflow, trouble: fake.Answer, said: str, where: str
) -> None:
    harmless = where == "log-batch" and said == ""
    server.trouble, server.where = trouble, where
    recorder = job.recorder()
    began = time.monotonic()
    log(recorder, 1, 2, 3)
    recorder.keep()
    assert time.monotonic() - began < 0.5, "training waits for nobody"
    if not harmless:
        wait_for(lambda: recorder.problem)
        assert said in recorder.problem
        assert not recorder.flush(0.01)
        assert job.spool == [1, 2, 3]
        assert len([problem for _, problem in job.told if problem]) == 1, "told once"
    server.trouble = None
    if not harmless:
        assert wait_for(lambda: recorder.flush(0.2))
        log(recorder, 4)
        wait_for(lambda: recorder.flush(0.2) and job.told[-1][1] is None)
        assert server.history(recorder.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
        assert not job.store.exists(METRICS_SPOOL)
        assert len(server.runs) == 1
    recorder.end("FINISHED", 10)


def test_a_server_that_is_too_slow_is_as_good_as_away(job: Job, server: FakeMLflow) -> None:
    server.trouble = fake.slow(0.5)
    recorder = job.recorder(timeout=0.05)
    began = time.monotonic()
    for step in range(1000):
        recorder.add(step, {"loss": 1.0})
    assert time.monotonic() - began < 0.5
    wait_for(lambda: recorder.problem)
    assert "does not answer (TimeoutError" in recorder.problem
    server.trouble = None
    recorder.client = Client(server.uri)
    wait_for(lambda: recorder.flush(0.5))
    assert len(server.history(recorder.run_id)) == 1000
    recorder.end("FINISHED", 10)


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5, 6, 7, 8])
def test_answers_that_are_lost_make_nothing_twice(job: Job, server: FakeMLflow, lost: int) -> None:
    # The server has carried out the call, and its answer never came: experiment, run, batch are there already.
    server.lose_answers = lost
    recorder = job.recorder()
    log(recorder, 1, 2, 3)
    wait_for(lambda: recorder.flush(0.2))
    recorder.end("FINISHED", 10)
    assert server.history(recorder.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert len(server.experiments) == 1
    assert [run["id"] for run in server.runs.values() if run["id"] == recorder.run_id] == [recorder.run_id]
    assert len(server.runs) == 1, "one run for a job, whatever is lost"


def test_a_run_that_the_server_has_forgotten_stays_degraded_and_ends_in_time(
    job: Job, server: FakeMLflow
) -> None:
    job.store.create(TRACKING, json.dumps({"run_id": "gone"}).encode())
    recorder = job.recorder()
    log(recorder, 1, 2)
    wait_for(lambda: recorder.problem)
    assert recorder.problem.startswith("RESOURCE_DOES_NOT_EXIST")
    recorder.keep()
    assert job.spool == [1, 2]
    began = time.monotonic()
    recorder.end("FINISHED", 5)
    assert time.monotonic() - began < 5
    assert server.runs == {}, "no second run behind the first one's back"


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"run_id": null}'])
def test_a_record_that_cannot_be_read_disturbs_nobody(job: Job, content: bytes) -> None:
    job.store.write(TRACKING, content)
    recorder = job.recorder()
    log(recorder, 1)
    wait_for(lambda: recorder.problem or recorder.flush(0.05))
    recorder.end("FINISHED", 5)


def test_strange_rows_in_the_spool_do_not_stop_the_good_ones(job: Job, server: FakeMLflow) -> None:
    job.store.append_line(METRICS_SPOOL, {"weather": "fine"})
    job.store.append_line(METRICS_SPOOL, {"step": 1, "at": 5, "figures": {"loss": 1.0}})
    with job.store.path(METRICS_SPOOL).open("ab") as file:
        file.write(b'{"step": 2, "at": 5, "fig')
    recorder = job.recorder()
    log(recorder, 3)
    wait_for(lambda: recorder.flush(0.2))
    assert server.history(recorder.run_id) == [(1, 1.0), (3, 3.0)]
    recorder.end("FINISHED", 10)


def test_a_store_that_takes_no_spool_is_told_and_stops_nothing(
    job: Job, server: FakeMLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    server.trouble = fake.plain(503)
    monkeypatch.setattr(job.store, "append_line", full)
    recorder = job.recorder()
    log(recorder, 1, 2)
    recorder.keep()
    wait_for(lambda: recorder.problem)
    server.trouble = None
    wait_for(lambda: recorder.flush(0.2))
    assert server.history(recorder.run_id) == [(1, 1.0), (2, 2.0)]
    assert any(
        "cannot be kept in the store (No space left on device)" in (said or "") for _, said in job.told
    )
    recorder.end("FINISHED", 10)


def test_ten_thousand_rows_wait_and_no_more(job: Job, server: FakeMLflow) -> None:
    server.trouble = fake.hang_up
    recorder = job.recorder(start=False)
    for step in range(WAITING_ROWS + 100):
        recorder.add(step, {"loss": 1.0})
    server.trouble = None
    recorder.start()
    wait_for(lambda: recorder.flush(0.5))
    steps = [step for step, _ in server.history(recorder.run_id)]
    assert steps == list(range(WAITING_ROWS)), "the oldest stay: a curve has no holes in its middle"
    recorder.end("FINISHED", 10)


# --- incarnations -------------------------------------------------------------------------------------


def test_steps_done_again_are_logged_once_and_the_restart_is_marked(job: Job, server: FakeMLflow) -> None:
    first = job.recorder()
    log(first, *range(1, 11))
    wait_for(lambda: first.flush(0.2))
    first.end("KILLED", 10)
    assert server.runs[first.run_id]["status"] == "KILLED"
    second = job.recorder(resumed_step=6)
    log(second, *range(7, 14), base=100.0)
    wait_for(lambda: second.flush(0.2))
    second.end("FINISHED", 10)
    assert second.run_id == first.run_id
    history = server.history(first.run_id)
    assert history == [(step, float(step)) for step in range(1, 11)] + [
        (step, 100.0 + step) for step in (11, 12, 13)
    ]
    run = server.runs[first.run_id]
    assert (run["status"], run["tags"][RESUMED_TAG]) == ("FINISHED", "6")


def test_two_leaders_at_once_share_one_run(job: Job, server: FakeMLflow) -> None:
    made = [job.recorder(), job.recorder()]
    for recorder in made:
        wait_for(lambda recorder=recorder: recorder.flush(0.2))
    record = json.loads(job.store.read(TRACKING) or b"{}")["run_id"]
    assert {recorder.run_id for recorder in made} == {record}
    for recorder in made:
        recorder.end("KILLED", 10)


def test_what_waited_for_the_server_comes_before_what_is_new(job: Job, server: FakeMLflow) -> None:
    server.trouble = fake.plain(503)
    first = job.recorder()
    log(first, 1, 2, 3, 4, 5)
    wait_for(lambda: first.problem)
    first.keep()
    first.end("KILLED", 5)
    second = job.recorder(resumed_step=3)
    log(second, 4, 5, 6, base=100.0)
    wait_for(lambda: second.problem)
    server.trouble = None
    wait_for(lambda: second.flush(0.2))
    second.end("FINISHED", 10)
    history = server.history(second.run_id)
    assert history == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.0), (6, 106.0)]


@given(
    lives=st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 8), st.sampled_from(["well", "down", "lossy"])),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=15, deadline=None)
def test_any_history_gives_each_step_once_and_none_is_missing(lives: list[tuple[int, int, str]]) -> None:
    server = FakeMLflow()
    with tempfile.TemporaryDirectory() as root:
        job, done, kept = Job(server, Path(root)), 0, 0
        for steps, back, mood in lives:
            server.trouble = fake.plain(503) if mood == "down" else None
            server.lose_answers = 2 if mood == "lossy" else 0
            resumed = max(0, kept - back) if kept else 0
            recorder = job.recorder(resumed_step=resumed)
            log(recorder, *range(resumed + 1, resumed + steps + 1))
            recorder.keep()
            kept = resumed + steps
            done = max(done, kept)
            if mood != "down":
                wait_for(lambda recorder=recorder: recorder.flush(0.2))
            else:
                wait_for(lambda recorder=recorder: recorder.problem)
            recorder.end("KILLED", 5)
        server.trouble, server.lose_answers = None, 0
        last = job.recorder(resumed_step=kept)
        wait_for(lambda: last.flush(0.2))
        last.end("FINISHED", 10)
        assert server.history(last.run_id) == [(step, float(step)) for step in range(1, done + 1)]
    server.close()


# --- the client ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credential", "header"),
    [
        (None, None),
        ("", None),
        ("a-token", "Bearer a-token"),
        ("user:pass", "Basic dXNlcjpwYXNz"),
        ("user:pa:ss", "Basic dXNlcjpwYTpzcw=="),
    ],
)
def test_a_credential_is_a_token_or_a_user_with_a_password(
    server: FakeMLflow, credential: str | None, header: str | None
) -> None:
    Client(f"{server.uri}/", credential).experiment("exp")
    assert server.authorizations == {header}


@pytest.mark.parametrize("trouble", [row[1] for row in fake.TROUBLES], ids=[row[0] for row in fake.TROUBLES])
def test_no_error_holds_the_credential(server: FakeMLflow, trouble: fake.Answer) -> None:
    server.trouble = trouble
    with pytest.raises((Unreachable, Refused, KeyError)) as caught:
        Client(server.uri, "user:correct-horse").experiment("exp")
    assert "correct-horse" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_an_experiment_that_somebody_makes_meanwhile_is_used(server: FakeMLflow) -> None:
    answer = server.answer

    def race(call: str, body: dict[str, Any]) -> fake.Answer:
        if call == "experiments/create" and not server.experiments:
            server.experiments["exp"] = "7"
        return answer(call, body)

    server.answer = race  # type: ignore[method-assign]
    assert Client(server.uri).experiment("exp") == "7"
