"""`resume.from` at the real API server: another run's checkpoint in the same claim, and at creation only."""

from __future__ import annotations

import pytest

from contract.crd.specs import JOBS, change
from contract.server import Client

pytestmark = pytest.mark.contract

ELDER = "pvc://checkpoints/team-a/team/elder/uid-1"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ELDER, None),
        (f"{ELDER}/step-00000120.i3", None),
        ("pvc://elsewhere/elder", "is not in the claim of checkpoint.store (got pvc://elsewhere/elder with"),
        ("pvc://checkpoints/a/../../elder", "path must not contain '..'"),
    ],
)
def test_what_another_run_s_checkpoint_may_be(
    api_server: Client, namespace: str, source: str, said: str | None
) -> None:
    answer = api_server.create(JOBS.format(namespace), change("spec.resume", {"from": source}), dry_run=True)
    if said is None:
        assert answer.code == 201, answer.message
    else:
        assert (
            answer.code == 422
            and "spec.resume.from: Invalid value" in answer.message
            and said in answer.message
        ), answer.message
        assert "hint: " in answer.message


def test_it_is_named_at_creation_only(api_server: Client, namespace: str) -> None:
    path = JOBS.format(namespace)
    made = api_server.create(path, change("spec.resume", {"from": ELDER})).expect(201)
    here = f"{path}/{made['metadata']['name']}"
    for source, code in ((f"{ELDER}/step-00000120.i3", 422), ("120", 200), (ELDER, 422), ("Latest", 200)):
        answer = api_server.merge(here, {"spec": {"resume": {"from": source}}})
        assert answer.code == code, (source, answer.message)
        if code == 422:
            assert "another run's checkpoint can be named at creation only (got pvc://" in answer.message
