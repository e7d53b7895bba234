"""Reading the API's JSON into views of pods, claims, objects and jobs, by tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import (
    a_job,
    at,
)
from windlass.core.observed import ClaimView, Job, ObjectView, PodView, parse_status, parse_time

# --- views -----------------------------------------------------------------------------------------


def pod_body(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "uid": "u"} | metadata, "status": status or {}}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "agent", "state": state}]}


PODS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bare", pod_body(), {"phase": "Pending", "index": -1, "exit_code": None, "termination_message": ""}),
    ("empty lists", pod_body({"conditions": None, "containerStatuses": None}), {"unschedulable": None}),
    (
        "scheduled",
        pod_body(
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T12:00:03Z"}
                ]
            }
        ),
        {"scheduled_at": at(3), "unschedulable": None},
    ),
    (
        "no node",
        pod_body(
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"}
                ]
            }
        ),
        {"scheduled_at": None, "unschedulable": "m"},
    ),
    (
        "no node, no words",
        pod_body({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
        {"unschedulable": "no node fits"},
    ),
    (
        "held by a gate",
        pod_body({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        {"unschedulable": None},
    ),
    (
        "disrupted",
        pod_body(
            {
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
                ]
            }
        ),
        {"disruption": "EvictionByEvictionAPI"},
    ),
    (
        "no longer disrupted",
        pod_body({"conditions": [{"type": "DisruptionTarget", "status": "False", "reason": "X"}]}),
        {"disruption": None},
    ),
    (
        "waiting",
        pod_body(container(waiting={"reason": "R", "message": "m"})),
        {"waiting_reason": "R", "waiting_message": "m"},
    ),
    ("waiting for nothing", pod_body(container(waiting={})), {"waiting_reason": None}),
    (
        "running",
        pod_body({"phase": "Running"} | container(running={"startedAt": "2026-11-23T12:00:05Z"})),
        {"started_at": at(5), "is_running": True, "is_terminal": False},
    ),
    (
        "ended in a running pod",
        pod_body({"phase": "Running"} | container(terminated={"exitCode": 1})),
        {"exit_code": 1, "is_running": False, "is_terminal": False},
    ),
    (
        "ended",
        pod_body(
            {"phase": "Failed"}
            | container(
                terminated={
                    "exitCode": 137,
                    "signal": 9,
                    "reason": "OOMKilled",
                    "message": "m",
                    "startedAt": "2026-11-23T12:00:05Z",
                    "finishedAt": "2026-11-23T12:00:09Z",
                }
            )
        ),
        {
            "exit_code": 137,
            "signal": 9,
            "terminated_reason": "OOMKilled",
            "termination_message": "m",
            "started_at": at(5),
            "finished_at": at(9),
            "is_terminal": True,
        },
    ),
    (
        "evicted",
        pod_body({"phase": "Failed", "reason": "Evicted", "message": "m"}),
        {"reason": "Evicted", "message": "m"},
    ),
    (
        "leaving",
        pod_body(deletionTimestamp="2026-11-23T12:00:40Z"),
        {"deletion_timestamp": at(40)},
    ),
    ("owned", pod_body(ownerReferences=[{"uid": "x"}, {"uid": "j", "controller": True}]), {"owner_uid": "j"}),
    ("owned by many", pod_body(ownerReferences=[{"uid": "x"}]), {"owner_uid": None}),
]


@pytest.mark.parametrize(("name", "body", "fields"), PODS, ids=[row[0] for row in PODS])
def test_pod_is_read_as_the_api_writes_it(name: str, body: dict[str, Any], fields: dict[str, Any]) -> None:
    view = PodView.from_wire(body)
    assert {key: getattr(view, key) for key in fields} == fields, name


CLAIMS: list[tuple[str, dict[str, Any], ClaimView]] = [
    ("bare", {"metadata": {"name": "c"}}, ClaimView("c", "Pending", ())),
    (
        "bound",
        {"metadata": {"name": "c"}, "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]}},
        ClaimView("c", "Bound", ("ReadWriteMany",)),
    ),
    (
        "wanted modes until it is bound",
        {"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"]}},
        ClaimView("c", "Pending", ("ReadWriteOnce",)),
    ),
    (
        "given modes win",
        {
            "metadata": {"name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"]},
            "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]},
        },
        ClaimView("c", "Bound", ("ReadWriteMany",)),
    ),
    (
        "leaving",
        {"metadata": {"name": "c", "deletionTimestamp": "2026-11-23T12:00:00Z"}, "status": {"phase": "Lost"}},
        ClaimView("c", "Lost", (), deleting=True),
    ),
]


@pytest.mark.parametrize(("name", "body", "view"), CLAIMS, ids=[row[0] for row in CLAIMS])
def test_claim_is_read_as_the_api_writes_it(name: str, body: dict[str, Any], view: ClaimView) -> None:
    assert ClaimView.from_wire(body) == view, name


@pytest.mark.parametrize(
    ("metadata", "digest", "owner"),
    [
        ({}, None, None),
        ({"annotations": None}, None, None),
        ({"annotations": {"windlass.dev/digest": "d"}}, "d", None),
        ({"ownerReferences": [{"uid": "j", "controller": True}]}, None, "j"),
    ],
)
def test_object_is_known_by_digest_and_owner(
    metadata: dict[str, Any], digest: str | None, owner: str | None
) -> None:
    view = ObjectView.from_wire("Service", {"metadata": {"name": "s", "uid": "u"} | metadata})
    assert view == ObjectView("Service", "s", owner, digest, "u")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (None, None),
        ("", None),
        ("2026-11-23T12:00:05Z", datetime(2026, 11, 23, 12, 0, 5, tzinfo=UTC)),
        ("2026-11-23T12:00:05.25+00:00", datetime(2026, 11, 23, 12, 0, 5, 250_000, tzinfo=UTC)),
    ],
)
def test_times_of_the_api_carry_their_zone(text: str | None, time: datetime | None) -> None:
    assert parse_time(text) == time


@pytest.mark.fault("F11")
@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        ({}, {"incarnation": 0}),
        ({"incarnation": 4, "new": 1}, {"incarnation": 4}),
        ({"incarnation": "four"}, {"incarnation": 0}),
        ({"incarnation": 4, "gang": [], "progress": 7, "checkpoints": "x"}, {"incarnation": 4}),
        ({"conditions": [{"type": "Ready"}], "incarnation": 4}, {"incarnation": 4, "conditions": []}),
        ({"charges": {"used": {"FromTheFuture": 2}}}, {"incarnation": 0}),
        ({"charges": {"used": "x"}, "incarnation": 4}, {"incarnation": 4, "charges": None}),
    ],
)
def test_status_of_any_version_is_read_block_by_block(stored: dict[str, Any], kept: dict[str, Any]) -> None:
    status = parse_status(stored)
    assert {key: getattr(status, key) for key in kept} == kept


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["gang", "progress", "conditions", "checkpoints", "goodput", "incarnation", "charges", "x"]
        ),
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.just({}),
    )
)
def test_no_stored_status_stops_the_operator(stored: dict[str, Any]) -> None:
    parse_status(stored)


def test_job_is_read_with_what_a_list_leaves_out() -> None:
    body = a_job().body
    del body["metadata"]["generation"], body["metadata"]["resourceVersion"]
    job = Job.from_wire(body)
    assert (job.generation, job.resource_version, job.deleting, job.spec_error) == (1, "", False, None)
    assert job.stored_status == {}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("resources.nodes", "two", 'spec.resources.nodes: has the wrong type (got "two")'),
        ("training.globalBatchSize", -1, "spec.training.globalBatchSize: is out of range (got -1)"),
        ("model.uri", 7, "spec.model.uri: has the wrong type (got 7)"),
    ],
)
def test_spec_that_does_not_parse_is_told_in_the_words_of_validate(path: str, value: Any, said: str) -> None:
    job = a_job().with_spec(path, value).build()
    assert job.spec is None and job.spec_error is not None and job.spec_error.startswith(said)


def test_spec_that_was_accepted_under_older_rules_goes_on() -> None:
    """Rules across fields are the server's; an object that it holds is worked on."""
    job = a_job().with_spec("training.globalBatchSize", 7).with_nodes(2).build()
    assert job.spec is not None
