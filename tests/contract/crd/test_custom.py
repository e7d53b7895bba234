"""spec.custom before a real API server: each rule refuses at its field, in the words of `windlass validate`."""

from __future__ import annotations

from typing import Any

import pytest

from contract.crd.specs import ABSENT, JOBS, SCRIPT, VALID, change
from contract.server import Client
from windlass.api.validation import validate

pytestmark = pytest.mark.contract

TRACKING = {"mlflow": {"uri": "http://mlflow:5000"}}
REFUSED: list[tuple[str, Any, dict[str, Any], tuple[str, ...]]] = [
    (
        "spec.model",
        VALID["spec"]["model"],
        SCRIPT,
        ("got model with custom", "model, or custom", "remove it"),
    ),
    ("spec.data", VALID["spec"]["data"], SCRIPT, ("got data with custom", "data, or custom", "pod.volumes")),
    ("spec.training", VALID["spec"]["training"], SCRIPT, ("got training with custom", "custom.command")),
    ("spec.adapter", {"rank": 8}, SCRIPT, ("got adapter with custom", "remove it")),
    ("spec.tracking", TRACKING, SCRIPT, ("got tracking with custom", "speaks to its tracking server itself")),
    ("spec.parallelism.strategy", "FSDP", SCRIPT, ("got FSDP with custom", "remove parallelism")),
    *(
        (
            f"spec.{name}",
            ABSENT,
            VALID,
            ("required value is missing", "got nothing", "or custom with a command"),
        )
        for name in ("model", "data", "training")
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "base", "says"), REFUSED, ids=[f"{row[0]}-{len(row[3])}" for row in REFUSED]
)
def test_each_rule_is_the_servers_too(
    api_server: Client, path: str, value: Any, base: dict[str, Any], says: tuple[str, ...]
) -> None:
    document = change(path, value, base)
    answer = api_server.create(JOBS.format("default"), document, dry_run=True)
    assert answer.code == 422, answer.message
    (message,) = [message for field, message in answer.causes if field == path]
    assert all(part in message for part in says), message
    (problem,) = validate(document)
    assert (problem.path, problem.message in message) == (path, True)


def test_the_image_is_named_once(api_server: Client) -> None:
    document = change("spec.pod.image", "two:2", change("spec.custom.image", "one:1", SCRIPT))
    answer = api_server.create(JOBS.format("default"), document, dry_run=True)
    (message,) = [message for field, message in answer.causes if field == "spec.custom.image"]
    assert "got one:1 with pod.image=two:2" in message and "hint: remove pod.image" in message


@pytest.mark.parametrize("more", [{}, {"image": "one:1"}, {"command": ["sh", "-c", "echo $RANK"]}])
def test_a_job_with_a_command_is_taken(api_server: Client, more: dict[str, Any]) -> None:
    document = change("spec.custom", {**SCRIPT["spec"]["custom"], **more}, SCRIPT)
    api_server.create(JOBS.format("default"), document, dry_run=True).expect(201)
    assert validate(document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.custom.command", ["python", "/scripts/other.py"]),
        ("spec.custom.image", "another:1"),
    ],
)
def test_a_command_cannot_change(api_server: Client, path: str, value: Any) -> None:
    name = f"fixed-{path.rpartition('.')[2]}"
    job = api_server.create(JOBS.format("default"), change("metadata.name", name, SCRIPT)).expect(201)
    answer = api_server.replace(f"{JOBS.format('default')}/{name}", change(path, value, job), dry_run=True)
    assert answer.code == 422
    (message,) = [message for field, message in answer.causes if field == "spec.custom"]
    assert "cannot change after creation" in message and "create a new job" in message
