"""The rank's surroundings: device, process group, seeds, and agreement with the other ranks.

Made once per start. The process group's names carry the incarnation, so that ranks of an older life cannot join.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from windlass.api.contract import RankContext
from windlass_workloads import heap
from windlass_workloads.train import precision
from windlass_workloads.train.meters import peak_of
from windlass_workloads.train.ports import Channel

RENDEZVOUS_SECONDS = 600
ALONE_SECONDS = 86_400
"""How long the others wait for what rank 0 does alone: merging, hashing and publishing a large model."""
ALONE_KEY = "rank-0-has-ended"
LISTENER_POLL_SECONDS = 0.01
KEPT_BYTES = 1 << 30
"""See `heap`: activations come and go in each step."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a rank computes and how it agrees with the others."""

    context: RankContext
    channel: Channel
    device: torch.device
    store: Any

    @property
    def peak_flops(self) -> float | None:
        """Peak FLOP/s of this rank's device, None if unknown."""
        return peak_of(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None

    @property
    def copies(self) -> int:
        """Ranks that work on the same rows together, each on its part of the model. They are neighbours."""
        return self.context.config.spec.parallelism.copies

    @property
    def readers(self) -> int:
        """How many of such groups share the rows of a step among them."""
        return self.context.world_size // self.copies

    @property
    def reader(self) -> int:
        """The number of this rank's group."""
        return self.context.rank // self.copies

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.context.rank == 0

    def sum_over_ranks(self, *values: float) -> list[float]:
        """Sums of values over all ranks, in fp64. Collective."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.context.world_size > 1:
            dist.all_reduce(totals)
        return [float(total) for total in totals.tolist()]

    def stop_agreed(self) -> bool:
        """Whether any rank was asked to stop. Collective, at the same point on every rank."""
        return self.sum_over_ranks(float(self.channel.save_requested))[0] > 0

    def barrier(self) -> None:
        """Waits for all ranks."""
        self.sum_over_ranks(0.0)

    def end_together(self) -> None:
        """Waits for rank 0, which may work alone for longer than a message may take, then for all. Collective."""
        if self.is_first:
            self.store.set(ALONE_KEY, "")
        else:
            self.store.wait([ALONE_KEY], timedelta(seconds=ALONE_SECONDS))
        # Rank 0 serves the store, so it goes only after the others have read.
        self.barrier()


def pick_device(context: RankContext) -> torch.device:
    """The accelerator with the rank's local number if the job asked for any, else the CPU."""
    if context.config.spec.resources.accelerator.count and torch.cuda.is_available():
        device = torch.device("cuda", context.local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def hardware_of(device: torch.device) -> precision.Hardware:
    """What the device is, for the choice of precision."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return precision.Hardware("cuda", name, torch.cuda.get_device_capability(device) >= (8, 0))
    return precision.hardware_of_cpu(precision.processor_flags())


def start(context: RankContext, channel: Channel, *, patience: float = RENDEZVOUS_SECONDS) -> Runtime:
    """Joins the process group of this incarnation; returns when all ranks have.

    `patience`: seconds that rank 0 may take until it listens.
    """
    torch.set_num_threads(context.threads)
    device = pick_device(context)
    if device.type == "cpu":
        heap.keep(KEPT_BYTES, KEPT_BYTES)
    store: Any = dist.HashStore()
    timeout = timedelta(seconds=RENDEZVOUS_SECONDS)
    if context.world_size > 1:
        if context.rank != 0:
            await_listener(context.master_address, context.master_port, patience)
        store = dist.TCPStore(
            context.master_address, context.master_port, context.world_size, context.rank == 0, timeout
        )
    store = dist.PrefixStore(f"incarnation-{context.incarnation}", store)
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=context.rank,
        world_size=context.world_size,
        timeout=timeout,
    )
    runtime = Runtime(context, channel, device, store)
    runtime.barrier()
    return runtime


def await_listener(address: str, port: int, patience: float = RENDEZVOUS_SECONDS) -> None:
    """Returns once somebody listens there, or after a while: the store then says what is wrong.

    A TCPStore that is refused at first tries again only after most of a second, which a restart would pay each time.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            socket.create_connection((address, port), timeout=RENDEZVOUS_SECONDS).close()
        except OSError:
            time.sleep(LISTENER_POLL_SECONDS)
        else:
            return


def end() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
