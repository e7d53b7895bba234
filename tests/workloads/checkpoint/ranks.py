"""Trains tiny models on gloo ranks for the tests of saves and loads; run as a program.

Imports torch once, single-threaded, and forks the ranks of each scenario that arrives as a JSON line;
answers with a JSON line that holds each rank's exit status and what it returned.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.deepspeed import DeepSpeedState
from windlass_workloads.checkpoint.errors import CheckpointUnusable, Fenced
from windlass_workloads.checkpoint.reader import load
from windlass_workloads.checkpoint.state import ReplicatedState, TorchState
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from workloads.checkpoint.support import Events, context, incarnation

GLOBAL_BATCH = 4
WIDTH = 16


class Tiny(torch.nn.Module):
    """Two blocks, the first frozen when an adapter is imitated, and dropout to show generators."""

    def __init__(self, dropout: float, frozen: bool) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(WIDTH, 2 * WIDTH)
        self.drop = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(2 * WIDTH, WIDTH)
        if frozen:
            self.embed.requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.drop(torch.tanh(self.embed(rows))))
        return out


class Run:
    """One rank's model, optimizer and loop under a strategy."""

    def __init__(self, args: dict[str, Any], rank: int, world: int) -> None:
        self.rank, self.world, self.args = rank, world, args
        self.counters = {"step": 0}
        frozen = bool(args.get("frozen"))
        torch.manual_seed(args.get("seed", 7))
        self.model: Any = Tiny(args.get("dropout", 0.2), frozen)
        torch.manual_seed(1000 + rank)
        self.engine: Any = None
        strategy = args["strategy"]
        if strategy.startswith("ZeRO"):
            self._start_deepspeed(int(strategy[-1]), frozen)
            return
        if strategy == "FSDP":
            for layer in (self.model.embed, self.model.head):
                fully_shard(layer)
            fully_shard(self.model)
        elif world > 1:
            self.model = DistributedDataParallel(self.model)
        trained = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        # A DDP run of before "flat" saved by name; such checkpoints must stay readable.
        by_name = strategy == "FSDP" or args.get("by_name")
        self.state: Any = (TorchState if by_name else ReplicatedState)(
            strategy=strategy,
            model=self.model if by_name else getattr(self.model, "module", self.model),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            counters=self.counters,
            trainable_only=frozen,
        )

    def _start_deepspeed(self, stage: int, frozen: bool) -> None:
        import deepspeed

        trained = [each for each in self.model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        config = {
            "train_micro_batch_size_per_gpu": GLOBAL_BATCH // self.world,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        }
        self.engine, *_ = deepspeed.initialize(
            model=self.model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.state = DeepSpeedState(engine=self.engine, counters=self.counters, trainable_only=frozen)

    def step(self) -> float:
        generator = torch.Generator().manual_seed(self.counters["step"])
        rows = torch.randn(GLOBAL_BATCH, WIDTH, generator=generator)
        share = GLOBAL_BATCH // self.world
        mine = rows[self.rank * share : (self.rank + 1) * share]
        if self.engine is not None:
            loss = (self.engine(mine) - mine).pow(2).mean()
            self.engine.backward(loss)
            self.engine.step()
        else:
            loss = (self.model(mine) - mine).pow(2).mean()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        self.counters["step"] += 1
        value = loss.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return float(value) / self.world

    def digest(self) -> str:
        """Of this rank's part of all parameters."""
        digest = hashlib.sha256()
        for _, each in sorted((self.engine or self.model).named_parameters()):
            local = each.to_local() if isinstance(each, DTensor) else getattr(each, "ds_tensor", each)
            digest.update(local.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()


class Quota:
    """Opens files that take so many bytes and then fail, or kill the process."""

    def __init__(self, left: int, kill: bool) -> None:
        self.left, self.kill = left, kill

    @contextlib.contextmanager
    def open(self, path: Path, mode: str) -> Any:
        with path.open(mode) as raw:
            yield QuotaFile(raw, self)


class QuotaFile:
    """A file under a quota."""

    def __init__(self, raw: IO[bytes], quota: Quota) -> None:
        self.raw, self.quota = raw, quota
        self.closed = False

    def write(self, data: Any) -> int:
        size = len(data)
        if size <= self.quota.left:
            self.quota.left -= size
            return self.raw.write(data)
        self.raw.write(data[: self.quota.left])
        self.raw.flush()
        if self.quota.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        self.raw.flush()

    def fileno(self) -> int:
        return self.raw.fileno()


def train(args: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """Optionally loads, trains up to `total` and saves after the steps in `save_at`."""
    store, events = RunStore(args["root"]), Events()
    told = context(args["root"], rank, world, args.get("resume"), args.get("incarnation", 1))
    run = Run(args, rank, world)
    if told.resume is not None:
        load(store=store, context=told, state=run.state)
    writer = CheckpointWriter(
        store=store,
        context=told,
        channel=events,
        state=run.state,
        asynchronous=args.get("asynchronous", True),
    )
    losses: list[float] = []
    problems: dict[int, str | None] = {}
    while run.counters["step"] < args["total"]:
        losses.append(run.step())
        step = run.counters["step"]
        if step in args.get("save_at", []):
            _arm(writer, args, rank, step)
            writer.save(step, blocking=step in args.get("block_at", []))
            if args.get("wait"):
                writer.wait()
                problems[step] = writer.failed
        if step == args.get("takeover_at") and rank == 0:
            incarnations.claim(store, incarnation(2, owner_pod_uid="pod-b", ticket=2))
    result = writer.wait()
    return {
        "losses": losses,
        "digest": run.digest(),
        "events": [event.to_wire() for event in events.sent],
        "problems": problems,
        "result": None if result is None else [result.step, result.problem],
    }


def _arm(writer: CheckpointWriter, args: dict[str, Any], rank: int, step: int) -> None:
    """Makes the save of one step fail on one rank as the scenario wants it."""
    fault = args.get("fault")
    if fault is None or rank != fault["rank"] or step not in fault["steps"]:
        from windlass_workloads.checkpoint.files import open_file

        writer.wait()
        writer.opener = open_file
        return
    writer.opener = Quota(fault["after"], fault["kind"] == "kill").open


def child(args: dict[str, Any], rank: int, world: int, port: int, out: Path) -> None:
    """Body of one forked rank."""
    answer: dict[str, Any]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), **address)
    try:
        if world > 1 or args["strategy"] not in ("DDP",):
            dist.init_process_group(
                "gloo", rank=rank, world_size=world, init_method=f"tcp://127.0.0.1:{port}"
            )
        answer = train(args, rank, world)
    except CheckpointUnusable as error:
        answer = {"unusable": str(error), "evidence": list(error.evidence)}
    except Fenced as error:
        answer = {"fenced": str(error)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    out.write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


def gang(args: dict[str, Any]) -> list[dict[str, Any]]:
    """Forks the ranks of a scenario and waits; a dead rank ends the others, as an agent would."""
    world = args.get("world", 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{rank}.json" for rank in range(world)]
        pids: dict[int, int] = {}
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                child(args, rank, world, port, outs[rank])
            pids[pid] = rank
        signals: dict[int, int] = {}
        deadline = time.monotonic() + 120
        while pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                rank = pids.pop(pid)
                if os.WIFSIGNALED(status):
                    signals[rank] = os.WTERMSIG(status)
            else:
                time.sleep(0.01)
            if (signals and pids) or time.monotonic() > deadline:
                for other in pids:
                    os.kill(other, signal.SIGKILL)
                deadline = time.monotonic() + 120
        return [
            json.loads(out.read_text()) if out.exists() else {"signal": signals.get(rank)}
            for rank, out in enumerate(outs)
        ]


def learn_imports(strategy: str) -> None:
    """Imports what a rank would import late, seconds of it, so that each forked one need not."""
    before = set(sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "modules"
        pid = os.fork()
        if pid == 0:
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
            dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{folder}/rendezvous")
            train({"strategy": strategy, "root": folder, "total": 2, "save_at": [2]}, 0, 1)
            out.write_text("\n".join(sorted(set(sys.modules) - before)))
            os._exit(0)
        os.waitpid(pid, 0)
        for name in out.read_text().splitlines() if out.exists() else []:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def main() -> None:
    """Serves scenarios until the input ends."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        import deepspeed

        # The operator that DeepSpeed would compile here only speeds up collectives on one machine.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
        deepspeed.logger.setLevel("ERROR")
        for strategy in ("FSDP", "ZeRO-3"):
            learn_imports(strategy)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(gang(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
