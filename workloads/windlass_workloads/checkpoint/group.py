"""The process group of saves and loads: gloo, apart from training's, so that no collective can mix.

Used by writer and reader. Must never touch the accelerator.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch.distributed as dist

# A run of one rank has no process group, on purpose; each save and load would say so again.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class SaveGroup:
    """Ranks that save together. Making one is collective; for a single rank it is trivial."""

    def __init__(self) -> None:
        started = dist.is_available() and dist.is_initialized()
        self.world_size = dist.get_world_size() if started else 1
        self.rank = dist.get_rank() if started else 0
        self.process_group: Any = dist.new_group(backend="gloo") if self.world_size > 1 else None

    def gather(self, mine: Any) -> list[Any]:
        """Everyone's object, by rank, on every rank."""
        if self.process_group is None:
            return [mine]
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, mine, group=self.process_group)
        return everyone

    def from_first(self, mine: Any) -> Any:
        """Rank 0's object on every rank."""
        if self.process_group is None:
            return mine
        box = [mine]
        dist.broadcast_object_list(box, src=0, group=self.process_group)
        return box[0]
