"""State of a DeepSpeed engine (ZeRO 1, 2, 3) for checkpoints, in DeepSpeed's own files.

Made by the training loop, used by writer and reader. The engine's save blocks training, and its
files can only be loaded by the same number of ranks. Must never import deepspeed: it gets an engine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

TAG: Final = "deepspeed"
RANK_FILE: Final = re.compile(r"zero_pp_rank_([0-9]+)_")


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

    def owner_of(self, path: str) -> int:
        """Files with a data-parallel rank in their name belong to it, all others to rank 0."""
        match = RANK_FILE.search(path)
        return 0 if match is None else int(match[1])
