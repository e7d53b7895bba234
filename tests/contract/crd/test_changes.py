"""Updates of a job that exists: what a run stands on stays, by the server and by `windlass validate` alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from contract.crd.specs import ABSENT, JOBS, change
from contract.server import Client
from windlass.api.validation import validate

pytestmark = pytest.mark.contract


@dataclass(frozen=True)
class Change:
    """One update of a job that exists."""

    bad: str
    path: str
    value: Any
    at: str
    says: str


CHANGES = (
    Change(
        "B68",
        "spec.model.uri",
        "pvc://models/other",
        "spec.model",
        "got pvc://models/other, was pvc://models/",
    ),
    Change("B68", "spec.data.packing", True, "spec.data", "cannot change after creation"),
    Change("B68", "spec.adapter", {"type": "LoRA"}, "spec.adapter", "cannot change after creation"),
    Change("B68", "spec.training.seed", 18, "spec.training", "cannot change after creation"),
    Change("B68", "spec.parallelism.strategy", "FSDP", "spec.parallelism", "cannot change after creation"),
    Change(
        "B68",
        "spec.checkpoint.store",
        "pvc://other",
        "spec.checkpoint.store",
        "got pvc://other, was pvc://check",
    ),
    Change(
        "B68", "spec.scheduling.queue", {"name": "a"}, "spec.scheduling.queue", "cannot change after creation"
    ),
    Change("B69", "spec.resources.nodes", 2, "spec.resources.nodes", "got 2, was 1"),
    Change("B69", "spec.resources.ranksPerNode", 2, "spec.resources.ranksPerNode", "got 2, was 1"),
)


@pytest.fixture(scope="module")
def job(api_server: Client) -> dict[str, Any]:
    """A job in the cluster, as the server stores it."""
    document = change("metadata.name", "unchangeable")
    return api_server.create(JOBS.format("default"), document).expect(201)


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.bad_input(row.bad), id=row.path) for row in CHANGES]
)
def test_what_a_run_stands_on_cannot_change(api_server: Client, job: dict[str, Any], row: Change) -> None:
    changed = change(row.path, row.value, job)
    answer = api_server.replace(f"{JOBS.format('default')}/unchangeable", changed, dry_run=True)
    assert answer.code == 422
    (message,) = [message for field, message in answer.causes if field == row.at]
    assert row.says in message
    assert "create a new job" in message
    assert [one.path for one in validate(changed, previous=job)] == [row.at]


@pytest.mark.bad_input("B68")
@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        ("spec.adapter.rank", 9, "spec.adapter"),
        ("spec.adapter", ABSENT, "spec.adapter"),
        ("spec.scheduling.queue.name", "b", "spec.scheduling.queue"),
        ("spec.scheduling.queue", ABSENT, "spec.scheduling.queue"),
        ("spec.scheduling", ABSENT, "spec.scheduling.queue"),
    ],
)
def test_what_may_be_left_out_neither_changes_nor_goes(
    api_server: Client, namespace: str, path: str, value: Any, at: str
) -> None:
    adapted = change("spec.adapter", {"type": "LoRA", "rank": 8})
    adapted = change("spec.scheduling.queue", {"name": "a"}, adapted)
    stored = api_server.create(JOBS.format(namespace), adapted).expect(201)
    changed = change(path, value, stored)
    answer = api_server.replace(f"{JOBS.format(namespace)}/job", changed, dry_run=True)
    assert answer.code == 422
    assert ["cannot change after creation" in message for field, message in answer.causes] == [True]
    assert [field for field, _ in answer.causes] == [at]
    assert [one.path for one in validate(changed, previous=stored)] == [at]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.suspend", True),
        ("spec.checkpoint.everySteps", 5),
        ("spec.checkpoint.keepLast", 2),
        ("spec.recovery.budgets.crash", 9),
        ("spec.resources.perNode.memory", "8Gi"),
        ("spec.pod.nodeSelector", {"pool": "gpu"}),
        ("spec.ttlSecondsAfterFinished", 60),
        ("spec.scheduling.gangStartSeconds", 600),
    ],
)
def test_what_a_run_does_not_stand_on_can_change(
    api_server: Client, job: dict[str, Any], path: str, value: Any
) -> None:
    changed = change(path, value, job)
    api_server.replace(f"{JOBS.format('default')}/unchangeable", changed, dry_run=True).expect(200)
    assert validate(changed, previous=job) == []
