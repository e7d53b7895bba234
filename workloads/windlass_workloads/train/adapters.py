"""Adapters by peft: LoRA and IA3, with defaults and errors in the spec's words."""

from __future__ import annotations

from typing import Any

from torch import nn

from windlass.api.meta import Reason
from windlass.api.training import LORA_RANK, Adapter
from windlass_workloads.data.errors import WorkloadError

ALL_LINEAR = "all-linear"
# IA3 scales the input of the layer that closes a feed-forward block, and the output of all others.
FEED_FORWARD = frozenset({"down_proj", "fc2", "w2", "wo", "dense_4h_to_h", "c_proj", "linear2"})


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of all linear layers but the output head."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
    )


def target_names(model: Any, adapter: Adapter) -> list[str]:
    """Layers to adapt; Configuration with the allowed names when one that was asked for does not exist."""
    known = linear_names(model)
    if adapter.target_modules == [ALL_LINEAR]:
        return known
    modules = {name for name, _ in model.named_modules()}
    for asked in adapter.target_modules:
        if not any(name == asked or name.endswith(f".{asked}") for name in modules):
            raise WorkloadError(
                Reason.CONFIGURATION,
                f"spec.adapter.targetModules: the model has no such layer (got {asked}); "
                f"allowed {ALL_LINEAR} or some of {', '.join(known)}.",
                hint=f"use [{ALL_LINEAR}] if in doubt.",
            )
    return list(adapter.target_modules)


def add_adapter(model: Any, adapter: Adapter, *, base: str) -> Any:
    """The model with frozen weights and a fresh adapter, drawn from torch's present random state."""
    from peft import IA3Config, LoraConfig, get_peft_model

    targets = target_names(model, adapter)
    config: Any
    if adapter.type == "LoRA":
        rank = adapter.rank or LORA_RANK
        config = LoraConfig(
            r=rank,
            lora_alpha=adapter.alpha or 2 * rank,
            lora_dropout=float(adapter.dropout or "0"),
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
    else:
        config = IA3Config(
            target_modules=targets,
            feedforward_modules=[name for name in targets if name.rpartition(".")[2] in FEED_FORWARD],
            task_type="CAUSAL_LM",
        )
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted
