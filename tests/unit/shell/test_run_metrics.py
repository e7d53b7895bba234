"""Metrics of runs: parts that sum to wall time, waste, the age of checkpoints, and phases measured once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.status import GoodputSeconds, RecoverySeconds
from windlass.shell.metrics import Metrics, document
from windlass.shell.run_metrics import PARTS, PHASES

NOW = datetime(2026, 1, 1, 1, 0, 0, tzinfo=UTC)
SAVED = {"step": 40, "incarnation": 1, "name": "s", "digest": "d", "committedAt": "2026-01-01T00:59:00Z"}
OF_JOB = '{kind="FineTuneJob",name="ft",namespace="team"}'


def job(nodes: int = 2, devices: int = 4, name: str = "ft", **status: Any) -> dict[str, Any]:
    return {
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": "team", "uid": "u"},
        "spec": {"resources": {"nodes": nodes, "accelerator": {"count": devices}}},
        "status": status,
    }


def served(*jobs: dict[str, Any], leads: bool = True) -> list[str]:
    metrics = Metrics()
    metrics.show_jobs(lambda: list(jobs), lambda: leads, lambda: NOW)
    return metrics.render().decode().splitlines()


def values(lines: list[str], name: str) -> dict[str, float]:
    found = (line.rsplit(" ", 1) for line in lines if line.startswith(f"{name}{{"))
    return {labels.removeprefix(name): float(value) for labels, value in found}


GOODPUT = {
    "sinceCreation": 100.0,
    "seconds": {"training": 60, "recovering": 10, "reworked": 5, "backOff": 25},
}


def test_every_part_of_goodput_is_served_under_its_name_in_status() -> None:
    found = values(served(job(goodput=GOODPUT)), "windlass_job_goodput_seconds")
    assert len(found) == len(GoodputSeconds.model_fields)
    assert found['{kind="FineTuneJob",name="ft",namespace="team",part="backOff"}'] == 25.0
    assert found['{kind="FineTuneJob",name="ft",namespace="team",part="queued"}'] == 0.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=len(PARTS), max_size=len(PARTS)))
def test_served_parts_sum_to_wall_time(seconds: list[float]) -> None:
    wall = sum(seconds) or 1.0
    goodput = {"sinceCreation": wall, "seconds": dict(zip(PARTS.values(), seconds, strict=True))}
    found = values(served(job(goodput=goodput)), "windlass_job_goodput_seconds")
    assert sum(found.values()) == pytest.approx(sum(seconds))


@pytest.mark.parametrize(("nodes", "devices", "wasted"), [(2, 4, 320.0), (1, 1, 40.0), (2, 0, 0.0)])
def test_waste_is_accelerators_times_lost_seconds(nodes: int, devices: int, wasted: float) -> None:
    lines = served(job(nodes, devices, goodput=GOODPUT))
    assert values(lines, "windlass_job_wasted_accelerator_seconds") == {OF_JOB: wasted}


@pytest.mark.parametrize(
    ("beside", "age"),
    [
        ({}, {OF_JOB: 60.0}),
        ({"finishedAt": "2026-01-01T00:59:30Z"}, {}),
        ({"suspendedAt": "2026-01-01T00:59:30Z"}, {}),
    ],
)
def test_a_checkpoint_ages_while_the_run_could_make_another(
    beside: dict[str, Any], age: dict[str, float]
) -> None:
    lines = served(job(checkpoints=[SAVED, {**SAVED, "step": 20}], **beside))
    assert values(lines, "windlass_job_checkpoint_age_seconds") == age
    assert values(lines, "windlass_job_checkpoint_step") == {OF_JOB: 40.0}


def test_a_checkpoint_from_the_future_is_new_and_an_undated_one_has_no_age() -> None:
    ahead = {**SAVED, "committedAt": "2026-01-01T02:00:00Z"}
    assert values(served(job(checkpoints=[ahead])), "windlass_job_checkpoint_age_seconds") == {OF_JOB: 0.0}
    undated = {key: value for key, value in SAVED.items() if key != "committedAt"}
    lines = served(job(checkpoints=[undated]))
    assert values(lines, "windlass_job_checkpoint_age_seconds") == {}
    assert values(lines, "windlass_job_checkpoint_step") == {OF_JOB: 40.0}


def test_a_job_without_numbers_and_a_standby_serve_no_samples() -> None:
    whole = job(goodput=GOODPUT, checkpoints=[SAVED])
    for lines in (served(job()), served(whole, leads=False), served({**job(), "status": None})):
        assert [line for line in lines if line.startswith("windlass_job_")] == []


def test_series_of_a_deleted_job_end() -> None:
    bodies = [job(goodput=GOODPUT, checkpoints=[SAVED])]
    metrics = Metrics()
    metrics.show_jobs(lambda: bodies, lambda: True, lambda: NOW)
    assert OF_JOB in metrics.render().decode()
    bodies.clear()
    assert 'name="ft"' not in metrics.render().decode()


# --- recoveries -----------------------------------------------------------------------------------

ROW = {"incarnation": 2, "rung": "InPlace", "class": "Crash"}
WHOLE = {**ROW, "seconds": {"detect": 0.2, "load": 1.5, "firstStep": 0.3, "total": 2.0}}


def measured(metrics: Metrics) -> dict[str, float]:
    lines = metrics.render().decode().splitlines()
    found = values(lines, "windlass_recovery_seconds_count")
    return {labels.split('phase="')[1].split('"')[0]: value for labels, value in found.items()}


def test_phases_are_measured_once_and_when_all_are_known() -> None:
    metrics = Metrics()
    metrics.count_recoveries(job())
    metrics.count_recoveries(job(recoveries=[ROW]))
    assert measured(metrics) == {}
    for _ in range(3):
        metrics.count_recoveries(job(recoveries=[WHOLE]))
    assert measured(metrics) == {"detect": 1.0, "load": 1.0, "firstStep": 1.0, "total": 1.0}
    lines = metrics.render().decode().splitlines()
    sums = values(lines, "windlass_recovery_seconds_sum")
    assert sums['{failure_class="Crash",phase="total",rung="InPlace"}'] == 2.0


def test_a_recovery_under_way_at_the_first_look_is_measured_but_one_that_was_over_is_not() -> None:
    metrics = Metrics()
    metrics.count_recoveries(job(recoveries=[{**WHOLE, "incarnation": 2}, {**ROW, "incarnation": 3}]))
    metrics.count_recoveries(job(recoveries=[WHOLE, {**WHOLE, "incarnation": 3}]))
    assert measured(metrics)["total"] == 1.0


def test_a_row_that_left_the_history_unmeasured_is_let_go() -> None:
    metrics = Metrics()
    metrics.count_recoveries(job())
    metrics.count_recoveries(job(recoveries=[ROW]))
    metrics.count_recoveries(job(recoveries=[{**WHOLE, "incarnation": 9}]))
    metrics.count_recoveries(job(recoveries=[WHOLE, {**WHOLE, "incarnation": 9}]))
    assert measured(metrics)["total"] == 1.0


def test_the_histogram_has_no_label_of_a_job() -> None:
    row = next(line for line in document().splitlines() if "windlass_recovery_seconds" in line)
    assert "phase, rung, failure_class" in row and "namespace" not in row.split("|")[3]


def test_counters_of_a_deleted_job_end_and_its_namesake_starts_afresh() -> None:
    metrics = Metrics()
    metrics.count_recoveries(job())
    metrics.count_recoveries(job(recoveries=[WHOLE]))
    metrics.forget(job())
    assert 'name="ft"' not in metrics.render().decode()
    metrics.count_recoveries(job(recoveries=[WHOLE]))
    assert 'name="ft"' not in metrics.render().decode()


def test_labels_are_names_of_the_status() -> None:
    assert set(PARTS) == set(GoodputSeconds.model_fields) and PARTS["checkpoint_stall"] == "checkpointStall"
    assert set(PHASES) == set(RecoverySeconds.model_fields) and PHASES["first_step"] == "firstStep"
