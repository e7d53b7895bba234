"""The continuing run: agents as plain processes with real ranks, on a volume and a wire that can fail.

Agents, warm parents, ranks, training and checkpoints are the real ones; only the operator is played.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import tiny
from bench.faults import witness as witnesses
from bench.faults.played import Played
from bench.faults.volume import Volume
from bench.faults.wire import Wire
from bench.recovery.figures import gang_began
from bench.recovery.gang import problems_of
from windlass.api.contract import Incarnation, RunConfig, RunIdentity
from windlass.api.finetune import FineTuneJobSpec
from windlass.core.checkpoints.choose import Candidate, objection
from windlass_workloads.agent.memoir import FORWARD
from windlass_workloads.checkpoint import choose
from windlass_workloads.checkpoint.store import TRASH, RunStore
from windlass_workloads.checkpoint.trash import discarded_at
from workloads.agent import support

ROOT = Path(__file__).resolve().parents[3]
TRAIN, CHAIN = "bench.faults.rank_tasks", "bench.faults.chain_tasks"
"""What ranks do: the real training loop, or steps without torch."""
VOLUMES = "BENCH_VOLUMES"
"""As rank_tasks reads it, which imports what this process does not need."""
NODES, EVERY = 2, 10
STEP_SECONDS = 0.03
LIMIT_SECONDS = 180.0
STALL_SECONDS = 20
TRASH_SECONDS = 60.0
GUARDS = {"guards": {"stall": {"action": "Restart", "limitSeconds": STALL_SECONDS}}}
MINIMAL: dict[str, Any] = {
    "model": {"uri": "pvc://models/tiny"},
    "data": {"sources": [{"uri": "pvc://data/train.jsonl"}], "sequenceLength": 48},
    "checkpoint": {"store": "pvc://store"},
    "training": {"globalBatchSize": 4, "maxSteps": 1},
}
READY = "warm parent is ready"
SILENCE_SECONDS = 3.0
"""How long agents wait for one another; imports of torch elsewhere may hold a process up for a moment."""


def spec_of(ranks: int, every: int = EVERY) -> dict[str, Any]:
    """The job."""
    training = {
        "globalBatchSize": 4,
        "maxSteps": 1_000_000,
        "learningRate": "1e-4",
        "scheduler": {"type": "Constant"},
        "precision": "FP32",
    }
    spec = {
        **MINIMAL,
        "training": training,
        "resources": {"nodes": NODES, "ranksPerNode": ranks, "perNode": {"cpu": "500m"}},
        "checkpoint": {"store": "pvc://store", "everySteps": every, "keepLast": 4, "export": "None"},
        "recovery": {"backOffSeconds": 1, "terminationGracePeriodSeconds": 60},
    }
    return spec | (GUARDS if is_guarded() else {})


@functools.cache
def is_guarded() -> bool:
    """Whether jobs can ask for a restart of ranks that stand still."""
    try:
        FineTuneJobSpec.model_validate(MINIMAL | GUARDS)
    except ValidationError:
        return False
    return True


class Stuck(Exception):
    """The run did not get on within its limit, or came to an end."""


@dataclass
class Gang:
    """The run and everything around it that can fail."""

    run: support.Run
    played: Played
    wire: Wire
    witness: Path
    silence: float
    volume: Volume | None = None
    damaged: set[str] = field(default_factory=set)
    """Checkpoints that were damaged: nobody may resume from them."""
    old: list[support.Agent] = field(default_factory=list)
    """Agents that were replaced while they still lived."""

    @property
    def store(self) -> RunStore:
        """The run's store."""
        return self.run.store

    @property
    def agents(self) -> list[support.Agent]:
        """The agent of each index."""
        return self.played.agents

    @property
    def ranks_per_node(self) -> int:
        """Ranks of each agent."""
        return int(self.run.config.spec.resources.ranks_per_node)

    @property
    def world(self) -> int:
        """Ranks of the gang."""
        return NODES * self.ranks_per_node

    def newest(self) -> Incarnation:
        """The newest incarnation."""
        found = self.run.newest()
        assert found is not None
        return found

    def sound(self) -> list[Candidate]:
        """Checkpoints that count and whose every byte is as their manifest says, newest first."""
        newest = self.newest()
        return [
            each
            for each in choose.candidates(self.store)
            if objection(each, newest) is None and self.problems_of(each.name) == []
        ]

    def problems_of(self, name: str) -> list[str] | None:
        """What is wrong with a checkpoint; None for one that retention took away while it was read."""
        try:
            return problems_of(self.store, name)
        except FileNotFoundError:
            return None

    def began(self, after: int) -> tuple[int, int, float] | None:
        """(incarnation, step, time) at which the last whole gang after an incarnation began to train."""
        rows, found = self.run.rows(FORWARD), None
        while (later := gang_began(rows, after=after, world=self.world)) is not None:
            found, after = later, later[0]
        return found

    def at_work(self) -> bool:
        """Whether every pod is there with a warm parent, and all ranks of the newest incarnation train."""
        if self.played.ended is not None:
            raise Stuck(f"the run ended: {self.played.ended.model_dump_json(exclude_none=True)}")
        agents = list(self.agents)
        number = self.newest().incarnation
        return (
            all(agent.process.poll() is None and READY in agent.log for agent in agents)
            and all(len(agent.ranks()) == self.ranks_per_node for agent in agents)
            and all(warm_of(agent) is not None for agent in agents)
            and self.began(number - 1) is not None
        )

    def wait(self, what: str, look: Callable[[], Any], seconds: float = LIMIT_SECONDS) -> Any:
        """What `look` finds; Stuck with the logs after a limit."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {agent.index}\n{agent.log[-2500:]}" for agent in self.agents)
                raise Stuck(f"waited {seconds:.0f} s for: {what}\n{logs}")
            time.sleep(0.05)
        return found

    def order(self, rank: int, text: str) -> None:
        """Has a rank do something after its next step."""
        temporary = self.witness / ".order"
        temporary.write_text(text)
        os.replace(temporary, self.witness / f"order-{rank}")

    def empty_trash(self) -> None:
        """Clears what a volume would have room for."""
        for entry in self.store.names(TRASH):
            since = discarded_at(entry)
            if since is not None and time.time() - since > TRASH_SECONDS:
                self.store.remove(f"{TRASH}/{entry}")


def warm_of(agent: support.Agent) -> int | None:
    """The warm parent of an agent, if it has one now."""
    found = [pid for pid in agent.children() if support.session_of(pid) != pid]
    return found[0] if found else None


def write_volumes(root: Path) -> Path:
    """Model and data."""
    volumes = root / "volumes"
    tiny.write_model(volumes / "models" / "tiny", hidden=16, layers=1, context=64)
    tiny.write_data(volumes / "data" / "train.jsonl")
    return volumes


@contextlib.contextmanager
def training(
    root: Path,
    volumes: Path,
    *,
    ranks: int,
    tasks: str = TRAIN,
    pace: float = STEP_SECONDS,
    every: int = EVERY,
    small: bool = True,
) -> Iterator[Gang]:
    """A gang that trains; nothing of it is left at the end. `small` asks for a volume that can be full."""
    store, witness = root / "store", root / "witness"
    witness.mkdir(parents=True)
    volume = Volume(store) if small else None
    config = RunConfig(
        run=RunIdentity(kind="FineTuneJob", namespace="bench", name="tiny", uid="uid-1"),
        attempt=1,
        spec=FineTuneJobSpec.model_validate(spec_of(ranks, every)),
        leader_host="127.0.0.1",
        store_path=str(store),
        tasks=tasks,
    )
    folders = [str(ROOT / folder) for folder in ("operator", "workloads", "tests")]
    environment = {
        VOLUMES: str(volumes),
        witnesses.WITNESS: str(witness),
        witnesses.PACE: str(pace),
        "PYTHONPATH": os.pathsep.join(folders),
    }
    silence = SILENCE_SECONDS
    arguments = ["--heartbeat-seconds", str(silence / 6), "--silence-seconds", str(silence)]
    run = support.Run(directory=root, config=config, environment=environment, arguments=arguments)
    wire = Wire()
    gang = Gang(run, Played(run, wire, root / "operator"), wire, witness, silence, volume)
    try:
        gang.played.begin()
        gang.wait("the first steps", lambda: run.newest() is not None and gang.at_work())
        yield gang
    finally:
        gang.played.close()
        wire.close()
        run.close()
        support.wait_for("no process left", lambda: not support.orphans(witness), 10.0)
        if volume is not None:
            volume.close()
        shutil.rmtree(root / "store", ignore_errors=True)
