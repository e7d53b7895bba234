"""A task without torch, for many faults in little time: each step's state is the digest of the one before.

A resume that is wrong in one bit or one step gives other losses from there on. Ranks meet at a barrier in each step;
each writes a real file of every checkpoint, and the first commits when all have.
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime

from bench.faults.witness import Witness
from windlass.api.contract import Manifest, RankContext, RankEvent
from windlass.api.meta import ExitCode, FailureClass, Phase, Reason
from windlass.api.status import CheckpointRecord, Failure, Plan
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.errors import Fenced, SaveError
from windlass_workloads.checkpoint.incarnations import require_newest
from windlass_workloads.checkpoint.store import RunStore, checkpoint_name
from windlass_workloads.checkpoint.trash import discard
from workloads.agent.toy_tasks import Barrier

SEED = hashlib.sha256(b"windlass").hexdigest()
PADDING = "0" * 4096


def preload() -> None:
    """Nothing to import."""


def prepare(context: RankContext, channel: RankChannel) -> None:
    """Nothing to prepare but the name."""
    RunStore(context.config.store_path).make("prepared/chain")
    channel.plan(Plan(total_steps=context.config.spec.training.max_steps or 1, train_samples=8))
    channel.prepared("chain")


def after(state: str, step: int) -> str:
    """The state that a step makes of the one before."""
    return hashlib.sha256(f"{state}/{step}".encode()).hexdigest()


def loss_of(state: str) -> float:
    """A loss that tells states apart."""
    return int(state[:13], 16) / 2**52


def undisturbed(steps: int) -> dict[int, str]:
    """The loss of each step of a run that nothing happens to, in full."""
    losses, state = {}, SEED
    for step in range(1, steps + 1):
        state = after(state, step)
        losses[step] = loss_of(state).hex()
    return losses


def file_of(rank: int) -> str:
    """The file that a rank writes of a checkpoint."""
    return f"state-{rank}.json"


class Chain:
    """One rank."""

    def __init__(self, context: RankContext, channel: RankChannel) -> None:
        self.context, self.channel = context, channel
        self.witness = Witness(context, channel)
        self.store = RunStore(context.config.store_path)
        channel.phase(Phase.RENDEZVOUS)
        self.barrier = Barrier(context)
        channel.phase(Phase.LOAD)
        self.step, self.state = self.load()

    @property
    def leads(self) -> bool:
        """Whether this rank commits."""
        return self.context.rank == 0

    def load(self) -> tuple[int, str]:
        """Step and state of the checkpoint to resume from."""
        name = self.context.resume
        if name is None:
            return 0, SEED
        manifest = manifests.read(self.store, name)
        problems = manifests.verify(self.store.path(name), manifest, deep=True)
        if problems:
            failure = Failure(
                reason=str(Reason.CHECKPOINT_UNUSABLE),
                failure_class=FailureClass.STORAGE,
                message=problems[0],
            )
            self.channel.failure(failure)
            raise SystemExit(int(ExitCode.STORAGE))
        found = json.loads((self.store.path(name) / file_of(self.context.rank)).read_text())
        return int(found["step"]), str(found["state"])

    def take_step(self) -> None:
        """The next digest, and its first bits as a loss."""
        began = time.perf_counter()
        self.step += 1
        self.state = after(self.state, self.step)
        loss = loss_of(self.state)
        seconds = time.perf_counter() - began
        self.witness.send(
            RankEvent(type="Step", at=time.time(), step=self.step, loss=loss, tokens=64, seconds=seconds)
        )

    def save(self) -> bool:
        """Whether everybody's file and the manifest are in the store; a failure is told and changes nothing."""
        name, began = checkpoint_name(self.step, self.context.incarnation), time.monotonic()
        problem = ""
        try:
            require_newest(self.store, self.context.incarnation, f"save {name}")
            data = {"step": self.step, "state": self.state, "padding": PADDING}
            self.store.write(f"{name}/{file_of(self.context.rank)}", json.dumps(data).encode())
        except Fenced:
            raise SystemExit(int(ExitCode.FENCED)) from None
        except (OSError, SaveError) as error:
            problem = str(error)
        failed = self.barrier.meet(int(bool(problem)))
        if self.leads:
            problem = problem or ("another rank failed" if failed else self.commit(name, began))
            if problem:
                self.channel.save_failed(self.step, problem)
        return not self.barrier.meet(int(bool(problem)))

    def commit(self, name: str, began: float) -> str:
        """Writes the manifest; what is wrong, if anything."""
        directory = self.store.path(name)
        try:
            files = [manifests.entry_of(directory, file_of(rank)) for rank in range(self.context.world_size)]
            manifest = Manifest(
                run_uid=self.context.config.run.uid,
                step=self.step,
                incarnation=self.context.incarnation,
                world_size=self.context.world_size,
                strategy="DDP",
                format="DCP",
                files=files,
                files_digest=manifests.files_digest(files),
                created_at=datetime.now(UTC),
            )
            manifests.commit(self.store, name, manifest)
        except Fenced:
            raise SystemExit(int(ExitCode.FENCED)) from None
        except (OSError, SaveError) as error:
            try:
                discard(self.store, name, now=time.time())
            except OSError:
                return f"{error}, and it was not cleared"
            return str(error)
        seconds = time.monotonic() - began
        record = CheckpointRecord(
            step=self.step, incarnation=self.context.incarnation, name=name, digest=manifest.files_digest
        )
        self.channel.checkpoint(record, stall_seconds=seconds, write_seconds=seconds)
        return ""


def train(context: RankContext, channel: RankChannel) -> None:
    """Steps until told to leave."""
    chain = Chain(context, channel)
    channel.phase(Phase.TRAIN)
    channel.forward(chain.step + 1)
    saved, every = chain.step, context.config.spec.checkpoint.every_steps
    while True:
        if chain.barrier.meet(int(channel.save_requested)):
            if chain.step > saved and not chain.save():
                raise SystemExit(int(ExitCode.STORAGE))
            channel.saved(chain.step)
            chain.barrier.meet(0)
            return
        chain.take_step()
        if chain.step % every == 0 and chain.save():
            saved = chain.step
