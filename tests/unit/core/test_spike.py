"""The rule for loss spikes: which losses make one, which never do, and what the rule remembers."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.api.guards import LossSpike
from windlass.core.failure.spike import LEAST_SPREAD, NORMAL, Seen, Spike, limit_of, look

LOSSES = st.floats(0.01, 20, allow_nan=False)


def guard(**changes: object) -> LossSpike:
    settings = {"action": "Rollback", "window_steps": 10, "deviations": "5", "patience": 3}
    return LossSpike.model_validate({**settings, **changes})


def judged(losses: list[float], rule: LossSpike, seen: Seen | None = None) -> tuple[Seen, dict[int, Spike]]:
    """All losses in turn; the state after them, and spikes by place."""
    seen, spikes = seen or Seen(), {}
    for place, loss in enumerate(losses):
        seen, spike = look(seen, loss, rule)
        if spike is not None:
            spikes[place] = spike
    return seen, spikes


CALM = [2.0, 2.2, 1.9, 2.1, 2.0, 1.8, 2.1, 2.0, 2.2, 1.9]
"""Median 2.0, MAD 0.1: the limit of five deviations is 2.0 + 5 x 0.14826."""
LIMIT = 2.0 + 5 * NORMAL * 0.1

CURVES = [
    # name, losses, changes of the rule, places of spikes
    ("nothing", [], {}, []),
    ("calm", CALM * 5, {}, []),
    ("three in a row", [*CALM, 4, 4, 4], {}, [12]),
    ("two in a row", [*CALM, 4, 4, 2, 4, 4, 2], {}, []),
    ("at the limit", [*CALM, *[LIMIT - 1e-9] * 3], {}, []),
    ("above the limit", [*CALM, *[LIMIT + 1e-9] * 3], {}, [12]),
    ("one is enough", [*CALM, 4], {"patience": 1}, [10]),
    ("more patience", [*CALM, 4, 4, 4], {"patience": 4}, []),
    ("more deviations", [*CALM, *[LIMIT + 0.1] * 3], {"deviations": "9"}, []),
    ("no window yet", [*CALM[:-1], 90, 90, 90], {}, []),
    ("not asked for", [*CALM, 90, 90, 90], {"action": "Off"}, []),
    ("told", [*CALM, 90, 90, 90], {"action": "Notify"}, [12]),
    ("falling", [10 * 0.97**step for step in range(200)], {}, []),
    ("below is no spike", [*CALM, 0.001, 0.001, 0.001, 0.001], {}, []),
    ("hardly moving", [0.5] * 10 + [0.52] * 9, {}, []),
    ("zero", [0.0] * 10 + [0.0] * 9, {}, []),
    ("rising in one step", [*CALM, *[5.0] * 30], {}, [12, 15]),
]


@pytest.mark.parametrize(
    ("losses", "changes", "wanted"), [row[1:] for row in CURVES], ids=[row[0] for row in CURVES]
)
def test_curves_have_their_spikes(losses, changes, wanted):
    assert list(judged(losses, guard(**changes))[1]) == wanted


def test_a_spike_says_what_it_is_above_of():
    spike = judged([*CALM, 4, 4, 4.5], guard())[1][12]
    assert (spike.loss, spike.median, spike.steps) == (4.5, 2.0, 3)
    assert spike.limit == pytest.approx(LIMIT)
    assert spike.text == "loss 4.5, above 2.7413 for 3 steps in a row (median before 2)"
    assert "for 1 step (" in judged([*CALM, 4], guard(patience=1))[1][10].text


@pytest.mark.parametrize("name", ["window_steps", "deviations", "patience"])
def test_the_defaults_are_conservative(name):
    rule = LossSpike()
    assert {"window_steps": 100, "deviations": "10", "patience": 3}[name] == getattr(rule, name)
    assert rule.action == "Notify"


@given(st.lists(LOSSES, min_size=1, max_size=40), st.floats(1, 50))
def test_the_limit_is_above_the_median_by_the_robust_spread(losses, deviations):
    middle, limit = limit_of(losses, deviations)
    assert sum(loss <= middle for loss in losses) >= len(losses) / 2
    assert limit >= middle * (1 + deviations * LEAST_SPREAD) * (1 - 1e-12)
    outlier = limit_of([*losses, *losses, 1e9], deviations)
    assert outlier[0] <= max(losses)


@given(st.lists(LOSSES, max_size=60), st.integers(1, 5))
def test_no_spike_without_as_many_suspects_in_a_row(losses, patience):
    rule = guard(patience=patience)
    seen, row = Seen(), 0
    for loss in losses:
        ready = len(seen.losses) >= rule.window_steps
        suspect = ready and loss > limit_of(seen.losses, 5.0)[1]
        row = row + 1 if suspect else 0
        seen, spike = look(seen, loss, rule)
        assert (spike is not None) == (row == patience)
        row = 0 if spike is not None else row


@given(st.lists(LOSSES, max_size=60))
def test_losses_that_never_rise_never_spike(losses):
    falling = sorted(losses, reverse=True)
    assert judged(falling, guard(patience=1, deviations="1"))[1] == {}


@given(st.lists(LOSSES, max_size=50), st.sampled_from([0.25, 2.0, 64.0]))
def test_the_unit_of_the_loss_does_not_matter(losses, scale):
    plain = judged(losses, guard())[1]
    # Powers of two scale floats exactly.
    assert list(judged([loss * scale for loss in losses], guard())[1]) == list(plain)


@given(st.lists(LOSSES, max_size=50), st.integers(0, 50))
def test_a_run_that_goes_on_from_a_checkpoint_judges_like_the_uninterrupted_one(losses, cut):
    whole, spikes = judged(losses, guard())
    before, first = judged(losses[:cut], guard())
    after, second = judged(losses[cut:], guard(), Seen(before.losses, before.suspects))
    assert after == whole
    assert [*first, *(place + min(cut, len(losses)) for place in second)] == list(spikes)


@given(st.lists(LOSSES, max_size=80))
def test_no_more_is_kept_than_a_window(losses):
    seen, _ = judged(losses, guard())
    assert len(seen.losses) <= 10
    assert len(seen.suspects) < 3


def test_a_shorter_window_in_a_changed_spec_takes_the_newest_losses():
    seen = judged([9.0] * 10 + CALM, guard(window_steps=20))[0]
    assert len(seen.losses) == 20
    assert list(judged([4.0] * 3, guard(), seen)[1]) == [2]


def test_noise_of_small_batches_is_no_spike_in_a_long_run():
    noise = random.Random(7)
    losses = [1.5 + 2 * math.exp(-step / 2000) + noise.gauss(0, 0.3) for step in range(20_000)]
    assert judged(losses, LossSpike())[1] == {}


def test_a_spike_in_noise_is_found_within_its_patience():
    noise = random.Random(8)
    losses = [2.0 + noise.gauss(0, 0.1) for _ in range(300)]
    losses[200:] = [loss + 3 for loss in losses[200:]]
    assert next(iter(judged(losses, LossSpike())[1])) == 202
