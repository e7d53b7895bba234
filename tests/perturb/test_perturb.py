"""Every story of a run, with the operator crashing after each write, missing each event, reading stale.

The three questions that find operator bugs: intermediate, unobserved and stale state. The end must be
the same as without the fault, with nothing left over and nothing done twice.
"""

from __future__ import annotations

import pytest

from perturb.actions import GONE, Scenario
from perturb.operator_model import Perturbation
from perturb.play import play, undisturbed
from perturb.scenarios import SCENARIOS

NAMED = {scenario.name: scenario for scenario in SCENARIOS}
MORE_WRITES = 14


def check(scenario: Scenario, perturbation: Perturbation) -> None:
    baseline, disturbed = undisturbed(scenario.name), play(scenario, perturbation)
    assert disturbed.end == scenario.ends
    assert disturbed.pods == baseline.pods
    assert disturbed.objects == baseline.objects
    assert disturbed.conditions == baseline.conditions
    if disturbed.end == "Completed":
        assert disturbed.step == baseline.step
    assert disturbed.writes <= baseline.writes + MORE_WRITES


@pytest.mark.parametrize("name", NAMED)
def test_scenario_reaches_its_end_undisturbed(name: str) -> None:
    result = undisturbed(name)
    assert result.end == NAMED[name].ends
    if result.end == GONE:
        assert (result.pods, result.objects) == ((), ())


@pytest.mark.fault("F1")
@pytest.mark.fault("F16")
@pytest.mark.parametrize("name", NAMED)
def test_crash_after_every_write_changes_nothing(name: str) -> None:
    for index in range(undisturbed(name).writes):
        check(NAMED[name], Perturbation("crash", index))


@pytest.mark.fault("F5")
@pytest.mark.parametrize("name", NAMED)
def test_every_lost_event_is_made_up_for(name: str) -> None:
    for index in range(undisturbed(name).rounds):
        check(NAMED[name], Perturbation("lost", index))


@pytest.mark.fault("F17")
@pytest.mark.parametrize("name", NAMED)
def test_every_stale_read_of_children_is_harmless(name: str) -> None:
    for index in range(undisturbed(name).rounds):
        check(NAMED[name], Perturbation("stale-children", index))


@pytest.mark.fault("F14")
@pytest.mark.parametrize("name", NAMED)
def test_every_stale_read_of_everything_is_harmless(name: str) -> None:
    for index in range(undisturbed(name).rounds):
        check(NAMED[name], Perturbation("stale-all", index))


@pytest.mark.parametrize("name", ["create-and-succeed", "suspend-and-resume", "gang-is-recreated"])
def test_a_life_takes_few_writes(name: str) -> None:
    assert undisturbed(name).status_writes <= 20
