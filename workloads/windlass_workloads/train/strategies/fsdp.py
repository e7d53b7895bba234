"""FSDP: weights, gradients and optimiser are cut over ranks (torch's fully_shard), layer by layer.

With parallelism.shardGroupSize they are cut over that many neighbouring ranks only, and every such group holds all of
them (hybrid sharding, HSDP): weights are gathered within a group, gradients are summed over groups as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from windlass.api.meta import Reason
from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter
from windlass_workloads.checkpoint.state import TorchState
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.train.own_time import Meeting
from windlass_workloads.train.replicas import require_equal
from windlass_workloads.train.strategies.base import (
    Setting,
    clip,
    decoder_layers,
    make_optimizer,
    norm_of,
    set_rate,
)
from windlass_workloads.train.strategies.tensor import split_layers

REPLICATE = "replicate"
SHARD = "shard"
TENSOR = "tensor"
PIPE = "pipe"


class FSDP:
    """fully_shard on each decoder layer and on the rest; weights stay fp32, bf16 is only computed in."""

    name = "FSDP"
    state: type[TorchState] = TorchState
    """What checkpoints are made of."""
    meeting = Meeting.FORWARD

    def __init__(self, model: Any, setting: Setting) -> None:
        self.setting = setting
        policy = MixedPrecisionPolicy()
        if setting.precision == "BF16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        mesh = mesh_of(setting)
        self.tellers = setting.spec.parallelism.tensor or 1
        if self.tellers > 1:
            split_layers(model, mesh[TENSOR])
        if setting.spec.parallelism.copies > 1:
            mesh = mesh[SHARD]
        self.readers = mesh.size()
        for layer in decoder_layers(model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        self.module: Any = fully_shard(model, mesh=mesh, mp_policy=policy)
        self.module.to(setting.device)
        if mesh.ndim == 2:
            # Nothing is ever sent from one group to another but gradients: what differs would stay different.
            require_equal(self.module, group=mesh.get_group(REPLICATE))
        self.optimizer = make_optimizer(self.module, setting.spec)
        self.clip_to = float(setting.spec.training.gradient_clip)
        self.trained: list[nn.Parameter] = [each for each in self.module.parameters() if each.requires_grad]
        self.norm = torch.zeros(())

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Gradients stay whole and local until the last micro-batch scatters their sum."""
        self.module.set_requires_gradient_sync(last)
        self.module.set_is_last_backward(last)
        yield

    def forward(self, **inputs: Any) -> Any:
        """Weights are gathered, and cast, layer by layer."""
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """FSDP takes the mean over ranks; the sum is wanted."""
        (loss * self.readers).backward()

    def measure(self) -> float:
        """The norm over all shards, which every rank gets."""
        self.norm = norm_of(self.trained)
        return float(self.norm)

    def step(self, rate: float) -> float:
        """Clips by what was measured, then steps."""
        clip(self.trained, self.clip_to, self.norm)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(self.norm)

    def saved_state(self, counters: dict[str, int]) -> StateAdapter | DirectoryAdapter:
        """Format DCP; each rank writes its shards."""
        return self.state(
            strategy=self.name,
            model=self.module,
            optimizer=self.optimizer,
            scheduler=None,
            counters=counters,
            trainable_only=self.setting.trainable_only,
        )

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Gathered tensor by tensor onto rank 0."""
        options = StateDictOptions(
            full_state_dict=True,
            cpu_offload=True,
            ignore_frozen_params=self.setting.trainable_only,
            strict=not self.setting.trainable_only,
        )
        return dict(get_model_state_dict(self.module, options=options))


def mesh_of(setting: Setting) -> DeviceMesh:
    """All ranks as one group, groups of shardGroupSize neighbours, or groups of `pipeline` x `tensor` neighbours.

    Collective; WorkloadError if they do not fit.
    """
    world, size = setting.world_size, setting.spec.parallelism.shard_group_size
    pipe, tensor = setting.spec.parallelism.pipeline or 1, setting.spec.parallelism.tensor or 1
    if pipe * tensor > 1:
        sizes, names = (world // (pipe * tensor), pipe, tensor), (SHARD, PIPE, TENSOR)
        return init_device_mesh(setting.device.type, sizes, mesh_dim_names=names)
    if size is None or size == world:
        return init_device_mesh(setting.device.type, (world,))
    if world % size:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"spec.parallelism.shardGroupSize: does not divide the ranks into equal groups (got {size} with {world} "
            "ranks); allowed a number that divides the ranks.",
            hint="create a job with a shardGroupSize that divides ranksPerNode; then any number of nodes fits.",
        )
    return init_device_mesh(setting.device.type, (world // size, size), mesh_dim_names=(REPLICATE, SHARD))
