"""Builds the model that a rank trains: base weights, adapter, and what is counted of it once.

Called by `assembly` in a rank, or by `ahead` in the warm parent before ranks are forked. Nothing here depends on the
rank: equal files and spec give equal models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from windlass.api.jobs import TrainingJobSpec
from windlass_workloads.train import meters
from windlass_workloads.train.adapters import add_adapter
from windlass_workloads.train.model import LocalModel, load_model
from windlass_workloads.train.objectives.supervised import takes_kept


@dataclass(frozen=True, slots=True)
class Built:
    """A model on the CPU with its adapter. `parameters` are all and the trained ones; `bit_sums` see replicas."""

    model: Any
    work: meters.Work
    parameters: tuple[int, int]
    chooses_logits: bool
    bit_sums: torch.Tensor | None = None


def weights_type(spec: TrainingJobSpec, precision: str) -> torch.dtype:
    """How weights are kept: in bf16 only where all of them are frozen and whole on every rank."""
    halves = precision == "BF16" and spec.adapter is not None and spec.parallelism.strategy == "DDP"
    return torch.bfloat16 if halves else torch.float32


def build(local: LocalModel, spec: TrainingJobSpec, precision: str) -> Built:
    """The model of a spec. New weights depend on the seed alone, on every rank alike."""
    model = load_model(local, weights_type(spec, precision), spec.objective)
    if spec.training.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.adapter is not None:
        torch.manual_seed(spec.training.seed)
        model = add_adapter(model, spec.adapter, base=spec.origin.removeprefix("hf://"))
    model.train()
    return Built(
        model=model,
        work=meters.work_of(model, recomputed=spec.training.activation_checkpointing),
        parameters=meters.count_parameters(model),
        chooses_logits=takes_kept(model),
    )
