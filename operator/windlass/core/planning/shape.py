"""What decides the size of a run: the numbers of a model and of its adapter.

Preflight counts parameters on the real model; `from_config` derives the same numbers from a config.json of
a family it knows, without torch. Pure; it answers None rather than guess about a family it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from windlass.api.training import LORA_RANK, Adapter

ALL_LINEAR: Final = "all-linear"
FEED_FORWARD_OUTPUT: Final = "down_proj"
# Families of one plan: grouped attention, gated feed-forward, RMS norms. The words say what each adds to it, or which
# settings of its config.json it heeds.
FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "llama": frozenset({"attention_bias", "mlp_bias"}),
    "mistral": frozenset(),
    "smollm3": frozenset({"attention_bias", "mlp_bias"}),
    "qwen2": frozenset({"biased queries"}),
    "qwen3": frozenset({"attention_bias", "query norms"}),
}
# What a family takes when its config.json does not say; all others divide the width by the heads.
HEAD_SIZES: Final[Mapping[str, int]] = {"qwen3": 128}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder. Widths are elements of one token's vector, parameters are counts over all layers."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False

    @property
    def table_parameters(self) -> int:
        """Parameters outside the layers, as far as they are large: embeddings and output head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        return max(self.parameters - self.table_parameters, 0) // self.layers if self.layers else 0


def widths(config: Mapping[str, Any], *, parameters: int, trained: int) -> ModelShape | None:
    """The shape by a model's config.json, whose parameters somebody has counted; None if it has no such sizes."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    hidden, layers = _number(inner, "hidden_size", "n_embd"), _number(inner, "num_hidden_layers", "n_layer")
    heads, words = _number(inner, "num_attention_heads", "n_head"), _number(inner, "vocab_size")
    if not (hidden and layers and heads and words):
        return None
    return ModelShape(
        parameters=parameters,
        trained=trained,
        layers=layers,
        hidden=hidden,
        intermediate=_number(inner, "intermediate_size", "n_inner") or 4 * hidden,
        heads=heads,
        kv_heads=_number(inner, "num_key_value_heads") or heads,
        head_size=_number(inner, "head_dim") or HEAD_SIZES.get(str(inner.get("model_type")), hidden // heads),
        vocabulary=words,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def from_config(config: Mapping[str, Any], adapter: Adapter | None) -> ModelShape | None:
    """Counts parameters by arithmetic for the families above; None for every other, and for unknown targets."""
    flags = FAMILIES.get(str(config.get("model_type")))
    bare = widths(config, parameters=0, trained=0)
    if flags is None or bare is None:
        return None
    linear = linear_layers(bare)
    layer = sum(wide * out for wide, out in linear.values()) + 2 * bare.hidden
    asked = {name for name in ("attention_bias", "mlp_bias") if name in flags and config.get(name)}
    if "attention_bias" in asked or "biased queries" in flags:
        layer += sum(linear[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    if "attention_bias" in asked:
        layer += linear["o_proj"][1]
    if "mlp_bias" in asked:
        layer += sum(linear[name][1] for name in ("gate_proj", "up_proj", "down_proj"))
    if "query norms" in flags:
        layer += 2 * bare.head_size
    base = bare.layers * layer + bare.table_parameters + bare.hidden
    if adapter is None:
        return replace(bare, parameters=base, trained=base)
    added = adapter_parameters(linear, adapter)
    if added is None:
        return None
    return replace(bare, parameters=base + bare.layers * added, trained=bare.layers * added)


def linear_layers(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Input and output width of each linear layer within one layer, by the name transformers gives it."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    return {
        "q_proj": (shape.hidden, queries),
        "k_proj": (shape.hidden, keys),
        "v_proj": (shape.hidden, keys),
        "o_proj": (queries, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }


def adapter_parameters(linear: Mapping[str, tuple[int, int]], adapter: Adapter) -> int | None:
    """Trained parameters that an adapter adds to one layer; None when it names layers that are not here."""
    names = list(linear) if adapter.target_modules == [ALL_LINEAR] else adapter.target_modules
    if not set(names) <= set(linear):
        return None
    if adapter.type == "LoRA":
        return (adapter.rank or LORA_RANK) * sum(sum(linear[name]) for name in names)
    return sum(linear[name][0 if name == FEED_FORWARD_OUTPUT else 1] for name in names)


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
