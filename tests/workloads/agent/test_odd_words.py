"""Words of ranks and names of processes that are no text: what they come with is not lost for that."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from windlass.api.contract import RankEvent
from windlass.api.meta import FailureClass, Reason
from windlass.api.status import Failure
from windlass_workloads.agent.channel import RankChannel, line_of
from windlass_workloads.agent.dumps import catches, state_of
from windlass_workloads.agent.reaper import children_of
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.train.failures import LINE_LENGTH, failure_of

NAME = "donn\udce9es.jsonl"


def failure(text: str) -> RankEvent:
    told = Failure(
        reason=Reason.DATA_NOT_FOUND, failure_class=FailureClass.CONFIGURATION, message=text, evidence=[text]
    )
    return RankEvent(type="Failure", at=1.0, failure=told)


def test_a_name_that_is_no_text_does_not_cost_the_failure_that_it_is_in() -> None:
    reading, writing = os.pipe()
    RankChannel(writing, 3).send(failure(f"/ holds {NAME}"))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        event = RankEvent.model_validate_json(pipe.readline())
    assert event.rank == 3 and event.failure is not None
    assert event.failure.message == "/ holds donn\\udce9es.jsonl"
    assert event.failure.evidence == ["/ holds donn\\udce9es.jsonl"]


@pytest.mark.parametrize("text", ["", "plain", "über █", "\U0001f4a5", 'quote " and \\ and \n', "\x00\x1b"])
def test_what_is_text_is_sent_as_it_is(text: str) -> None:
    assert RankEvent.model_validate_json(line_of(failure(text))).failure.message == text  # type: ignore[union-attr]
    assert b"\n" not in line_of(failure(text))


def test_lines_of_evidence_have_a_limit_whoever_writes_them() -> None:
    error = WorkloadError(
        Reason.DATA_UNREADABLE, "unreadable", hint="look", evidence=tuple("x" * 200_000 for _ in range(8))
    )
    told, _ = failure_of(error)
    assert [len(line) for line in told.evidence] == [LINE_LENGTH] * 8
    assert len(json.dumps(told.to_wire())) < 8192


def test_a_process_name_that_ends_in_half_a_letter_is_seen() -> None:
    """The kernel keeps fifteen bytes of a name, whatever they are."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        Path("/proc/self/comm").write_bytes("обучение-модели".encode()[:15])
        time.sleep(60)
        os._exit(0)
    try:
        deadline = time.monotonic() + 20
        while b"\xd0" not in Path(f"/proc/{child}/comm").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert child in children_of(os.getpid())
        assert state_of(child) in ("S", "R", "D")
        assert catches(child, signal.SIGUSR1) and not catches(child, signal.SIGUSR2)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
