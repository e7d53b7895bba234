"""DDP: every rank holds the whole model; gradients are summed once per step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter
from windlass_workloads.checkpoint.state import ReplicatedState
from windlass_workloads.train.own_time import Meeting
from windlass_workloads.train.replicas import require_equal
from windlass_workloads.train.strategies.base import (
    CPU,
    Setting,
    clip,
    freeze_dtype,
    make_optimizer,
    norm_of,
    set_rate,
)


class DDP:
    """torch's DistributedDataParallel; a single rank goes without."""

    name = "DDP"
    tellers = 1
    meeting = Meeting.LAST_BACKWARD

    def __init__(self, model: Any, setting: Setting) -> None:
        self.setting = setting
        self.bf16 = setting.precision == "BF16"
        if self.bf16:
            freeze_dtype(model, torch.bfloat16)
        self.model = model.to(setting.device)
        self.optimizer = make_optimizer(self.model, setting.spec)
        self.clip_to = float(setting.spec.training.gradient_clip)
        self.trained: list[nn.Parameter] = [each for each in self.model.parameters() if each.requires_grad]
        self.norm = torch.zeros(())
        self.module: Any = self.model
        if setting.world_size > 1:
            require_equal(self.model, setting.bit_sums)
            self.module = DistributedDataParallel(
                self.model,
                device_ids=[setting.device] if setting.device.type == "cuda" else None,
                forward_sync_buffers=False,
                # Files and seed make the ranks equal; sending the whole model would cost most of a restart.
                init_sync=False,
                gradient_as_bucket_view=True,
            )

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Gradients are only summed over ranks in the backward of the last micro-batch."""
        alone = self.setting.world_size == 1 or last
        with nullcontext() if alone else self.module.no_sync():
            yield

    def forward(self, **inputs: Any) -> Any:
        """With bf16, products run in bf16 while trained weights stay fp32."""
        with torch.autocast(self.setting.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.module(**inputs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """DDP takes the mean over ranks; the sum is wanted."""
        (loss * self.setting.world_size).backward()

    def measure(self) -> float:
        """The gradients are summed already: each rank has all of them."""
        self.norm = norm_of(self.trained)
        return float(self.norm)

    def step(self, rate: float) -> float:
        """Clips by what was measured, then steps."""
        clip(self.trained, self.clip_to, self.norm)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self.setting.world_size == 1)
        return float(self.norm)

    def saved_state(self, counters: dict[str, int]) -> StateAdapter | DirectoryAdapter:
        """Format DCP; replicas are written once."""
        return ReplicatedState(
            strategy=self.name,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=None,
            counters=counters,
            trainable_only=self.setting.trainable_only,
        )

    def full_weights(self) -> dict[str, torch.Tensor]:
        """The model itself, without what is tied or frozen."""
        weights = self.model.state_dict()
        if self.setting.trainable_only:
            trained = {name for name, each in self.model.named_parameters() if each.requires_grad}
            weights = {name: tensor for name, tensor in weights.items() if name in trained}
        return {name: tensor.detach().to(CPU) for name, tensor in weights.items()}
