"""A task of real collectives; the rank and step named by a `skip-<rank>-<step>` file goes past one of them, once."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from windlass.api.contract import RankContext, RankEvent
from windlass.api.meta import Phase
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.checkpoint.store import RunStore

STEPS = 12


def preload() -> None:
    """All that is needed is imported already."""


def prepare(context: RankContext, channel: RankChannel) -> None:
    channel.prepared("toy")


def train(context: RankContext, channel: RankChannel) -> None:
    store = RunStore(context.config.store_path)
    channel.phase(Phase.RENDEZVOUS)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{context.master_address}:{context.master_port}",
        rank=context.rank,
        world_size=context.world_size,
    )
    others = dist.new_group(backend="gloo")
    channel.phase(Phase.TRAIN)
    channel.forward(1)
    for step in range(1, STEPS + 1):
        skip = f"skip-{context.rank}-{step}"
        if store.exists(skip):
            store.remove(skip)
            meet_the_others(others)
        share_gradients()
        channel.step(RankEvent(type="Step", at=time.time(), step=step, loss=1.0, tokens=1, seconds=0.01))
    if context.rank == 0:
        channel.done(STEPS)


def share_gradients() -> None:
    dist.all_reduce(torch.ones(4))


def meet_the_others(group: dist.ProcessGroup) -> None:
    """What only one rank thinks is due."""
    dist.barrier(group=group)
