"""The text of a job: what a reader sees in each situation."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.cli import view
from windlass.core.observed import parse_status

RECOVERY = {
    "incarnation": 2,
    "rung": "InPlace",
    "class": "Crash",
    "firstFailed": {"rank": 1, "pod": "a-1-2"},
    "signal": 9,
    "fromStep": 21,
    "resumedStep": 16,
    "lostSteps": 5,
    "seconds": {"detect": 0.2, "stop": 0.1, "load": 1.9, "total": 2.2},
}
STATUS: dict[str, Any] = {
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "Training",
            "message": "step 32 of 64",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
    "progress": {
        "step": 32,
        "totalSteps": 64,
        "loss": 0.5,
        "tokensPerSecond": 210.4,
        "etaSeconds": 190,
        "phase": "Train",
    },
    "plan": {
        "trainSamples": 960,
        "worldSize": 2,
        "parameters": 1000,
        "trainableParameters": 10,
        "precision": "FP32",
    },
    "checkpoints": [
        {"step": 32, "incarnation": 2, "name": "step-32", "digest": "sha256:" + "a" * 64, "bytes": 3 << 20}
    ],
    "recoveries": [RECOVERY],
    "goodput": {
        "ratio": 0.875,
        "sinceAdmission": 400,
        "seconds": {"training": 350, "recovering": 2.2, "starting": 47.8},
    },
}


def job(**changes: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "team"}, "status": STATUS | changes}


def test_the_whole_view_of_a_running_job() -> None:
    said = view.describe(job())
    assert said.splitlines()[0] == "team/a  Training"
    assert (
        "[################................]  step 32/64  loss 0.5000  210 tokens/s  about 3 min 10 s left"
        in said
    )
    assert "960 samples, 2 ranks, 10 of 1,000 parameters trained, FP32" in said
    assert "step 32      incarnation 2      3.0 MiB  sha256:aaaaaaaaaaaa" in said
    assert (
        "InPlace      rank 1 (signal 9, Crash)  step 21 -> 16, 5 lost, 2.2 s (detect 0.2, stop 0.1, load 1.9)"
        in said
    )
    assert "goodput     87.5% of 6 min 40 s: training 5 min 50 s, starting 48 s, recovering 2.2 s" in said


@pytest.mark.parametrize(
    ("band", "text"),
    [
        ({}, "about 3 min 10 s left"),
        ({"etaLowSeconds": 170}, "about 3 min 10 s left"),
        ({"etaLowSeconds": 170, "etaHighSeconds": 250}, "about 3 min 10 s left (2 min 50 s to 4 min 10 s)"),
    ],
)
def test_what_is_left_has_its_band_once_it_is_known(band: dict[str, float], text: str) -> None:
    said = view.describe(job(progress=STATUS["progress"] | band))
    assert said.splitlines()[1].split("tokens/s  ")[1].split("  phase")[0] == text


def test_what_the_whole_run_will_cost_is_shown_as_a_band() -> None:
    cost = {"currency": "EUR", "total": "1.5", "ratePerHour": "2"}
    assert "expected" not in view.describe(job(cost=cost))
    said = view.describe(job(cost=cost | {"expectedLow": "2.25", "expectedHigh": "3"}))
    assert "1.5 EUR, 2 EUR per hour now, 2.25 to 3 EUR expected in all" in said


def test_a_job_without_status_is_shown() -> None:
    assert view.describe({"metadata": {"name": "a"}}).startswith("default/a  not seen yet")


def test_a_status_of_another_version_is_shown_as_far_as_it_is_understood() -> None:
    said = view.describe(job(progress={"step": "many"}, somethingNew={"x": 1}))
    assert "step 0/" not in said and "team/a" in said


def test_a_failure_shows_evidence_and_hint_until_the_job_completes() -> None:
    failure = {
        "reason": "OutOfMemory",
        "class": "OutOfMemory",
        "message": "rank 0 ran out of memory",
        "hint": "lower microBatchSize",
        "evidence": ["RuntimeError: out of memory"],
    }
    said = view.describe(job(lastFailure=failure))
    assert "last failure OutOfMemory: rank 0 ran out of memory\n    RuntimeError: out of memory" in said
    assert "hint        lower microBatchSize" in said
    complete = {**STATUS["conditions"][0], "type": "Complete", "status": "True"}
    assert "last failure" not in view.describe(job(lastFailure=failure, conditions=[complete]))


@pytest.mark.parametrize(
    ("type", "reason"),
    [("TrackingDegraded", "TrackingUnreachable"), ("ProgressDegraded", "StragglerDetected")],
)
def test_degradations_are_shown(type: str, reason: str) -> None:
    degraded = {**STATUS["conditions"][0], "type": type, "status": "True", "reason": reason}
    assert f"{type}: {reason}" in view.describe(job(conditions=[degraded]))


def test_what_a_guard_left_out_is_shown_with_its_recovery() -> None:
    row = {**RECOVERY, "class": "Numeric", "skipped": {"first": 160, "last": 175, "steps": 1}}
    said = view.describe(job(recoveries=[row]))
    assert "; data of 1 step skipped: samples 160 to 175 of the training order" in said
    assert "skipped" not in view.describe(job())


def test_the_result_names_output_model_and_run() -> None:
    output = {"uri": "pvc://checkpoints/x", "registeredModel": "triage", "modelVersion": "3"}
    said = view.describe(job(output=output, tracking={"runId": "r", "url": "http://mlflow/#/runs/r"}))
    assert (
        "output      pvc://checkpoints/x\nmodel       triage version 3\ntracking    http://mlflow/#/runs/r"
        in said
    )


@pytest.mark.parametrize(
    ("done", "total", "filled"), [(0, 64, 0), (64, 64, 8), (32, 64, 4), (100, 64, 8), (5, None, 0), (5, 0, 0)]
)
def test_bar_never_leaves_its_width(done: int, total: int | None, filled: int) -> None:
    drawn = view.bar(done, total, width=8)
    assert len(drawn) == 10 and drawn.count("#") == filled


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.25, "0.2 s"), (42.4, "42 s"), (190, "3 min 10 s"), (59.9, "60 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert view.duration(seconds) == text


@pytest.mark.parametrize(
    ("kind", "finished"), [("Complete", True), ("Failed", True), ("Ready", False), ("Stalled", False)]
)
def test_finished_means_complete_or_failed(kind: str, finished: bool) -> None:
    row = {**STATUS["conditions"][0], "type": kind, "status": "True"}
    assert view.is_finished(parse_status({"conditions": [row]})) is finished
    assert view.is_finished(parse_status({"conditions": [{**row, "status": "False"}]})) is False


def test_an_exit_code_and_a_lost_pod_are_told_apart() -> None:
    rows = [
        {**RECOVERY, "signal": None, "exitCode": 1},
        {**RECOVERY, "signal": None, "rung": "RecreatePod", "firstFailed": {"pod": "a-1-2"}},
    ]
    said = view.describe(job(recoveries=rows))
    assert "rank 1 (exit 1, Crash)" in said and "a-1-2 (lost, Crash)" in said


SUSPECTS = [
    {
        "name": "node-1",
        "reason": "DeviceError",
        "class": "Infrastructure",
        "exclusion": "Required",
        "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T01:00:00Z",
        "count": 2,
        "evidence": ["Xid 79", "more"],
    },
    {
        "name": "node-2",
        "reason": "NodeLost",
        "class": "Infrastructure",
        "exclusion": "Preferred",
        "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T01:00:00Z",
    },
]


def test_suspect_nodes_are_shown_with_reason_and_end() -> None:
    lines = view.describe(job(suspectNodes=SUSPECTS)).splitlines()
    begin = lines.index("suspect nodes")
    assert lines[begin + 1 : begin + 3] == [
        "  node-1  DeviceError, excluded until 2026-01-01 01:00:00 UTC, suspected 2x: Xid 79",
        "  node-2  NodeLost, avoided until 2026-01-01 01:00:00 UTC, suspected 1x",
    ]


def test_a_finished_job_avoids_no_node() -> None:
    status = parse_status(job(suspectNodes=SUSPECTS)["status"])
    ended = status.model_copy(
        update={
            "conditions": [status.conditions[0].model_copy(update={"type": "Complete", "status": "True"})]
        }
    )
    assert view.suspect_lines(status) and view.suspect_lines(ended) == []
    assert view.suspect_lines(status.model_copy(update={"suspect_nodes": []})) == []


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (
            {"currency": "EUR", "total": "1.5", "ratePerHour": "10.368", "wasted": "0.25"},
            "cost        1.5 EUR, 10.368 EUR per hour now, 0.25 EUR lost to failures",
        ),
        ({"currency": "USD", "total": "0", "ratePerHour": "0"}, "cost        0 USD, 0 USD per hour now"),
    ],
)
def test_cost_is_shown_beside_goodput(cost: dict[str, Any], said: str) -> None:
    text = view.describe({"metadata": {"name": "ft"}, "status": {"cost": cost}})
    assert said in text.splitlines()


def test_without_prices_there_is_no_word_of_cost() -> None:
    assert "cost" not in view.describe({"metadata": {"name": "ft"}, "status": {"progress": {"step": 1}}})
