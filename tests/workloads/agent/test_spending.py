"""What the gang says that time is spent on while ranks work: new steps are one thing, validation and export others."""

from __future__ import annotations

import pytest

from windlass.api.meta import Phase
from workloads.agent.world import World


@pytest.fixture
def world() -> World:
    return World(nodes=1).train()


def uid_of(world: World) -> str:
    return world.pods[0].pod_uid


def steps(world: World, count: int) -> None:
    for _ in range(count):
        world.step(uid_of(world), 0)


def phases(world: World, *names: Phase) -> None:
    for name in names:
        world.say(uid_of(world), 0, type="Phase", phase=name)


def validate(world: World) -> None:
    phases(world, Phase.VALIDATE, Phase.TRAIN)


def test_validation_is_no_new_step(world: World) -> None:
    steps(world, 2)
    validate(world)
    steps(world, 1)
    assert world.states[-3:] == ["Training", "Validating", "Training"]


def test_validation_between_steps_done_again_does_not_end_the_rework(world: World) -> None:
    steps(world, 2)
    world.checkpoint(uid_of(world), 0)
    steps(world, 3)
    world.exit(uid_of(world), 0, code=1)
    world.begin_steps()
    steps(world, 1)
    validate(world)
    assert world.states[-3:] == ["Reworked", "Validating", "Reworked"]
    steps(world, 2)
    validate(world)
    assert world.states[-3:] == ["Training", "Validating", "Training"]


def test_a_validation_that_crashes_is_recovered_from(world: World) -> None:
    steps(world, 1)
    phases(world, Phase.VALIDATE)
    world.exit(uid_of(world), 0, code=1)
    assert world.states[-2:] == ["Validating", "Recovering"]


def test_a_recovery_into_the_export_ends_where_the_export_begins(world: World) -> None:
    steps(world, 3)
    world.checkpoint(uid_of(world), 0)
    phases(world, Phase.EXPORT)
    world.exit(uid_of(world), 0, code=1)
    phases(world, Phase.LOAD, Phase.TRAIN, Phase.EXPORT)
    (row,) = world.gang.recoveries
    began = world.now
    world.now += 500.0
    world.say(uid_of(world), 0, type="Done", step=3)
    world.exit(uid_of(world), 0, code=0)
    assert world.ended is not None and world.ended.verdict.result == "Succeeded"
    assert world.gang.recoveries == (row,)
    assert row.at.timestamp() + row.seconds.total == pytest.approx(began, abs=0.05)
    assert world.states[-2:] == ["Finishing", "Down"]
