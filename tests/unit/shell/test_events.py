"""The recorder: one event, then a series; bounded per job; never a reason to fail."""

from __future__ import annotations

import math
from typing import Any

import pytest

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi, Fault
from windlass.api.meta import Reason
from windlass.core.decision import Event
from windlass.core.pace import announcement_interval
from windlass.shell.events import (
    BURST,
    NOTE_LENGTH,
    REFILL_SECONDS,
    REMEMBERED,
    SERIES_SECONDS,
    Recorder,
    cut,
)

JOB = {
    "kind": "FineTuneJob",
    "metadata": {"name": "ft", "namespace": "team", "uid": "run-1", "resourceVersion": "7"},
}


def recorder(api: FakeApi, hand: Hand, **more: Any) -> Recorder:
    return Recorder(api.client(attempts=1), instance="operator-1", clock=hand.clock(), **more)


def event(message: str = "all pods run", reason: Reason = Reason.TRAINING) -> Event:
    return Event("Normal", reason, message)


def stored(api: FakeApi) -> list[dict[str, Any]]:
    return [body for (plural, _, _), body in api.objects.items() if plural == "events"]


async def test_an_event_has_what_kubectl_shows(api: FakeApi, hand: Hand) -> None:
    await recorder(api, hand).record(JOB, event())
    (body,) = stored(api)
    assert (body["type"], body["reason"], body["note"]) == ("Normal", "Training", "all pods run")
    assert body["regarding"]["uid"] == "run-1"
    assert body["regarding"]["apiVersion"] == "windlass.dev/v1alpha1"
    assert body["reportingController"] == "windlass.dev/operator"
    assert body["reportingInstance"] == "operator-1"
    assert body["eventTime"] == "2026-11-23T12:00:00.000000Z"
    assert body["action"]


async def test_the_same_again_becomes_a_series(api: FakeApi, hand: Hand) -> None:
    made = recorder(api, hand)
    for _ in range(5):
        await made.record(JOB, event())
        hand.at += 1
    (body,) = stored(api)
    assert body["series"]["count"] == 2, "the third to fifth wait for the next write"
    hand.at += 60
    await made.record(JOB, event())
    assert stored(api)[0]["series"]["count"] == 6


async def test_after_a_while_it_is_a_new_event(api: FakeApi, hand: Hand) -> None:
    made = recorder(api, hand)
    await made.record(JOB, event())
    hand.at += SERIES_SECONDS + 1
    await made.record(JOB, event())
    assert len(stored(api)) == 2


async def test_other_messages_and_other_jobs_are_other_events(api: FakeApi, hand: Hand) -> None:
    made = recorder(api, hand)
    await made.record(JOB, event())
    await made.record(JOB, event("one pod runs"))
    await made.record(JOB | {"metadata": JOB["metadata"] | {"uid": "run-2", "name": "ft2"}}, event())
    assert len(stored(api)) == 3


async def test_a_job_cannot_flood(api: FakeApi, hand: Hand) -> None:
    made = recorder(api, hand)
    for number in range(100):
        await made.record(JOB, event(f"message {number}"))
    assert len(stored(api)) == int(BURST)
    assert made.dropped == 100 - int(BURST)
    hand.at += REFILL_SECONDS
    await made.record(JOB, event("later"))
    assert len(stored(api)) == int(BURST) + 1


@pytest.mark.parametrize("runs", [1, 300, 600, 1000])
async def test_checkpoints_are_told_of_seldom_and_take_nothing_from_the_rest(
    api: FakeApi, hand: Hand, runs: int
) -> None:
    seconds = math.ceil(announcement_interval(runs, JOB["metadata"]["uid"]).total_seconds())
    assert (seconds == 60) is (runs <= 300)
    made = recorder(api, hand, runs=lambda: runs)
    for step in range(300):
        await made.record(JOB, event(f"step-{step} verified", Reason.CHECKPOINT_COMMITTED))
        hand.at += 1
    notes = [body["note"] for body in stored(api)]
    assert notes == [f"step-{step} verified" for step in range(0, 300, seconds)]
    for number in range(int(BURST)):
        await made.record(JOB, event(f"failure {number}"))
    assert len(stored(api)) == len(notes) + BURST, "the whole budget is there for what matters"
    assert made.dropped == 0


async def test_each_job_tells_of_its_own_checkpoints(api: FakeApi, hand: Hand) -> None:
    made = recorder(api, hand)
    other = JOB | {"metadata": JOB["metadata"] | {"uid": "run-2"}}
    for job in (JOB, other, JOB):
        await made.record(job, event("step-1 verified", Reason.CHECKPOINT_COMMITTED))
    assert sorted(body["regarding"]["uid"] for body in stored(api)) == ["run-1", "run-2"]


async def test_jobs_with_checkpoints_are_remembered_up_to_a_bound(api: FakeApi, hand: Hand) -> None:
    made = recorder(api, hand)
    for number in range(REMEMBERED + 10):
        assert made._is_due((f"run-{number}", Reason.CHECKPOINT_COMMITTED), hand.at)
    assert len(made._routine) == REMEMBERED
    assert not made._is_due((f"run-{REMEMBERED}", Reason.CHECKPOINT_COMMITTED), hand.at)


@pytest.mark.parametrize("fault", [Fault("POST", "events", 403), Fault("POST", "events", drop=True)])
async def test_failing_to_record_fails_nothing(api: FakeApi, hand: Hand, fault: Fault) -> None:
    api.faults.append(fault)
    made = recorder(api, hand)
    await made.record(JOB, event())
    assert stored(api) == []
    await made.record(JOB, event())
    assert len(stored(api)) == 1


@pytest.mark.parametrize(
    "text", ["short", "x" * NOTE_LENGTH, "x" * (NOTE_LENGTH + 1), "é" * NOTE_LENGTH, "😀" * 400]
)
def test_notes_fit_the_apis_limit_in_bytes(text: str) -> None:
    note = cut(text)
    assert len(note.encode()) <= NOTE_LENGTH
    assert note == text or note.endswith("…")
    assert text.startswith(note.rstrip("…"))
