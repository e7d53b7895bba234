"""Remembered renderings: always what would be rendered now, made anew only when a cause changes, and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import SETTINGS as CORE_SETTINGS
from unit.core.builders import a_job, a_pod, at, claims, shared
from unit.shell.life import SETTINGS
from windlass.core.observed import Job, Observed
from windlass.core.reconcile import decide
from windlass.core.render.gang import shared_objects
from windlass.core.settings import RenderSettings
from windlass.shell import renderings
from windlass.shell.renderings import Renderings

OTHER = replace(SETTINGS, ca_pem="ANOTHER CA")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """UIDs of the runs that were really rendered."""
    made: list[str] = []

    def count(job: Job, *arguments: Any, **options: Any) -> Any:
        made.append(job.uid)
        return shared_objects(job, *arguments, **options)

    monkeypatch.setattr(renderings, "shared_objects", count)
    return made


def rendered(job: Job, settings: RenderSettings = SETTINGS) -> Any:
    assert job.spec is not None
    return shared_objects(job, job.spec, attempt=job.status.gang.attempt, settings=settings)


def test_nothing_is_rendered_before_there_is_a_gang() -> None:
    assert Renderings().of(a_job().build(), SETTINGS) is None


def test_an_attempt_has_configuration_service_and_policy() -> None:
    made = Renderings().of(a_job().on_attempt(1, 1).build(), SETTINGS)
    assert made is not None
    assert {item["kind"] for item in made} == {"ConfigMap", "Service", "NetworkPolicy"}


def test_a_spec_that_does_not_parse_is_not_rendered() -> None:
    job = replace(a_job().on_attempt(1, 1).build(), spec=None)
    assert Renderings().of(job, SETTINGS) is None


def test_the_same_causes_are_rendered_once(counted: list[str]) -> None:
    known, job = Renderings(), a_job().on_attempt(1, 1).build()
    first = known.of(job, SETTINGS)
    # Another status of the same attempt, and equal settings that are another object.
    again = known.of(replace(job, resource_version="99"), replace(SETTINGS))
    assert again is first and len(counted) == 1


@pytest.mark.parametrize("cause", ["generation", "attempt", "settings"])
def test_every_cause_has_its_own_rendering(cause: str, counted: list[str]) -> None:
    known, job = Renderings(), a_job().on_attempt(1, 1).build()
    known.of(job, SETTINGS)
    if cause == "generation":
        job = replace(a_job().on_attempt(1, 1).with_spec("training.maxSteps", 41).build(), generation=2)
    elif cause == "attempt":
        job = a_job().on_attempt(2, 3).build()
    used = OTHER if cause == "settings" else SETTINGS
    assert known.of(job, used) == rendered(job, used)
    assert len(counted) == 2


def test_two_runs_of_one_name_are_two() -> None:
    known, job = Renderings(), a_job().on_attempt(1, 1).build()
    other = replace(job, uid="another-uid")
    assert known.of(job, SETTINGS) != known.of(other, SETTINGS)
    assert known.of(other, SETTINGS) == rendered(other)


@pytest.mark.parametrize("condition", ["Complete", "Failed"])
def test_what_has_ended_is_not_rendered_and_not_remembered(condition: str, counted: list[str]) -> None:
    known, job = Renderings(), a_job().on_attempt(1, 1).build()
    known.of(job, SETTINGS)
    ended = job.status.model_validate(
        {
            **job.status.to_wire(),
            "conditions": [
                {
                    "type": condition,
                    "status": "True",
                    "reason": "Completed",
                    "message": "m",
                    "lastTransitionTime": "2026-11-25T12:00:00Z",
                }
            ],
        }
    )
    assert known.of(replace(job, status=ended), SETTINGS) == ()
    assert len(known) == 0 and len(counted) == 1


def test_a_run_that_is_gone_is_forgotten(counted: list[str]) -> None:
    known, job = Renderings(), a_job().on_attempt(1, 1).build()
    known.of(job, SETTINGS)
    known.forget(job.uid)
    known.forget("never-known")
    assert len(known) == 0
    known.of(job, SETTINGS)
    assert len(counted) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_the_runs_looked_at_last_are_remembered(order: list[int]) -> None:
    known, job = Renderings(most=3), a_job().on_attempt(1, 1).build()
    for number in order:
        made = known.of(replace(job, uid=f"uid-{number}"), SETTINGS)
        assert made == rendered(replace(job, uid=f"uid-{number}"))
    last = list(dict.fromkeys(reversed(order)))[:3]
    assert set(known._known) == {f"uid-{number}" for number in last}


@pytest.mark.parametrize("made", [True, False], ids=["objects-there", "objects-missing"])
@pytest.mark.parametrize("pods", [0, 1, 2])
def test_a_decision_is_the_same_with_a_remembered_rendering(made: bool, pods: int) -> None:
    placed = a_job().with_nodes(2).on_attempt(1, 1, 2)
    job = (placed if pods == 2 else placed.with_unmade_pods()).build()
    name = rendered(job, CORE_SETTINGS)[0]["metadata"]["name"]
    job = replace(job, status=job.status.model_copy(update={"run_config": name}))
    seen = Observed(
        pods=tuple(a_pod(index, index + 1) for index in range(pods)),
        objects=shared(job) if made else (),
        claims=claims(),
    )
    known = Renderings().of(job, CORE_SETTINGS)
    assert known is not None
    plain = decide(job, seen, at(60), CORE_SETTINGS)
    assert decide(job, replace(seen, rendered=known), at(60), CORE_SETTINGS) == plain
    assert bool(plain.applies) is not made
