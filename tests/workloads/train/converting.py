"""What a rank runs whose conversion is to end early. FAULT says how, just before the copy would be published.

`killed`: the converting process is, as the kernel does it. `orphaned`: its rank is, and the process would go on.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.workloads.train.forkserver import FileChannel
from windlass.api.contract import RankContext
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import tasks
from windlass_workloads.train.strategies import deepspeed

to_universal = deepspeed.to_universal


def die(source: Path, target: Path) -> None:
    """Converts, and dies before anybody can say so."""
    to_universal(source, target)
    (target.parents[1] / "converter.pid").write_text(str(os.getpid()))
    os.kill(os.getpid() if os.environ["FAULT"] == "killed" else os.getppid(), signal.SIGKILL)
    signal.pause()


def train(context: RankContext, directory: Path) -> None:
    """Trains as the agent would have it."""
    deepspeed.to_universal = die
    channel = FileChannel(directory / f"events-{context.rank}.jsonl", context.rank, [])
    tasks.train(context, channel, Roots(Path(os.environ["VOLUMES"])))
