"""What a rank runs whose export is to take longer than ranks may wait for each other's messages, or to be its end."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.workloads.train.forkserver import FileChannel
from windlass.api.contract import RankContext
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import loop, tasks

GROUP_SECONDS = 3.0
EXPORT_SECONDS = 6.0


def train(context: RankContext, directory: Path) -> None:
    """Trains as the agent would have it, with a short limit for messages and a long export on rank 0."""
    export = loop.export

    def slowly(job, *, step):
        output = export(job, step=step)
        backend = dist.group.WORLD._get_backend(torch.device("cpu"))
        backend._set_default_timeout(timedelta(seconds=GROUP_SECONDS))
        if job.runtime.is_first and os.environ["END"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif job.runtime.is_first:
            time.sleep(EXPORT_SECONDS)
        return output

    loop.export = slowly
    channel = FileChannel(directory / f"events-{context.rank}.jsonl", context.rank, [])
    tasks.train(context, channel, Roots(Path(os.environ["VOLUMES"])))
