"""A task without torch: ranks meet at a TCP barrier each step and write real, tiny checkpoints.

What goes wrong is told by files in the run's store: `fault-<rank>-<step>` holds what to do there.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime

from windlass.api.contract import Manifest, RankContext, RankEvent
from windlass.api.meta import ExitCode, FailureClass, Phase
from windlass.api.status import CheckpointRecord, Failure, Plan
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore, checkpoint_name


class ToyFailure(Exception):
    """A failure that the task words itself: class and reason."""


def preload() -> None:
    problem = os.environ.get("TOY_PRELOAD", "")
    if problem == "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif problem == "hang":
        time.sleep(600)
    elif problem == "hold":
        os.register_at_fork(after_in_child=functools.partial(hold, os.getpid()))
    elif problem:
        raise ImportError(problem)


def hold(warm: int) -> None:
    """A rank that trains stands still right after its fork, until the test makes `release`."""
    store = RunStore(os.environ["TOY_STORE"])
    if os.getppid() == warm or not store.exists("prepared/toy"):
        return
    store.write("held", b"")
    while not store.exists("release"):
        time.sleep(0.005)


def build_ahead(context: RankContext) -> bool:
    """In the warm parent; what goes wrong there is told by the environment."""
    assert context.task == "train"
    problem = os.environ.get("TOY_AHEAD", "")
    if problem == "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif problem == "hang":
        time.sleep(600)
    elif problem == "die":
        os._exit(3)
    elif problem:
        raise ValueError(problem)
    return True


def prepare(context: RankContext, channel: RankChannel) -> None:
    store = RunStore(context.config.store_path)
    try:
        fault(store, "prepare", 0)
    except ToyFailure as error:
        give_up(channel, *error.args)
    store.make("prepared/toy")
    channel.plan(Plan(total_steps=steps_of(context), train_samples=8))
    channel.prepared("toy")


def give_up(channel: RankChannel, failure_class: str, reason: str) -> None:
    failure = Failure(
        reason=reason,
        failure_class=FailureClass(failure_class),
        message="the toy failed",
        hint="mend the toy",
    )
    channel.failure(failure)
    raise SystemExit(int(ExitCode.CONFIGURATION))


def steps_of(context: RankContext) -> int:
    return context.config.spec.training.max_steps or 10


def fault(store: RunStore, rank: object, step: int) -> None:
    """Does once what the file for this rank and step says; `always:` does it every time."""
    name = f"fault-{rank}-{step}"
    order = (store.read(name) or b"").decode()
    if not order:
        return
    if not order.startswith("always:"):
        store.remove(name)
    act(order.removeprefix("always:"), store)


def act(order: str, store: RunStore) -> None:
    kind, _, text = order.partition(" ")
    if kind == "signal":
        os.kill(os.getpid(), int(text))
    elif kind == "raise":
        raise RuntimeError(text)
    elif kind == "exit":
        os._exit(int(text))
    elif kind == "hang":
        time.sleep(float(text))
    elif kind == "fail":
        raise ToyFailure(*text.split())
    elif kind == "spoil":
        path = store.path(f"{text}/state.json")
        path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6", 1))
        os.kill(os.getpid(), 9)
    elif kind == "child" and os.fork() == 0:
        time.sleep(600)


class Barrier:
    """All ranks meet at rank 0, which tells them the greatest of what they brought."""

    def __init__(self, context: RankContext) -> None:
        self.world, self.rank, self.files = context.world_size, context.rank, []
        self.listener: socket.socket | None = None
        if self.rank == 0:
            self.listener = socket.create_server((context.master_address, context.master_port))
            for _ in range(self.world - 1):
                self.files.append(self.listener.accept()[0].makefile("rw"))
        else:
            self.files.append(self.connect(context).makefile("rw"))

    @staticmethod
    def connect(context: RankContext) -> socket.socket:
        deadline = time.monotonic() + 30
        while True:
            try:
                return socket.create_connection((context.master_address, context.master_port))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def meet(self, number: int) -> int:
        if self.rank == 0:
            found = max([number, *(int(self.line(file)) for file in self.files)])
            for file in self.files:
                print(found, file=file, flush=True)
            return found
        print(number, file=self.files[0], flush=True)
        return int(self.line(self.files[0]))

    @staticmethod
    def line(file) -> str:
        text = file.readline()
        if not text:
            raise ConnectionResetError("connection closed by peer")
        return text


def load(store: RunStore, context: RankContext) -> int:
    if context.resume is None:
        return 0
    manifest = manifests.read(store, context.resume)
    problems = manifests.verify(store.path(context.resume), manifest, deep=True)
    assert problems == [], problems
    return int(json.loads((store.path(context.resume) / "state.json").read_text())["step"])


def save(store: RunStore, context: RankContext, channel: RankChannel, step: int) -> None:
    name = checkpoint_name(step, context.incarnation)
    directory = store.make(name)
    store.write(f"{name}/state.json", json.dumps({"step": step, "weights": [0.5] * 64}).encode())
    entries = [manifests.entry_of(directory, "state.json")]
    manifest = Manifest(
        run_uid=context.config.run.uid,
        step=step,
        incarnation=context.incarnation,
        world_size=context.world_size,
        strategy="DDP",
        format="DCP",
        files=entries,
        files_digest=manifests.files_digest(entries),
        created_at=datetime.now(UTC),
    )
    manifests.commit(store, name, manifest)
    record = CheckpointRecord(
        step=step, incarnation=context.incarnation, name=name, digest=manifest.files_digest
    )
    channel.checkpoint(record, stall_seconds=0.001, write_seconds=0.002)


def train(context: RankContext, channel: RankChannel) -> None:
    store = RunStore(context.config.store_path)
    every, total = context.config.spec.checkpoint.every_steps, steps_of(context)
    step_seconds = float(os.environ.get("TOY_STEP_SECONDS", "0.02"))
    assert context.prepared == "toy"
    print(f"rank {context.rank} of {context.world_size}, incarnation {context.incarnation}")
    channel.phase(Phase.RENDEZVOUS)
    fault(store, f"rendezvous-{context.rank}", 0)
    barrier = Barrier(context)
    channel.phase(Phase.LOAD)
    try:
        step = load(store, context)
    except AssertionError:
        give_up(channel, "Storage", "CheckpointUnusable")
    channel.phase(Phase.TRAIN)
    if step < total:
        channel.forward(step + 1)
    while step < total:
        leave = barrier.meet(int(channel.save_requested))
        if leave:
            if context.rank == 0:
                save(store, context, channel, step)
                channel.saved(step)
            barrier.meet(0)
            return
        step += 1
        fault(store, context.rank, step)
        time.sleep(step_seconds)
        channel.step(
            RankEvent(
                type="Step", at=time.time(), step=step, loss=1.0 / step, tokens=64, seconds=step_seconds
            )
        )
        if (
            context.rank == 0
            and step % every == 0
            and not store.exists(checkpoint_name(step, context.incarnation))
        ):
            save(store, context, channel, step)
    barrier.meet(0)
    channel.phase(Phase.EXPORT)
    if context.rank == 0:
        channel.done(step)
