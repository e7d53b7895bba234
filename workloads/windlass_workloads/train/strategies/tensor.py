"""Tensor parallelism: the matrices of each layer are cut over neighbouring ranks, which work on the same rows.

Called by `fsdp` before it shards what is left to shard. Which matrix is cut which way is the model's own plan, as
transformers has it for its architectures. Embeddings, norms and the output stay whole on each of the ranks, whose
gradients for them are the same: sums over the ranks end in each layer.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from windlass.api.meta import Reason
from windlass_workloads.data.errors import WorkloadError

FIELD = "spec.parallelism.tensor"


def split_layers(model: Any, mesh: DeviceMesh) -> None:
    """Cut the layers of a model over a mesh, in place. Configuration where its plan or its heads do not allow that."""
    with warnings.catch_warnings():
        # A stage of a pipeline has not every layer that the plan names.
        warnings.filterwarnings("ignore", message="Parallelize plan key", category=UserWarning)
        parallelize_module(model, mesh, plan_of(model, mesh.size()))


def plan_of(model: Any, ranks: int) -> dict[str, ParallelStyle]:
    """The style of each matrix that is cut, by name."""
    plan = getattr(model.config, "base_model_tp_plan", None) or {}
    styles = {name: style for name, style in plan.items() if style in ("colwise", "rowwise")}
    # Other styles are of weights that each rank would learn from its own part alone (norms of queries and keys), and
    # of experts.
    if not styles or len(styles) < len(plan):
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: transformers has no plan of whole matrices to split this architecture (got {ranks} with "
            f"model_type {model.config.model_type}); allowed Llama and others that have one.",
            hint="remove parallelism.tensor; FSDP alone shards any model.",
        )
    refuse_dropout(model, FIELD, ranks)
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(model.config, name, None)
        if isinstance(heads, int) and heads % ranks:
            raise WorkloadError(
                Reason.CONFIGURATION,
                f"{FIELD}: does not divide the model's heads (got {ranks} with {name} {heads}); allowed a number "
                "that divides both kinds of heads.",
                hint=f"use a divisor of {heads}.",
            )
    base = model.base_model_prefix
    return {
        f"{base}.{name}": ColwiseParallel() if style == "colwise" else RowwiseParallel()
        for name, style in styles.items()
    }


def refuse_dropout(model: Any, field: str, ranks: int) -> None:
    """Configuration where ranks that share what passes between layers would drop other parts of it."""
    drops = {name: value for name, value in vars(model.config).items() if is_dropout(name, value)}
    if drops:
        name, value = next(iter(drops.items()))
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{field}: the model drops numbers at random, on each rank others (got {ranks} with {name} {value}); "
            f"allowed {name} 0.",
            hint=f"set {name} to 0 in the model's config.json, or remove {field.removeprefix('spec.')}.",
        )


def is_dropout(name: str, value: Any) -> bool:
    """Whether a setting of a model is a share that is dropped."""
    return ("dropout" in name or "pdrop" in name) and isinstance(value, float) and value > 0
