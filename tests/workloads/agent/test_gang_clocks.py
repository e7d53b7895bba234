"""Clocks of other nodes, far behind ours or ahead: no save ends by them, and no time comes out negative."""

from __future__ import annotations

import pytest

from windlass_workloads.agent.course import Mode
from windlass_workloads.agent.messages import Leaving
from workloads.agent.world import World, finish_save


@pytest.mark.fault("F12")
@pytest.mark.parametrize("skew", [-10_000.0, -200.0, 0.0, 200.0, 10_000.0])
def test_a_clock_that_differs_ends_no_save(skew: float) -> None:
    """The leaving pod says when it was asked to; its clock is far behind ours, or ahead."""
    world = World(nodes=2).train()
    for _ in range(3):
        world.step(world.uid(0), 0)
    leaving = world.uid(1)
    world.hear(leaving, Leaving(at=world.now + skew))
    world.tick(1.0)
    assert world.gang.mode is Mode.SAVING
    finish_save(world, leaving)
    (finish,) = world.finished.values()
    assert (finish.verdict.step, finish.verdict.lost_steps) == (3, 0)


@pytest.mark.fault("F12")
def test_a_failure_stamped_by_a_clock_ahead_of_ours_takes_its_time_all_the_same() -> None:
    world = World(nodes=2).train()
    world.exit(world.uid(1), 1, code=139, signal=11, ahead=60.0)
    world.tick(2.0)
    world.begin_steps()
    (row,) = world.gang.recoveries
    assert row.seconds.total >= 2.0
