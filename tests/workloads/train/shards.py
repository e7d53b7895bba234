"""What a rank runs that is to show afterwards which part of the weights and of the optimiser it held.

Writes `shards-RANK.json`: the mesh, and by name the shape and the digest of the local part of each weight and moment.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from tests.workloads.train.forkserver import FileChannel
from windlass.api.contract import RankContext
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import assembly, loop, tasks


def part(tensor: torch.Tensor) -> dict[str, Any]:
    """Shapes, placement and bits of one tensor as this rank holds it."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return {
        "whole": list(tensor.shape),
        "local": list(local.shape),
        "placed": [str(each) for each in getattr(tensor, "placements", ())],
        "digest": hashlib.sha256(local.detach().contiguous().numpy().tobytes()).hexdigest(),
    }


def held(strategy: Any) -> dict[str, Any]:
    """Everything that a rank keeps of a model in training."""
    named = dict(strategy.module.named_parameters())
    moments = {
        f"{name}.{key}": part(value)
        for name, parameter in named.items()
        for key, value in strategy.optimizer.state[parameter].items()
        if key != "step"
    }
    mesh = getattr(next(iter(named.values())), "device_mesh", None)
    return {
        "mesh": None if mesh is None else mesh.mesh.tolist(),
        "names": None if mesh is None else mesh.mesh_dim_names,
        "weights": {name: part(parameter) for name, parameter in named.items()},
        "moments": moments,
    }


def train(context: RankContext, directory: Path) -> None:
    """Trains as the agent would have it, and tells what was held when all steps were done."""
    found: list[Any] = []
    make, export = assembly.make_strategy, loop.export

    def keep(*arguments: Any) -> Any:
        found.append(make(*arguments))
        return found[0]

    def tell(*arguments: Any, **named: Any) -> Any:
        (directory / f"shards-{context.rank}.json").write_text(json.dumps(held(found[0])))
        return export(*arguments, **named)

    assembly.make_strategy, loop.export = keep, tell
    channel = FileChannel(directory / f"events-{context.rank}.jsonl", context.rank, [])
    tasks.train(context, channel, Roots(Path(os.environ["VOLUMES"])))
