"""Tensor and pipeline parallelism: ranks that cut a model among them compute what one rank computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workloads.train.support import NEW_BERT, NEW_LLAMA, Job, Outcome, merge

Make = Callable[..., Job]
UNTIED = merge(NEW_LLAMA, {"architecture": {"tieEmbeddings": False}})
HELD_OUT: dict[str, Any] = {"corpus": {"heldOut": {"fraction": "0.2"}}, "training": {"validateEverySteps": 2}}
CUTS: dict[str, tuple[int, bool, dict[str, int]]] = {
    "tensor": (2, True, {"tensor": 2}),
    "tensor-and-shards": (4, False, {"tensor": 2}),
    "pipeline": (2, False, {"pipeline": 2}),
    "pipeline-and-shards": (4, False, {"pipeline": 2}),
    "pipeline-of-tensor": (4, False, {"pipeline": 2, "tensor": 2}),
}
"""Ranks, whether embeddings are tied, and how the model is cut."""


def told(outcome: Outcome) -> list[float]:
    """Losses of all steps, then those of the validations."""
    return [*outcome.losses().values(), *(event.loss for event in outcome.of("Validation"))]


def exported(job: Job) -> dict[str, torch.Tensor]:
    """The weights of the job's output."""
    from safetensors.torch import load_file

    files = sorted((job.store / "output" / "model").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def known() -> dict[bool, tuple[list[float], dict[str, torch.Tensor]]]:
    """What one rank said and made, by whether embeddings are tied."""
    return {}


def alone(make: Make, known: dict[bool, Any], *, tied: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same job on one rank, run once."""
    if tied not in known:
        job = make(**merge(NEW_LLAMA if tied else UNTIED, HELD_OUT))
        known[tied] = told(job.train().ok()), exported(job)
    found: tuple[list[float], dict[str, torch.Tensor]] = known[tied]
    return found


def cut(make: Make, name: str) -> tuple[Job, int]:
    """A job whose model is cut, and its ranks."""
    world, tied, sizes = CUTS[name]
    split = {"parallelism": {"strategy": "FSDP", **sizes}, "resources": {"nodes": world}}
    return make(**merge(merge(NEW_LLAMA if tied else UNTIED, HELD_OUT), split)), world


@pytest.mark.parametrize("name", CUTS)
def test_a_model_that_is_cut_learns_the_same(
    make_pretraining: Make, known: dict[bool, Any], name: str
) -> None:
    losses, weights = alone(make_pretraining, known, tied=CUTS[name][1])
    job, world = cut(make_pretraining, name)
    assert told(job.train(world=world).ok()) == pytest.approx(losses, rel=1e-5)
    found = exported(job)
    assert found.keys() == weights.keys()
    for weight, tensor in weights.items():
        torch.testing.assert_close(found[weight], tensor, rtol=1e-3, atol=2e-4, msg=weight)


@pytest.mark.parametrize("name", ["tensor", "pipeline", "pipeline-of-tensor"])
def test_a_run_of_a_cut_model_goes_on_bit_by_bit(make_pretraining: Make, name: str) -> None:
    job, world = cut(make_pretraining, name)
    whole = job.train(world=world).ok()
    again = job.start(world=world, resume=whole.saved[0]).ok()
    assert again.losses() == {step: loss for step, loss in whole.losses().items() if step > 3}
    assert again.of("Validation")[-1].loss == whole.of("Validation")[-1].loss


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            merge(NEW_BERT, {"parallelism": {"tensor": 2}}),
            "spec.parallelism.tensor: transformers has no plan to split this architecture (got 2 with model_type "
            "bert); allowed Llama and others that have one.",
        ),
        (
            merge(NEW_LLAMA, {"architecture": {"keyValueHeads": 1}, "parallelism": {"tensor": 2}}),
            "spec.parallelism.tensor: does not divide the model's heads (got 2 with num_key_value_heads 1); allowed "
            "a number that divides both kinds of heads.",
        ),
        (
            merge(NEW_BERT, {"parallelism": {"pipeline": 2}}),
            "spec.parallelism.pipeline: this architecture cannot be cut into stages (got 2 with model_type bert); "
            "allowed Llama and others built alike.",
        ),
        (
            merge(NEW_LLAMA, {"parallelism": {"pipeline": 2}}),
            "spec.parallelism.pipeline: the first and the last stage would share a weight (got 2 with tied "
            "embeddings); allowed a model whose tie_word_embeddings is false.",
        ),
        (
            merge(UNTIED, {"architecture": {"layers": 1}, "parallelism": {"pipeline": 2}}),
            "spec.parallelism.pipeline: more stages than layers (got 2 with 1 layers); allowed at most 1.",
        ),
    ],
    ids=["tensor-bert", "tensor-heads", "pipeline-bert", "pipeline-tied", "pipeline-layers"],
)
def test_a_model_that_cannot_be_cut_is_told_so(
    make_pretraining: Make, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    job = make_pretraining(**merge(changes, {"parallelism": {"strategy": "FSDP"}, "resources": {"nodes": 2}}))
    outcome = job.train(world=2)
    failures = [event.failure for rank in (0, 1) for event in outcome.of("Failure", rank)]
    assert said in [failure.message for failure in failures]
    assert all(failure.hint for failure in failures)
