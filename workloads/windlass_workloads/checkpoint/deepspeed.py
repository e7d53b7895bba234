"""State of a DeepSpeed engine (ZeRO 1, 2, 3) for checkpoints, in DeepSpeed's own files.

Made by the training loop, used by writer and reader. The engine's save blocks training, and its
files can only be loaded by the same number of ranks; for another there is the universal copy (see universal).
Must never import deepspeed: it gets an engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch

TAG: Final = "deepspeed"
RANK_FILE: Final = re.compile(r"zero_pp_rank_([0-9]+)_")
MODEL_FILES: Final = "*model_states.pt"


class DeepSpeedState:
    """Implements DirectoryAdapter. `counters` is updated in place by a load."""

    format: Literal["DCP", "DeepSpeed"] = "DeepSpeed"

    def __init__(self, *, engine: Any, counters: dict[str, int], trainable_only: bool = False) -> None:
        self.engine = engine
        self.counters = counters
        self.trainable_only = trainable_only
        self.strategy = f"DeepSpeed-{engine.zero_optimization_stage()}"

    def save_directory(self, directory: Path) -> None:
        """Collective; every rank writes its shard."""
        self.engine.save_checkpoint(
            str(directory),
            tag=TAG,
            client_state={"counters": dict(self.counters)},
            save_latest=False,
            exclude_frozen_parameters=self.trainable_only,
        )

    def load_directory(self, directory: Path) -> None:
        """Collective; every rank reads its shard."""
        path, extra = self.engine.load_checkpoint(
            str(directory), tag=TAG, load_module_strict=not self.trainable_only
        )
        if path is None:
            raise RuntimeError(f"DeepSpeed found nothing to load (got {directory / TAG})")
        self.counters.update(extra["counters"])

    def load_universal(self, directory: Path) -> None:
        """Collective; every rank reads all tensors and keeps its part."""
        groups = self.engine.optimizer.param_groups
        # Stage 3 would give all groups the settings of the first one, and with them its weight decay.
        settings = [{key: each for key, each in group.items() if key != "params"} for group in groups]
        with universal_loading(self.engine):
            self.load_directory(directory)
        for group, own in zip(self.engine.optimizer.param_groups, settings, strict=True):
            group.update(own)
        # And one counter of steps, which each of them would move on.
        for entries in self.engine.optimizer.optimizer.state.values():
            if torch.is_tensor(entries.get("step")):
                entries["step"] = entries["step"].clone()
        self._take_buffers(directory)

    def _take_buffers(self, directory: Path) -> None:
        """What the universal form leaves out: buffers that are part of the model's state. Its bytes were verified."""
        module = self.engine.module
        kept = module.state_dict()
        buffers = {name: buffer for name, buffer in module.named_buffers() if name in kept}
        if not buffers:
            return
        first = min((directory / TAG).glob(MODEL_FILES))
        saved = torch.load(first, map_location="cpu", weights_only=False)["module"]
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer.copy_(saved[name])

    def owner_of(self, path: str) -> int:
        """Files with a data-parallel rank in their name belong to it, all others to rank 0."""
        match = RANK_FILE.search(path)
        return 0 if match is None else int(match[1])


@contextmanager
def universal_loading(engine: Any) -> Iterator[None]:
    """Has the engine read the universal form: its setting `checkpoint.load_universal`, for one load."""
    settings = engine._config
    before = settings.load_universal_checkpoint
    settings.load_universal_checkpoint = True
    try:
        yield
    finally:
        settings.load_universal_checkpoint = before
