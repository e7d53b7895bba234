"""Sizes of models by arithmetic: families that are known exactly, and silence about all others."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.api.training import Adapter
from windlass.core.planning.shape import from_config, linear_layers, widths

SMOL = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
QWEN2_HALF_B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN3_HALF_B = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (SMOL, 134_515_008),
        (LLAMA_8B, 8_030_261_248),
        (QWEN2_HALF_B, 494_032_768),
        (QWEN3_HALF_B, 596_049_920),
    ],
    ids=["SmolLM2-135M", "Llama-3-8B", "Qwen2-0.5B", "Qwen3-0.6B"],
)
def test_published_models_have_their_published_number_of_parameters(
    config: dict[str, Any], parameters: int
) -> None:
    shape = from_config(config, None)
    assert shape is not None
    assert (shape.parameters, shape.trained) == (parameters, parameters)


@pytest.mark.parametrize(
    ("adapter", "trained"),
    [
        ({"type": "LoRA", "rank": 16}, 4_884_480),
        ({"type": "LoRA"}, 4_884_480),
        ({"type": "LoRA", "rank": 8, "targetModules": ["q_proj", "v_proj"]}, 30 * 8 * (576 * 3 + 192)),
        ({"type": "IA3", "targetModules": ["k_proj", "v_proj", "down_proj"]}, 30 * (192 + 192 + 1536)),
    ],
)
def test_an_adapter_adds_what_it_trains(adapter: dict[str, Any], trained: int) -> None:
    shape = from_config(SMOL, Adapter.model_validate(adapter))
    assert shape is not None
    assert (shape.trained, shape.parameters) == (trained, 134_515_008 + trained)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gpt2"},
        {"model_type": None},
        {"hidden_size": 0},
        {"hidden_size": "576"},
        {"num_hidden_layers": True},
        {"vocab_size": None},
    ],
)
def test_what_is_not_known_is_not_guessed(changes: dict[str, Any]) -> None:
    assert from_config(SMOL | changes, None) is None


def test_an_adapter_on_layers_that_are_not_there_has_no_size() -> None:
    assert from_config(SMOL, Adapter.model_validate({"targetModules": ["c_attn"]})) is None


def test_preflight_gives_the_count_and_config_json_the_widths() -> None:
    shape = widths(
        {"model_type": "strange", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
        parameters=9,
        trained=3,
    )
    assert shape is not None
    assert (shape.parameters, shape.trained, shape.intermediate) == (9, 3, 256)
    assert (shape.kv_heads, shape.head_size) == (4, 16)
    assert widths({"hidden_size": 64}, parameters=9, trained=3) is None


def test_sizes_of_a_model_for_several_media_are_those_of_its_text() -> None:
    shape = widths({"model_type": "mixed", "text_config": SMOL}, parameters=9, trained=9)
    assert shape is not None and (shape.hidden, shape.layers) == (576, 30)


def test_a_layers_parameters_are_those_outside_the_tables() -> None:
    shape = from_config(LLAMA_8B, None)
    assert shape is not None
    assert shape.table_parameters == 2 * 128256 * 4096
    assert shape.layer_parameters == pytest.approx(218_112_000, rel=1e-3)
    assert linear_layers(shape)["k_proj"] == (4096, 1024)
