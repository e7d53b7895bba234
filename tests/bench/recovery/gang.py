"""A gang of agents as plain processes, two unless more are asked for, training the tiny model.

For tries that need no cluster but many of them.

Agents, warm parents, ranks, training and checkpoints are the real ones; only the operator is away, and `start` gives
a replacement the next ticket as the operator would.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
from bench.recovery.figures import gang_began
from windlass.api.contract import RunConfig, RunIdentity
from windlass.api.finetune import FineTuneJobSpec
from windlass.core.checkpoints.choose import Candidate
from windlass_workloads.agent.memoir import FORWARD
from windlass_workloads.checkpoint import choose
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore
from workloads.agent import support

ROOT = Path(__file__).resolve().parents[3]
TASKS = "bench.recovery.tiny_tasks"
WORLD = 2
LIMIT_SECONDS = 180.0
SPEC: dict[str, Any] = {
    "model": {"uri": "pvc://models/tiny"},
    "data": {"sources": [{"uri": "pvc://data/train.jsonl"}], "sequenceLength": 64},
    "training": {"globalBatchSize": 4, "maxSteps": 1_000_000, "learningRate": "1e-3", "precision": "FP32"},
    "resources": {"nodes": WORLD, "ranksPerNode": 1, "perNode": {"cpu": "500m"}},
    "checkpoint": {"store": "pvc://store", "everySteps": 40, "keepLast": 4, "export": "None"},
    "recovery": {"backOffSeconds": 0, "terminationGracePeriodSeconds": 60},
}


@dataclass
class Gang:
    """The run, and the agent that stands for each index now."""

    run: support.Run
    agents: list[support.Agent]
    world: int = WORLD
    """Ranks of the whole gang."""

    @property
    def store(self) -> RunStore:
        return self.run.store

    def incarnation(self) -> int:
        """The newest that trained."""
        return max((int(row["incarnation"]) for row in self.run.rows(FORWARD)), default=0)

    def await_began(self, before: int) -> int:
        """The first incarnation after `before` of which all ranks began."""
        return self.await_time(before)[0]

    def await_time(
        self, before: int, *, world: int | None = None, without: int | None = None
    ) -> tuple[int, float]:
        """The same with the time of its slowest rank; of `world` ranks, while the agent `without` is gone."""

        def look() -> tuple[int, int, float] | None:
            others = [agent for agent in self.agents if agent.index != without]
            if (ended := [agent for agent in others if agent.process.poll() is not None]) != []:
                raise AssertionError(f"agent {ended[0].index} ended:\n{ended[0].log[-3000:]}")
            return gang_began(self.run.rows(FORWARD), after=before, world=world or self.world)

        found = support.wait_for(f"training after incarnation {before}", look, LIMIT_SECONDS)
        return int(found[0]), float(found[2])

    def replace(self, index: int) -> None:
        """A new agent in place of one that has ended."""
        self.agents[index] = self.run.start(index)

    def sound(self) -> list[Candidate]:
        """Checkpoints whose every byte is as the manifest says, newest first."""
        return [
            each
            for each in choose.candidates(self.store)
            if each.problem is None and not problems_of(self.store, each.name)
        ]


def problems_of(store: RunStore, name: str) -> list[str]:
    """What the store's own deep verification finds wrong with a checkpoint."""
    try:
        return manifests.verify(store.path(name), manifests.read(store, name), deep=True)
    except manifests.ManifestInvalid as error:
        return [str(error)]


@contextlib.contextmanager
def training(root: Path, changes: dict[str, Any] | None = None) -> Iterator[Gang]:
    """A gang that trains by SPEC with changed blocks; nothing of it is left at the end."""
    spec = {name: {**block, **(changes or {}).get(name, {})} for name, block in SPEC.items()}
    volumes = root / "volumes"
    tiny.write_model(volumes / "models" / "tiny")
    tiny.write_data(volumes / "data" / "train.jsonl")
    store = root / "store"
    config = RunConfig(
        run=RunIdentity(kind="FineTuneJob", namespace="bench", name="tiny", uid="uid-1"),
        attempt=1,
        spec=FineTuneJobSpec.model_validate(spec),
        leader_host="127.0.0.1",
        store_path=str(store),
        tasks=TASKS,
    )
    folders = [str(ROOT / folder) for folder in ("operator", "workloads", "tests")]
    environment = {"BENCH_VOLUMES": str(volumes), "PYTHONPATH": os.pathsep.join(folders)}
    run = support.Run(directory=root, config=config, environment=environment)
    try:
        resources = config.spec.resources
        gang = Gang(run, run.start_all(), resources.nodes * resources.ranks_per_node)
        gang.await_began(0)
        yield gang
    finally:
        run.close()
        support.wait_for("no process left", lambda: not support.orphans(volumes), 10.0)
