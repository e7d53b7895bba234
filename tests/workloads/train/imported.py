"""A rank that writes down what it had to import by itself, and whether names of weights were compiled before it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from windlass.api.contract import RankContext


def train(context: RankContext, directory: Path) -> None:
    """Trains as a rank does; imported-RANK.json then holds what the parent had not brought along."""
    from transformers import conversion_mapping

    from tests.workloads.train.forkserver import FileChannel
    from windlass_workloads.data.sources import Roots
    from windlass_workloads.train import tasks

    ready = conversion_mapping._checkpoint_conversion_mapping_cache is not None
    before = set(sys.modules)
    channel = FileChannel(directory / f"events-{context.rank}.jsonl", context.rank, [])
    tasks.train(context, channel, Roots(Path(os.environ["VOLUMES"]), Path("/nonexistent")))
    found = {"names": ready, "modules": sorted(set(sys.modules) - before)}
    (directory / f"imported-{context.rank}.json").write_text(json.dumps(found))
