"""DeepSpeed ZeRO: stages 1 to 3 with torch's AdamW, so that nothing is compiled when a run starts.

Only the documented settings that the spec asks for are passed on. Batch sizes and accumulation belong to the spec;
DeepSpeed counts micro-batches by the same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from windlass_workloads.checkpoint.deepspeed import DeepSpeedState
from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter
from windlass_workloads.train.own_time import Meeting
from windlass_workloads.train.strategies.base import CPU, Setting, make_optimizer, set_rate

DEFAULT_STAGE = 2
LOG_LEVEL = "DEEPSPEED_LOG_LEVEL"
LATEST = "latest_universal"
"""A file that names the newest copy. Here the manifest does."""


@contextmanager
def without_mlflow() -> Iterator[None]:
    """Hides mlflow from imports: DeepSpeed's autotuner takes it along if it is there, which costs seconds and brings
    a background thread (pyarrow's allocator) into a process that must be forked from one thread."""
    known = sys.modules.get("mlflow")
    if known is None:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if known is None:
            sys.modules.pop("mlflow", None)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Leaves functions as they are that are to be compiled as their module is imported.

    An engine looks at Muon, which nothing here uses: to mark three of its functions, torch would bring its whole
    compiler along, two seconds for each rank at each of its starts.
    """

    def uncompiled(function: Any = None, **_: Any) -> Any:
        return function if function is not None else uncompiled

    real, torch.compile = torch.compile, uncompiled
    try:
        yield
    finally:
        torch.compile = real


def load_library() -> Any:
    """Imports deepspeed for the device at hand, without its step that compiles C++ at start."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with without_mlflow():
        import deepspeed
        import deepspeed.comm.torch

    with without_compiler():
        import deepspeed.runtime.zero.muon.muon_optimizer

    # Shared-memory collectives are built with a compiler on first use; gloo does without them.
    module: Any = sys.modules["deepspeed.comm.torch"]
    module.build_shm_op = lambda: None
    return deepspeed


def to_universal(source: Path, target: Path) -> None:
    """Converts what an engine has saved in `source` to the universal form in `target`.

    Works in the current process, with little more memory than one rank's share, and unpickles what it reads. Raises
    whatever DeepSpeed does. Needs room for the fragments of all tensors beside the tensors until it is done.
    """
    load_library()
    from deepspeed.checkpoint import ds_to_universal

    target.parent.mkdir(parents=True, exist_ok=True)
    # Fragments are found by patterns that would take letters of the store's path for wildcards.
    with contextlib.chdir(target.parent):
        ds_to_universal.main(
            argparse.Namespace(
                input_folder=os.path.relpath(source),
                output_folder=target.name,
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                # Stages 1 and 2 leave out what only tensor parallelism would need to say.
                inject_missing_state=True,
            )
        )
    (target.parent / LATEST).unlink(missing_ok=True)


def settings_of(setting: Setting) -> dict[str, Any]:
    """DeepSpeed's configuration for a spec."""
    training = setting.spec.training
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": setting.accumulation,
        "gradient_clipping": float(training.gradient_clip),
        "zero_optimization": {"stage": setting.spec.parallelism.zero_stage or DEFAULT_STAGE},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": setting.precision == "BF16"},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


class DeepSpeed:
    """A DeepSpeed engine behind the strategy protocol."""

    def __init__(self, model: Any, setting: Setting) -> None:
        deepspeed = load_library()
        self.setting = setting
        self.stage = setting.spec.parallelism.zero_stage or DEFAULT_STAGE
        self.name = f"ZeRO-{self.stage}"
        # Stage 3 gathers weights for each layer; below, gradients may be reduced in any backward.
        self.tellers = 1
        self.meeting = Meeting.FORWARD if self.stage == 3 else Meeting.BACKWARD
        model = model.to(setting.device)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, setting.spec),
            config=settings_of(setting),
            dist_init_required=False,
        )
        self.module: Any = self.engine
        self.rank = dist.get_rank()

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """The engine counts; it is told the boundary too, so that both cannot disagree."""
        self.engine.set_gradient_accumulation_boundary(last)
        yield

    def forward(self, **inputs: Any) -> Any:
        """Through the engine, which gathers weights in stage 3."""
        return self.engine(**inputs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """The engine takes the mean over ranks and, unless told otherwise, over micro-batches."""
        self.engine.backward(loss * self.setting.world_size, scale_wrt_gas=False)
        if not last:
            self.engine.step()

    def measure(self) -> float:
        """The norm of this rank's part. The engine's own step applies bf16 gradients whatever they are."""
        parts = self.engine.optimizer.averaged_gradients.values()
        gradients = [gradient for part in parts if part is not None for gradient in part]
        return float(torch.nn.utils.get_total_norm(gradients))

    def step(self, rate: float) -> float:
        """The engine clips and steps at the boundary."""
        set_rate(self.engine.optimizer, rate)
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def saved_state(self, counters: dict[str, int]) -> StateAdapter | DirectoryAdapter:
        """Format DeepSpeed; its save blocks training."""
        return DeepSpeedState(
            engine=self.engine, counters=counters, trainable_only=self.setting.trainable_only
        )

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Gathered parameter by parameter; only rank 0 keeps them."""
        deepspeed = load_library()
        model = self.engine.module
        weights: dict[str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            if self.setting.trainable_only and not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                if self.rank == 0:
                    weights[name] = parameter.detach().to(CPU, copy=True)
        return weights
