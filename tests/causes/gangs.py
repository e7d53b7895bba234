"""Faults in a group of ranks: one goes and the others complain of it, or all wait for one another.

`cause` names the rank at fault. Ranks meet over gloo on loopback, as on the embedded cluster.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.causes.catalogue import fault
from tests.causes.single import CRASH as BREAKS
from tests.causes.single import INFRASTRUCTURE, MEMORY, SETTING, STORAGE, limit_memory, small_disk
from windlass.api.meta import FailureClass
from windlass_workloads.train.failures import NotFinite

PATIENCE = timedelta(seconds=30)


def meet(rank: int, world: int, *, patience: timedelta = PATIENCE) -> None:
    """A group, and one collective that shows it works."""
    where = f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world, timeout=patience)
    dist.all_reduce(torch.ones(1))


def train(rank: int, steps: int = 10**9) -> None:
    """Steps that need everybody."""
    for step in range(steps):
        dist.all_reduce(torch.ones(1024))
        if rank == 0 and step % 1000 == 0:
            print(f"step {step}", flush=True)


@fault("rank-killed", BREAKS, world=2, cause=1)
def _(rank: int) -> None:
    meet(rank, 2)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    train(rank)


@fault("store-s-rank-killed", BREAKS, world=2, cause=0)
def _(rank: int) -> None:
    meet(rank, 2)
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    train(rank)


@fault("rank-of-four-crashes", BREAKS, world=4, cause=2)
def _(rank: int) -> None:
    meet(rank, 4)
    if rank == 2:
        ctypes.string_at(0)
    train(rank)


@fault("rank-raises", BREAKS, world=2, cause=1)
def _(rank: int) -> None:
    meet(rank, 2)
    if rank == 1:
        raise ValueError("row 4711 has no answer")
    train(rank)


@fault("rank-raises-late", BREAKS, world=3, cause=1)
def _(rank: int) -> None:
    meet(rank, 3)
    if rank == 1:
        # It hangs up first and tells why only then, so that the others' complaints are older than its own.
        dist.destroy_process_group()
        time.sleep(1.0)
        raise ValueError("row 4711 has no answer")
    train(rank)


@fault("rank-ends-early", BREAKS, world=2, cause=1)
def _(rank: int) -> None:
    meet(rank, 2)
    train(rank, 100 if rank == 1 else 10**9)


@fault("rank-out-of-memory", MEMORY, world=2, cause=0)
def _(rank: int) -> None:
    meet(rank, 2)
    if rank == 0:
        limit_memory(100)
        torch.ones(1024, 1024, 512)
    train(rank)


@fault("rank-out-of-disk", STORAGE, world=2, cause=1)
def _(rank: int) -> None:
    meet(rank, 2)
    if rank == 1:
        torch.save(torch.ones(2**20), small_disk(256) / "__1_0.distcp")
    train(rank)


@fault("rank-with-a-broken-disk", STORAGE, world=4, cause=3)
def _(rank: int) -> None:
    meet(rank, 4)
    if rank == 3:
        with open("/proc/self/mem", "rb", buffering=0) as file:
            file.read(16)
    train(rank)


@fault("rank-without-its-data", SETTING, world=2, cause=1, early=True)
def _(rank: int) -> None:
    meet(rank, 2)
    if rank == 1:
        Path("/data/shard-1.jsonl").read_text()
    dist.barrier()


@fault("all-see-no-number", FailureClass.NUMERIC, world=2, cause=0)
def _(rank: int) -> None:
    meet(rank, 2)
    loss = torch.tensor(float("nan"))
    dist.all_reduce(loss)
    time.sleep(0.05 * rank)
    raise NotFinite(f"step 12: loss {float(loss)}, gradient norm nan, learning rate 0.01")


@fault("rank-frozen", INFRASTRUCTURE, world=2, cause=None)
def _(rank: int) -> None:
    meet(rank, 2, patience=timedelta(seconds=3))
    if rank == 1:
        time.sleep(60)
    train(rank)


@fault("rank-never-came", INFRASTRUCTURE, world=2, cause=None, early=True)
def _(rank: int) -> None:
    if rank == 1:
        time.sleep(60)
    meet(rank, 2, patience=timedelta(seconds=3))


@fault("store-closed-before-all-met", BREAKS, world=2, cause=0, early=True)
def _(rank: int) -> None:
    if rank == 0:
        dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, is_master=True, wait_for_workers=False)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    meet(rank, 2, patience=timedelta(seconds=5))


@fault("barrier-times-out", INFRASTRUCTURE, world=3, cause=None)
def _(rank: int) -> None:
    meet(rank, 3)
    if rank == 2:
        time.sleep(60)
    dist.monitored_barrier(timeout=timedelta(seconds=2))
    time.sleep(60)


@fault("shapes-differ-between-ranks", BREAKS, world=2, cause=None)
def _(rank: int) -> None:
    meet(rank, 2)
    dist.all_reduce(torch.ones(4 + 4000 * rank))
    train(rank)
