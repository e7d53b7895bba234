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
    if not styles:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: transformers has no plan to split this architecture (got {ranks} with model_type "
            f"{model.config.model_type}); allowed Llama and others that have one.",
            hint="remove parallelism.tensor; FSDP alone shards any model.",
        )
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
