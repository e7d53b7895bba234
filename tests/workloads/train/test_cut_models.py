"""Tensor and pipeline parallelism: ranks that cut a model among them compute what one rank computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.workloads.train.support import NEW_BERT, NEW_LLAMA, Job, Outcome, merge
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.train.strategies import pipeline as stages
from windlass_workloads.train.strategies.pipeline import PLAIN
from windlass_workloads.train.strategies.tensor import plan_of, refuse_dropout

Make = Callable[..., Job]
UNTIED = merge(NEW_LLAMA, {"architecture": {"tieEmbeddings": False}})
HELD_OUT: dict[str, Any] = {
    "corpus": {"heldOut": {"fraction": "0.2"}},
    "training": {"validateEverySteps": 2},
    "checkpoint": {"async": True},
}
CUTS: dict[str, tuple[int, bool, dict[str, int]]] = {
    "tensor": (2, True, {"tensor": 2}),
    "tensor-and-shards": (4, False, {"tensor": 2}),
    "pipeline": (2, False, {"pipeline": 2}),
    "pipeline-and-shards": (4, False, {"pipeline": 2}),
    "pipeline-of-tensor": (4, False, {"pipeline": 2, "tensor": 2}),
}
"""Ranks, whether embeddings are tied, and how the model is cut."""


def told(outcome: Outcome) -> list[float]:
    """Losses and norms of all steps, then losses of the validations."""
    validations = (event.loss for event in outcome.of("Validation"))
    return [*outcome.losses().values(), *outcome.norms().values(), *validations]


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
            "spec.parallelism.tensor: transformers has no plan of whole matrices to split this architecture (got 2 "
            "with model_type bert); allowed Llama and others that have one.",
        ),
        (
            merge(NEW_LLAMA, {"architecture": {"keyValueHeads": 1}, "parallelism": {"tensor": 2}}),
            "spec.parallelism.tensor: does not divide the model's heads (got 2 with num_key_value_heads 1); allowed "
            "a number that divides both kinds of heads.",
        ),
        (
            merge(NEW_BERT, {"parallelism": {"pipeline": 2}}),
            "spec.parallelism.pipeline: this architecture is not cut into stages (got 2 with model_type bert); allowed "
            "llama, mistral, qwen2, qwen3.",
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


@pytest.mark.parametrize("model_type", PLAIN)
def test_stages_one_after_another_are_the_whole_model(model_type: str) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False}
    config = AutoConfig.for_model(model_type, **sizes, **heads)
    torch.manual_seed(1)
    whole = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, passed = whole(input_ids=tokens, use_cache=False).logits, tokens
        for place in range(3):
            stage = copy.deepcopy(whole)
            stages.cut(stage, place, 3)
            passed = stage(passed)
    torch.testing.assert_close(passed, wanted)


@pytest.mark.parametrize("model_type", ["granite", "gemma", "starcoder2", "bert"])
def test_what_is_more_than_layers_is_not_cut(model_type: str) -> None:
    with pytest.raises(WorkloadError, match="is not cut into stages"):
        stages.cut(SimpleNamespace(base_model=None, config=AutoConfig.for_model(model_type)), 0, 2)


def test_norms_of_queries_are_no_reason_to_learn_wrongly() -> None:
    """Each rank would learn them from its own heads alone."""
    with pytest.raises(WorkloadError, match="no plan of whole matrices"):
        plan_of(SimpleNamespace(config=AutoConfig.for_model("qwen3"), base_model_prefix="model"), 2)


@pytest.mark.parametrize(
    ("name", "refused"), [("attention_dropout", True), ("resid_pdrop", True), ("rope", False)]
)
def test_a_model_that_drops_at_random_is_not_cut(name: str, refused: bool) -> None:
    model = SimpleNamespace(config=SimpleNamespace(**{name: 0.1, "hidden_dropout": 0.0}))
    if not refused:
        refuse_dropout(model, "spec.parallelism.tensor", 2)
        return
    with pytest.raises(WorkloadError, match=rf"got 2 with {name} 0.1\); allowed {name} 0"):
        refuse_dropout(model, "spec.parallelism.tensor", 2)


def test_a_checkpoint_of_a_cut_model_is_not_one_of_a_whole_one(
    make_pretraining: Make, tmp_path: Path
) -> None:
    job, world = cut(make_pretraining, "pipeline")
    name = job.train(world=world).ok().saved[0]
    job.spec = merge(job.spec, {"parallelism": {"pipeline": None}})
    outcome = job.start(world=world, resume=name)
    (failure,) = [event.failure for event in outcome.of("Failure")]
    assert "spec.parallelism.pipeline: it was saved by FSDP-pipeline (got FSDP)" in failure.message
