"""Jobs that are too large for the API server's store never get as far as the operator."""

from __future__ import annotations

from typing import Any

import pytest

from contract.crd.specs import JOBS, change
from contract.server import Client

pytestmark = pytest.mark.contract

MEGABYTE = 2**20
LARGE: list[tuple[str, Any, int, str]] = [
    ("spec.pod.image", "x" * 2 * MEGABYTE, 422, "Too long"),
    ("spec.model.uri", "pvc://" + "x" * 2 * MEGABYTE, 422, "Too long"),
    ("spec.pod.env", [{"name": f"V{n}", "value": "x" * 2 * MEGABYTE} for n in range(1)], 422, "Too long"),
    ("spec.pod.annotations", {"note": "x" * 2 * MEGABYTE}, 422, "Too long"),
    ("metadata.annotations", {"note": "x" * 2 * MEGABYTE}, 422, "Too long"),
    ("spec.pod.image", "x" * 4 * MEGABYTE, 413, "too large"),
]


@pytest.mark.fault("F21")
@pytest.mark.parametrize(
    ("field", "value", "code", "text"), LARGE, ids=[f"{row[0]}-{row[2]}" for row in LARGE]
)
def test_a_job_of_megabytes_is_refused_at_the_door(
    api_server: Client, namespace: str, field: str, value: Any, code: int, text: str
) -> None:
    path = JOBS.format(namespace)
    answer = api_server.create(path, change(field, value))
    assert answer.code == code, answer.message[:300]
    assert text in answer.message
    assert api_server.get(path).expect(200)["items"] == []
