"""What a rank refuses to go on from: another order of samples, another base, or a checkpoint that leaves no step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from windlass.api.contract import Manifest
from windlass.api.finetune import FineTuneJobSpec
from windlass_workloads.train.assembly import check_same
from windlass_workloads.train.failures import WorkloadError
from workloads.checkpoint.support import NOW, SPEC

pytestmark = pytest.mark.workloads


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "run_uid": "u",
        "step": 8,
        "incarnation": 1,
        "world_size": 1,
        "strategy": "DDP",
        "format": "DCP",
        "files": [],
        "files_digest": "",
        "data_digest": "sha256:d",
        "model_digest": "xxh3:m",
        "global_batch_size": 4,
        "seed": 17,
        "created_at": NOW,
    }
    return Manifest(**(values | changes))


def refusal(found: Manifest, total: int = 10, **training: Any) -> WorkloadError | None:
    spec = FineTuneJobSpec.model_validate(
        SPEC | {"training": {"globalBatchSize": 4, "maxSteps": total} | training}
    )
    index: Any = SimpleNamespace(digest="sha256:d")
    try:
        check_same(found, spec, index, model_digest="xxh3:m", total_steps=total)
    except WorkloadError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, None),
        ({"incarnation": 0}, None),
        ({"incarnation": 3, "step": 10}, None),
        ({"incarnation": 0, "step": 10}, "spec.training.maxSteps"),
        ({"incarnation": 0, "step": 11}, "spec.training.maxSteps"),
        ({"global_batch_size": 8}, "spec.training.globalBatchSize"),
        ({"seed": 7}, "spec.training.seed"),
        ({"data_digest": "sha256:other"}, "spec.data.sources"),
        ({"model_digest": "xxh3:other"}, "spec.model.uri"),
        ({"model_digest": "xxh3:other", "incarnation": 0}, "spec.model.uri"),
    ],
)
def test_what_is_compared(changes: dict[str, Any], field: str | None) -> None:
    error = refusal(manifest(**changes))
    if field is None:
        assert error is None
        return
    assert error is not None and str(error).startswith(f"{field}: ")
    assert "(got " in str(error) and "; allowed " in str(error)


def test_a_job_in_epochs_is_told_of_its_epochs() -> None:
    spec = FineTuneJobSpec.model_validate(SPEC | {"training": {"globalBatchSize": 4, "epochs": 2}})
    index: Any = SimpleNamespace(digest="sha256:d")
    with pytest.raises(
        WorkloadError, match=r"^spec.training.epochs: leaves nothing to do .* step 8 \(got 6 steps"
    ):
        check_same(manifest(incarnation=0), spec, index, model_digest="xxh3:m", total_steps=6)


def test_hints_say_what_this_job_can_do() -> None:
    own, adopted = refusal(manifest(seed=7)), refusal(manifest(seed=7, incarnation=0))
    assert own is not None and "undo the change" in own.hint
    assert adopted is not None and "leave resume.from out" in adopted.hint
