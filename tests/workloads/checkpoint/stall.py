"""Prints how long an asynchronous save stops training, as a share of a blocking one; run as a program.

Two gloo ranks, FSDP, as many megabytes of state as the first argument says (default 200).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from windlass_workloads.checkpoint.state import TorchState
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from workloads.checkpoint.support import Events, context

WORLD = 2
SAVES = 5


def measure(rank: int, root: str, megabytes: int, asynchronous: bool) -> dict[str, float]:
    """Median stall and write seconds of rank 0's saves, without the first, which makes the buffers."""
    parameters = megabytes * 1_000_000 // 12
    width = 512
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(max(1, parameters // width**2))]
    model = torch.nn.Sequential(*layers)
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    state = TorchState(
        strategy="FSDP", model=model, optimizer=optimizer, scheduler=None, counters={"step": 0}
    )
    events = Events()
    store = RunStore(os.path.join(root, str(asynchronous)))
    writer = CheckpointWriter(
        store=store,
        context=context(store.root, rank, WORLD),
        channel=events,
        state=state,
        asynchronous=asynchronous,
    )
    for step in range(1, SAVES + 1):
        model(torch.randn(4, width)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        writer.save(step)
        writer.wait()
    sent = events.of("Checkpoint")[1:]
    if rank:
        return {}
    return {
        "stall": statistics.median(event.stall_seconds or 0.0 for event in sent),
        "write": statistics.median(event.write_seconds or 0.0 for event in sent),
        "megabytes": (sent[-1].checkpoint.bytes if sent[-1].checkpoint else 0) / 1e6,
    }


def main() -> None:
    """Forks rank 1 and prints rank 0's figures."""
    torch.set_num_threads(1)
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as root:
        rank = 1 if (child := os.fork()) == 0 else 0
        dist.init_process_group("gloo", rank=rank, world_size=WORLD, init_method=f"file://{root}/rendezvous")
        figures = {
            each: measure(rank, root, megabytes, each == "asynchronous")
            for each in ("blocking", "asynchronous")
        }
        dist.barrier()
        if rank:
            os._exit(0)
        os.waitpid(child, 0)
        ratio = figures["asynchronous"]["stall"] / figures["blocking"]["stall"]
        print(json.dumps({**figures, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    main()
