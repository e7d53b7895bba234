"""A rank's own seconds of a step end where its strategy first makes it wait for the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from windlass_workloads.train import own_time
from windlass_workloads.train.own_time import Meeting, OwnTime
from windlass_workloads.train.strategies.ddp import DDP
from windlass_workloads.train.strategies.fsdp import FSDP

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Clock:
    """Seconds that a test lets pass; also the events of an accelerator's stream, which count milliseconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events = 0

    def __call__(self) -> float:
        return self.now

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        self.events += 1
        return Event(self)


class Event:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.at: float | None = None

    def record(self) -> None:
        self.at = self.clock.now

    def elapsed_time(self, other: Event) -> float:
        assert self.at is not None and other.at is not None
        return (other.at - self.at) * 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(own_time.time, "perf_counter", made)
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    return made


def step_of(clock: Clock, device: torch.device, meeting: Meeting, batches: int) -> float | None:
    """One second for the batches, two for each forward, four for each backward."""
    own = OwnTime(device, meeting)
    clock.now += 1.0
    for number in range(batches):
        own.forward()
        clock.now += 2.0
        own.backward(last=number == batches - 1)
        clock.now += 4.0
    return own.seconds()


@pytest.mark.fault("F42")
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize(
    ("meeting", "batches", "seconds"),
    [
        (Meeting.FORWARD, 1, 1.0),
        (Meeting.FORWARD, 3, 1.0),
        (Meeting.BACKWARD, 1, 3.0),
        (Meeting.BACKWARD, 3, 3.0),
        (Meeting.LAST_BACKWARD, 1, 3.0),
        (Meeting.LAST_BACKWARD, 3, 15.0),
        (Meeting.LAST_BACKWARD, 0, None),
    ],
)
def test_own_seconds_end_at_the_meeting(
    clock: Clock, device: torch.device, meeting: Meeting, batches: int, seconds: float | None
) -> None:
    assert step_of(clock, device, meeting, batches) == (None if seconds is None else pytest.approx(seconds))


def test_a_step_on_an_accelerator_takes_two_events(clock: Clock) -> None:
    step_of(clock, CUDA, Meeting.FORWARD, 8)
    assert clock.events == 2


def test_strategies_say_where_ranks_meet() -> None:
    assert (DDP.meeting, FSDP.meeting) == (Meeting.LAST_BACKWARD, Meeting.FORWARD)
