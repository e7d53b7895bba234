"""Models that cannot be cut so (tensor, pipeline): refused by a real API server and offline, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from contract.crd.specs import JOBS, NEW_LLAMA, PRETRAIN_JOBS, VALID, Document, change
from contract.server import Client
from windlass.api.validation import validate

pytestmark = pytest.mark.contract


def cut(base: Document, sizes: dict[str, Any], **changes: Any) -> Document:
    """A document whose model is cut, with other fields changed by dotted path (`__` for a dot)."""
    document = change("spec.parallelism", {"strategy": "FSDP", **sizes}, base)
    for path, value in changes.items():
        document = change(f"spec.{path.replace('__', '.')}", value, document)
    return document


GANG = {"resources__nodes": 2, "resources__ranksPerNode": 4, "training__globalBatchSize": 64}
ROWS: dict[str, tuple[Document, str, str]] = {
    "strategy": (
        cut(NEW_LLAMA, {"strategy": "DDP", "tensor": 2}, **GANG),
        "spec.parallelism.strategy",
        "tensor and pipeline go with FSDP over all ranks only (got tensor=2, pipeline=nothing with strategy DDP, "
        "shardGroupSize=nothing); allowed: tensor and pipeline with strategy FSDP and without shardGroupSize. hint: "
        "remove them, or set strategy: FSDP and remove shardGroupSize",
    ),
    "groups": (
        cut(NEW_LLAMA, {"pipeline": 2, "shardGroupSize": 2}, **GANG),
        "spec.parallelism.strategy",
        "tensor and pipeline go with FSDP over all ranks only (got tensor=nothing, pipeline=2 with strategy FSDP, "
        "shardGroupSize=2); allowed: tensor and pipeline with strategy FSDP and without shardGroupSize. hint: remove "
        "them, or set strategy: FSDP and remove shardGroupSize",
    ),
    "ranks": (
        cut(NEW_LLAMA, {"tensor": 3}, **GANG | {"training__globalBatchSize": 2}),
        "spec.parallelism",
        "does not divide the ranks into equal groups (got tensor=3, pipeline=nothing with 2 nodes x 4 ranksPerNode = "
        "8); allowed: tensor x pipeline that divides nodes x ranksPerNode. hint: lower one of them, or remove both",
    ),
    "both": (
        cut(NEW_LLAMA, {"tensor": 4, "pipeline": 4}, **GANG),
        "spec.parallelism",
        "does not divide the ranks into equal groups (got tensor=4, pipeline=4 with 2 nodes x 4 ranksPerNode = 8); "
        "allowed: tensor x pipeline that divides nodes x ranksPerNode. hint: lower one of them, or remove both",
    ),
    "batch": (
        cut(NEW_LLAMA, {"tensor": 2}, **GANG | {"training__globalBatchSize": 6}),
        "spec.training.globalBatchSize",
        "is not divisible by the rows of one pass over all ranks (got 6 rows with 2 nodes x 4 ranksPerNode x 1 "
        "microBatchSize / 2 (tensor x pipeline) = 4); allowed: a multiple of nodes x ranksPerNode x microBatchSize / "
        "(tensor x pipeline). hint: change globalBatchSize to a multiple of 4, or microBatchSize",
    ),
    "stages": (
        cut(NEW_LLAMA, {"pipeline": 4}, **GANG | {"training__globalBatchSize": 6}),
        "spec.training.globalBatchSize",
        "has fewer micro-batches than pipeline stages (got 6 rows with 2 in each micro-batch, 4 stages); allowed: at "
        "least as many micro-batches as stages. hint: raise globalBatchSize, lower microBatchSize, or lower "
        "parallelism.pipeline",
    ),
    "elastic": (
        cut(NEW_LLAMA, {"tensor": 4}, **GANG, recovery__elastic={"minNodes": 1}),
        "spec.recovery.elastic",
        "a gang that cuts its model cannot go on with fewer nodes (got minNodes 1 of 2 nodes with tensor=4, "
        "pipeline=nothing); allowed: recovery.elastic without tensor and pipeline. hint: set minNodes to "
        "resources.nodes, or remove recovery.elastic",
    ),
    "samples": (
        cut(VALID, {"pipeline": 2}, resources__nodes=2, training__globalBatchSize=16),
        "spec.parallelism.pipeline",
        "stages pass rows of one length to each other, and samples have their own (got 2); allowed: pipeline in a "
        "PretrainJob. hint: remove pipeline; FSDP shards a model of any size",
    ),
    "adapter": (
        cut(VALID, {"tensor": 2}, resources__nodes=2, adapter={"type": "LoRA"}),
        "spec.parallelism.tensor",
        "an adapter's layers cannot be cut over ranks (got 2 with adapter.type LoRA); allowed: tensor without adapter. "
        "hint: remove tensor; FSDP alone shards the frozen model",
    ),
}


def jobs_of(document: Document, namespace: str) -> str:
    """Where such a document is created."""
    return (JOBS if document["kind"] == "FineTuneJob" else PRETRAIN_JOBS).format(namespace)


@pytest.mark.bad_input("B7")
@pytest.mark.parametrize("name", ROWS)
def test_a_cut_that_does_not_fit_is_refused_with_the_way_out(
    api_server: Client, namespace: str, name: str
) -> None:
    document, path, said = ROWS[name]
    answer = api_server.create(jobs_of(document, namespace), document, dry_run=True)
    assert answer.code == 422, answer.message
    assert [said for field, message in answer.causes if field == path and message.endswith(said)], (
        answer.causes
    )
    assert f"{path}: {said}" in [str(problem) for problem in validate(document)]


@pytest.mark.parametrize(
    "document",
    [
        cut(NEW_LLAMA, {"tensor": 4}, **GANG),
        cut(NEW_LLAMA, {"tensor": 2, "pipeline": 4}, **GANG),
        cut(NEW_LLAMA, {"pipeline": 8}, **GANG | {"training__globalBatchSize": 8}),
        cut(NEW_LLAMA, {"tensor": 4}, **GANG, recovery__elastic={"minNodes": 2}),
        cut(VALID, {"tensor": 2}, resources__nodes=2),
    ],
    ids=["tensor", "both", "as many as stages", "elastic", "FineTuneJob"],
)
def test_a_cut_that_fits_is_taken(api_server: Client, namespace: str, document: Document) -> None:
    api_server.create(jobs_of(document, namespace), document, dry_run=True).expect(201)
    assert validate(document) == []
