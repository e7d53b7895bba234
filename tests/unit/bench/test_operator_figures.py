"""The operator benchmark's arithmetic: goals, latencies, who was made twice, and its reading of the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.operator import audit, figures, load
from bench.operator.audit import Audit, Write, by_resource
from bench.operator.watching import Memory, Shown, newest_step

SIZES = {"jobs": 1000, "finished": 10_000, "storm": 100}


# --- goals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "within"),
    [
        ("podsRatio", 1.5, True),
        ("podsRatio", 1.51, False),
        ("statusP99Seconds", float("inf"), False),
        ("writesAtRest", 0, True),
        ("writesAtRest", 1, False),
        ("duplicates", 1, False),
        ("takeoverSeconds", 19.9, True),
    ],
)
def test_a_goal_is_the_most_that_a_figure_may_be(name: str, value: float, within: bool) -> None:
    row = figures.verdicts({name: value}, SIZES)[name]
    assert (row["within"], row["goal"]) == (within, figures.GOALS[name])
    assert row["measured"] == (None if value == float("inf") else value)


def test_what_was_not_measured_has_no_verdict() -> None:
    assert figures.verdicts({"podsRatio": None}, SIZES) == {}
    assert figures.verdicts({}, SIZES) == {}


@pytest.mark.parametrize(
    ("sizes", "full"),
    [
        ({"jobs": 999, "finished": 10_000, "storm": 100}, {"firstPassSeconds", "stormSeconds"}),
        ({"jobs": 1000, "finished": 9_999, "storm": 100}, {"podsRatio", "stormSeconds"}),
        ({"jobs": 1000, "finished": 10_000, "storm": 99}, {"podsRatio", "firstPassSeconds"}),
        (SIZES, {"podsRatio", "firstPassSeconds", "stormSeconds"}),
    ],
)
def test_a_smaller_run_does_not_pass_for_the_full_size(sizes: dict[str, int], full: set[str]) -> None:
    rows = figures.verdicts({"podsRatio": 1.0, "firstPassSeconds": 1.0, "stormSeconds": 1.0}, sizes)
    assert {name for name, row in rows.items() if row["fullSize"]} == full


def test_every_goal_depends_on_a_size_that_exists() -> None:
    assert set(figures.MADE_AT) <= set(figures.GOALS)
    assert set(figures.MADE_AT.values()) <= set(figures.FULL)


# --- latencies ---------------------------------------------------------------------------------------


def test_changes_that_never_show_count_as_the_latest() -> None:
    seconds = [0.1] * 98
    assert figures.latency(seconds, 0)["p99"] == 0.1
    row = figures.latency(seconds, 2)
    assert (row["n"], row["missing"], row["p50"], row["p99"], row["maximum"]) == (100, 2, 0.1, None, None)


def test_no_change_at_all_has_no_latency() -> None:
    assert figures.latency([], 0) == {"n": 0, "missing": 0, "p50": None, "p99": None, "maximum": None}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_percentiles_are_seen_values_in_order(seconds: list[float]) -> None:
    row = figures.latency(seconds, 0)
    assert row["p50"] is not None and row["p99"] is not None and row["maximum"] is not None
    assert row["p50"] <= row["p99"] <= row["maximum"] == round(max(seconds), 4)
    assert row["p50"] in [round(value, 4) for value in seconds]


def test_a_change_shows_with_its_step_or_a_later_one() -> None:
    shown = Shown()
    for at, step in ((10.0, 10), (11.0, 10), (12.0, 30)):
        shown.take(at, body("a", step))
    told = {("a", 10): 9.5, ("a", 20): 9.75, ("a", 30): 11.0, ("a", 40): 11.0, ("b", 10): 9.0}
    delays, missing = shown.delays(told)
    assert delays == [0.5, 2.25, 1.0], "an event that shows no newer step is not taken for a change"
    assert missing == 2, "step 40 of a, and b"


def test_a_status_without_checkpoints_shows_step_zero() -> None:
    assert newest_step({"metadata": {"name": "a"}}) == 0
    assert newest_step(body("a", 0)) == 0


def body(name: str, step: int) -> dict[str, Any]:
    rows = [{"step": step - 10}, {"step": step}] if step else []
    return {"metadata": {"name": name}, "status": {"checkpoints": rows}}


# --- duplicates --------------------------------------------------------------------------------------


def child(name: str, run: str | None = "a", index: str | None = None, **metadata: Any) -> dict[str, Any]:
    labels = {"windlass.dev/run": run} if run else {}
    if index is not None:
        labels["windlass.dev/index"] = index
    return {"metadata": {"name": name, "labels": labels, **metadata}}


def test_two_pods_of_one_place_are_a_duplicate() -> None:
    pods = [child("a-0-1", index="0"), child("a-0-9", index="0"), child("a-1-2", index="1")]
    assert figures.duplicates(figures.places("Pod", pods)) == ["Pod a 0"]


def test_a_pod_on_its_way_out_holds_no_place() -> None:
    leaving = child("a-0-1", index="0", deletionTimestamp="2026-11-25T12:00:00Z")
    assert figures.duplicates(figures.places("Pod", [leaving, child("a-0-9", index="0")])) == []


def test_objects_of_others_do_not_count() -> None:
    assert figures.places("ConfigMap", [child("kube-root-ca.crt", run=None)]) == []


def test_two_configurations_of_one_run_are_a_duplicate_and_its_ca_is_none() -> None:
    maps = [child("a-config-11111111"), child("a-config-22222222"), child("a-ca")]
    assert figures.duplicates(figures.places("ConfigMap", maps)) == ["ConfigMap a config"]


def test_the_same_name_in_two_runs_or_kinds_is_no_duplicate() -> None:
    rows = figures.places("Service", [child("a"), child("b", run="b")])
    rows += figures.places("NetworkPolicy", [child("a"), child("b", run="b")])
    assert len(rows) == 4
    assert figures.duplicates(rows) == []


@pytest.mark.parametrize(
    ("seconds", "beside", "times"), [(15.0, [10.0], 1.5), (15.0, [5.0, 15.0], 1.5), (3.0, [9.0], 0.33)]
)
def test_a_start_is_compared_with_the_mean_of_the_runs_around_it(
    seconds: float, beside: list[float], times: float
) -> None:
    assert figures.ratio(seconds, beside) == times


def test_the_highest_memory_is_of_all_operators() -> None:
    memory = Memory({"one": [70.0, 90.04, 80.0], "two": [60.0], "three": []})
    assert memory.highest() == 90.0


# --- the audit log -----------------------------------------------------------------------------------


def line(verb: str = "create", resource: str = "pods", code: int = 201, **changes: Any) -> str:
    event = {
        "stage": "ResponseComplete",
        "verb": verb,
        "stageTimestamp": "2026-11-25T12:00:00.250000Z",
        "objectRef": {"resource": resource, "namespace": "bench", "name": "a-0-1"},
        "responseStatus": {"code": code},
    }
    return json.dumps(event | changes)


def test_a_line_becomes_a_write() -> None:
    write = audit.parse(line())
    assert write is not None and write.made_a_pod and write.is_of_jobs
    assert (write.verb, write.resource, write.namespace, write.name) == ("create", "pods", "bench", "a-0-1")
    assert write.at % 1 == 0.25


@pytest.mark.parametrize(
    "text",
    [
        line(verb="watch"),
        line(stage="RequestReceived"),
        line(resource="tokenreviews"),
    ],
)
def test_what_changes_nothing_is_no_write(text: str) -> None:
    assert audit.parse(text) is None


@pytest.mark.parametrize(("verb", "changes"), [("get", False), ("list", False), ("patch", True)])
def test_reads_are_told_from_writes(tmp_path: Path, verb: str, changes: bool) -> None:
    path = tmp_path / "audit.log"
    path.write_text(line(verb=verb, code=200) + "\n")
    log = Audit(path)
    assert len(log.since(0.0)) == changes
    assert len(log.reads_since(0.0)) == (not changes)
    assert log.reads_since(log.read()[0].at + 1 if changes else log.reads[0].at + 1) == []


@pytest.mark.parametrize(
    ("before", "after", "spent"),
    [
        ({}, {}, {"all": 0}),
        ({"a": 1.0}, {"a": 1.5, "b": 2.0}, {"a": 0.5, "b": 2.0, "all": 2.5}),
        ({"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 2.0}, {"all": 0}),
    ],
    ids=["none", "one is new", "one has ended and begun again"],
)
def test_processor_time_between_two_looks(
    before: dict[str, float], after: dict[str, float], spent: dict[str, float]
) -> None:
    assert figures.used(before, after) == spent


def test_status_is_told_from_the_object() -> None:
    reference = {"resource": "finetunejobs", "subresource": "status", "namespace": "bench", "name": "a"}
    write = audit.parse(line(verb="patch", code=200, objectRef=reference))
    assert write is not None and write.resource == "finetunejobs/status"


@pytest.mark.parametrize(("verb", "code", "made"), [("create", 409, False), ("delete", 200, False)])
def test_only_an_accepted_creation_makes_a_pod(verb: str, code: int, made: bool) -> None:
    write = audit.parse(line(verb=verb, code=code))
    assert write is not None and write.made_a_pod is made


@pytest.mark.parametrize(
    ("resource", "of_jobs"), [("leases", False), ("endpointslices", False), ("events", True)]
)
def test_the_lease_and_the_endpoint_are_the_operators_own(resource: str, of_jobs: bool) -> None:
    write = audit.parse(line(verb="update", resource=resource, code=200))
    assert write is not None and write.is_of_jobs is of_jobs


def test_a_half_written_line_is_read_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = Audit(path)
    assert log.read() == [], "the server has not made it yet"
    whole, half = line(), line(code=409)
    path.write_text(whole + "\n" + half[:40])
    assert [one.code for one in log.read()] == [201]
    path.write_text(whole + "\n" + half + "\n")
    assert [one.code for one in log.read()] == [201, 409]
    assert [one.code for one in log.read()] == [201, 409], "nothing is read twice"


def test_an_interval_takes_its_beginning_and_leaves_its_end(tmp_path: Path) -> None:
    log = Audit(tmp_path / "none")
    log.writes = [Write(at, "create", "pods", "bench", "a", 201) for at in (1.0, 2.0, 3.0)]
    assert [one.at for one in log.since(1.0, 3.0)] == [1.0, 2.0]
    assert [one.at for one in log.since(2.0)] == [2.0, 3.0]
    assert by_resource(log.writes) == {"pods": 3}


def test_the_policy_records_requests_of_the_operator_only() -> None:
    first, last = audit.policy()["rules"]
    assert first["users"] == [audit.OPERATOR] and set(first["verbs"]) == {*audit.CHANGES, *audit.READS}
    assert last == {"level": "None"}, "everything else is left out"


@pytest.mark.parametrize(("jobs", "spread"), [(1, 1), (10, 10), (25, 10), (1000, 10), (7, 3)])
def test_jobs_are_spread_evenly_over_the_namespaces_there_are(jobs: int, spread: int) -> None:
    found = [load.namespace_of(name, spread) for name in load.job_names(jobs)]
    assert set(found) <= set(load.namespaces(spread)) and len(set(found)) == min(jobs, spread)
    counts = [found.count(one) for one in set(found)]
    assert max(counts) - min(counts) <= 1
