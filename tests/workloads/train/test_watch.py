"""The guards of a rank by themselves: what they stop, what they say, what they remember. No torch."""

from __future__ import annotations

import math
from typing import Any

import pytest

from windlass.api.contract import RankEvent
from windlass.api.guards import Guards
from windlass.core.failure.spike import Seen
from windlass_workloads.train.failures import GuardTripped, LossSpiked, NotFinite, failure_of
from windlass_workloads.train.guards import SHOWN_SAMPLES, Sight, Watch, shown
from windlass_workloads.train.ports import Reporter


class Told:
    """A channel that remembers."""

    save_requested = False

    def __init__(self) -> None:
        self.events: list[RankEvent] = []

    def send(self, event: RankEvent) -> None:
        self.events.append(event)


def sight(step: int = 5, loss: float = 2.0, bad: float = 0.0) -> Sight:
    return Sight(step=step, loss=loss, bad_gradients=bad, rate=2e-4, samples=lambda: [7, 3, 9, 1])


def watch(action: str = "Rollback", **rule: Any) -> Watch:
    block = {"action": action, "windowSteps": 10, "deviations": "5", "patience": 2, **rule}
    return Watch(Guards.model_validate({"lossSpike": block}))


def calm(guard: Watch, count: int = 10) -> Watch:
    for step in range(count):
        assert guard.judge(sight(step + 1, 2.0 + 0.1 * (step % 2))) is None
    return guard


@pytest.mark.fault("F43")
@pytest.mark.parametrize(
    ("loss", "bad", "said"),
    [
        (math.nan, 0, "step 5: loss nan, gradient finite, learning rate 0.0002; the step was not applied"),
        (math.inf, 0, "step 5: loss inf, gradient finite, learning rate 0.0002; the step was not applied"),
        (
            -math.inf,
            2,
            "step 5: loss -inf, gradient no number on 2 rank(s), learning rate 0.0002; the step was not applied",
        ),
        (
            2.5,
            1,
            "step 5: loss 2.5, gradient no number on 1 rank(s), learning rate 0.0002; the step was not applied",
        ),
    ],
)
@pytest.mark.parametrize("action", ["Off", "Notify", "Rollback"])
def test_what_is_no_number_is_never_let_through(loss, bad, said, action):
    guard = watch(action)
    with pytest.raises(NotFinite) as caught:
        guard.judge(sight(loss=loss, bad=bad))
    assert (str(caught.value), caught.value.step, caught.value.samples) == (said, 5, "7, 3, 9, 1")
    assert guard.seen == Seen()


@pytest.mark.parametrize("action", ["Rollback", "Pause", "Fail"])
def test_a_spike_stops_the_step_that_completes_it(action):
    guard = calm(watch(action))
    assert guard.judge(sight(11, 9.0)) is None
    with pytest.raises(LossSpiked) as caught:
        guard.judge(sight(12, 9.5))
    assert str(caught.value).startswith("step 12: loss 9.5, above 2.")
    assert str(caught.value).endswith("; the step was not applied")
    assert (caught.value.step, caught.value.samples) == (12, "7, 3, 9, 1")
    assert isinstance(caught.value, GuardTripped)


def test_a_spike_to_tell_of_is_returned():
    guard = calm(watch("Notify"))
    assert guard.judge(sight(11, 9.0)) is None
    spike = guard.judge(sight(12, 9.5))
    assert spike is not None and (spike.loss, spike.steps) == (9.5, 2)
    assert guard.seen.suspects == ()


def test_nobody_looks_when_it_is_off():
    guard = calm(watch("Off"))
    assert guard.judge(sight(11, 900.0)) is guard.judge(sight(12, 900.0)) is None
    assert guard.seen == Seen()


def test_samples_are_only_asked_for_when_they_are_shown():
    asked = []
    guard = watch()
    guard.judge(Sight(1, 2.0, 0.0, 1e-3, lambda: asked.append(1) or []))
    assert asked == []


def test_a_spike_is_told_and_said_to_be_over_a_window_later():
    channel, guard = Told(), calm(watch("Notify"))
    report = Reporter(channel, 0)
    guard.judge(sight(11, 9.0))
    guard.tell(report, 12, guard.judge(sight(12, 9.5)))
    for step in range(13, 40):
        guard.tell(report, step, None)
    told = [(event.type, event.step, event.loss, event.message) for event in channel.events]
    assert told[0][:3] == ("LossSpike", 12, 9.5)
    assert told[0][3].startswith("step 12: loss 9.5, above ")
    assert told[1:] == [("LossSpike", 22, None, None)]


def test_another_spike_meanwhile_is_told_and_ends_later():
    channel, guard = Told(), calm(watch("Notify", patience=1))
    report = Reporter(channel, 0)
    for step, loss in ((11, 9.0), (12, 2.0), (13, 30.0)):
        guard.tell(report, step, guard.judge(sight(step, loss)))
    for step in range(14, 40):
        guard.tell(report, step, None)
    assert [(event.step, event.message is None) for event in channel.events] == [
        (11, False),
        (13, False),
        (23, True),
    ]


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (0, ""),
        (2, "0, 1"),
        (SHOWN_SAMPLES, ", ".join(map(str, range(SHOWN_SAMPLES)))),
        (SHOWN_SAMPLES + 5, ", ".join(map(str, range(SHOWN_SAMPLES))) + " and 5 more"),
    ],
)
def test_long_lists_of_samples_are_cut(count, wanted):
    assert shown(range(count)) == wanted


def test_the_failure_of_a_rank_says_its_step():
    channel = Told()
    failure, _ = failure_of(NotFinite("step 5: loss nan", step=5, samples="1"))
    Reporter(channel, 3).failure(failure, 5)
    assert [(event.type, event.rank, event.step) for event in channel.events] == [("Failure", 3, 5)]
