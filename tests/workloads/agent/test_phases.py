"""The phase that a report tells, in each mode of the gang: the operator numbers lost pods by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from windlass.api.meta import Phase
from windlass_workloads.agent.view import View, phase_of
from workloads.agent import test_gang_table as stages
from workloads.agent.world import World

PHASES: dict[str, tuple[Callable[[], World], Phase | None]] = {
    "before the first claim": (stages.claiming, Phase.IMPORTS),
    "libraries of the first pod": (stages.waiting_to_prepare, Phase.IMPORTS),
    "preparing": (stages.preparing, Phase.PREPARE),
    "waiting for pods": (stages.gathering, Phase.IMPORTS),
    "ranks run": (stages.running, Phase.RENDEZVOUS),
    "ranks save": (stages.saving, Phase.SAVE),
    "ranks are stopped": (stages.stopping, None),
    "back-off": (stages.backing_off, None),
    "replaced": (stages.ended_alone, None),
}


@pytest.mark.parametrize("stage", list(PHASES))
def test_phase_in_each_mode(stage: str) -> None:
    make, phase = PHASES[stage]
    assert phase_of(make().gang, View()) is phase
