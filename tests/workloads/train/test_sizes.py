"""Sizes by arithmetic are those that the real classes count, and preflight puts them into the plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.api.training import Adapter
from windlass.core.planning.shape import FAMILIES, from_config, widths
from windlass_workloads.train.adapters import add_adapter
from windlass_workloads.train.meters import count_parameters
from windlass_workloads.train.model import LocalModel, make_shapes
from workloads.train.support import Job

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "vocab_size": 200,
    "max_position_embeddings": 64,
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"head_dim": 20},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"num_key_value_heads": 4},
]
ADAPTERS: list[dict[str, Any] | None] = [
    None,
    {"type": "LoRA", "rank": 4},
    {"type": "LoRA", "targetModules": ["q_proj", "down_proj"]},
    {"type": "IA3"},
    {"type": "IA3", "targetModules": ["k_proj", "v_proj", "down_proj"]},
]


def counted(directory: Path, config: dict[str, Any], adapter: Adapter | None) -> tuple[int, int]:
    (directory / "config.json").write_text(json.dumps(config))
    model = make_shapes(LocalModel("pvc://models/x", directory, config, ""))
    return count_parameters(model if adapter is None else add_adapter(model, adapter, base="x"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: ",".join(each) or "plain")
def test_a_familys_parameters_are_those_of_its_class(
    family: str, variant: dict[str, Any], tmp_path: Path
) -> None:
    config = {"model_type": family, "tie_word_embeddings": False, "pad_token_id": 0, **SMALL, **variant}
    shape = from_config(config, None)
    assert shape is not None
    assert (shape.parameters, shape.trained) == counted(tmp_path, config, None)


@pytest.mark.parametrize("given", ADAPTERS, ids=lambda each: json.dumps(each))
def test_an_adapters_parameters_are_those_that_peft_makes(
    given: dict[str, Any] | None, tmp_path: Path
) -> None:
    config = {"model_type": "llama", "tie_word_embeddings": False, **SMALL}
    adapter = Adapter.model_validate(given) if given is not None else None
    shape = from_config(config, adapter)
    assert shape is not None
    assert (shape.parameters, shape.trained) == counted(tmp_path, config, adapter)


def test_preflight_tells_memory_and_bytes_of_a_checkpoint(make_job: Callable[..., Job]) -> None:
    job = make_job()
    plan = job.prepare().of("Plan")[0].plan
    run = job.train().ok()
    record = run.of("Checkpoint")[0].checkpoint
    assert plan.memory_per_rank is not None
    assert plan.memory_per_rank.weights >= 4 * plan.parameters
    assert plan.memory_per_rank.optimizer == 8 * plan.trainable_parameters
    assert plan.memory_per_rank.logits > 0 < plan.memory_per_rank.activations
    assert plan.checkpoint_bytes <= record.bytes <= plan.checkpoint_bytes + 200_000
    assert run.of("Plan")[0].plan.memory_per_rank == plan.memory_per_rank


def test_sizes_of_the_tiny_model_are_read(volumes: Path) -> None:
    config = json.loads((volumes / "models" / "tiny" / "config.json").read_text())
    shape = widths(config, parameters=1, trained=1)
    assert shape is not None and shape.hidden == config["hidden_size"]
