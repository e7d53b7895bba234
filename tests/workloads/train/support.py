"""Runs gangs of gloo ranks for tests: a job's spec, its store, its incarnations, and what the ranks said."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import Incarnation, RankContext, RankEvent, RunConfig
from windlass_workloads.checkpoint import incarnations
from windlass_workloads.checkpoint.store import RunStore

REPOSITORY = Path(__file__).resolve().parents[3]
SERVER = Path(__file__).with_name("forkserver.py")


class ForkServer:
    """The process that forks ranks."""

    def __init__(self) -> None:
        paths = [str(REPOSITORY / name) for name in ("operator", "workloads", "tests", ".")]
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.threads: int = self._answer()["threads"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def run(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Outcome:
    """What one start of a gang did."""

    codes: list[int]
    events: list[list[RankEvent]]
    logs: list[str]
    built: bool | None = None
    """Whether the parent built the model ahead, where it was asked to."""
    threads: int | None = None
    """Threads of the parent after that."""

    def of(self, kind: str, rank: int = 0) -> list[RankEvent]:
        return [event for event in self.events[rank] if event.type == kind]

    def losses(self, rank: int = 0) -> dict[int, float]:
        return {event.step: event.loss for event in self.of("Step", rank)}

    def norms(self, rank: int = 0) -> dict[int, float]:
        return {event.step: event.gradient_norm for event in self.of("Step", rank)}

    @property
    def saved(self) -> list[str]:
        return [event.checkpoint.name for event in self.of("Checkpoint")]

    def ok(self) -> Outcome:
        if set(self.codes) != {0}:
            pytest.fail(f"exit codes {self.codes}\n{self.logs[0][-1500:]}", pytrace=False)
        return self


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes laid over a nested dictionary; None removes."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


SPEC: dict[str, Any] = {
    "model": {"uri": "pvc://models/tiny"},
    "data": {"sources": [{"uri": "pvc://data/train.jsonl"}], "sequenceLength": 64},
    "training": {
        "globalBatchSize": 4,
        "maxSteps": 6,
        "learningRate": "1e-2",
        "precision": "FP32",
    },
    "checkpoint": {"store": "pvc://store", "everySteps": 3, "export": "None", "async": False},
}

PRETRAINING: dict[str, Any] = {
    "model": {"uri": "pvc://models/tiny"},
    "corpus": {"sources": [{"uri": "pvc://texts/a.jsonl"}, {"uri": "pvc://texts/b"}], "sequenceLength": 32},
    "training": {"globalBatchSize": 4, "maxSteps": 6, "learningRate": "1e-2", "precision": "FP32"},
    "checkpoint": {"store": "pvc://store", "everySteps": 3, "async": False},
}
NEW_LLAMA: dict[str, Any] = {
    "model": None,
    "architecture": {"hiddenSize": 32, "layers": 2, "heads": 4, "keyValueHeads": 2},
    "tokenizer": {"train": {"vocabularySize": 384}},
}
NEW_BERT: dict[str, Any] = NEW_LLAMA | {
    "objective": "MaskedLM",
    "architecture": {"type": "Bert", "hiddenSize": 32, "layers": 2, "heads": 4},
}


@dataclass
class Job:
    """One job in a directory of its own. Volumes and the server are shared."""

    server: ForkServer
    volumes: Path
    root: Path
    spec: dict[str, Any]
    secrets: Path = Path("/nonexistent")
    incarnation: int = 0
    prepared: str | None = None
    starts: int = field(default=0)
    skipped: list[tuple[int, int]] = field(default_factory=list)
    kind: str = "FineTuneJob"

    @property
    def store(self) -> Path:
        return self.root / "store" / "team" / "job" / "uid-1"

    def config(self) -> RunConfig:
        return RunConfig.model_validate(
            {
                "run": {"kind": self.kind, "namespace": "team", "name": "job", "uid": "uid-1"},
                "attempt": 1,
                "spec": self.spec,
                "leaderHost": "127.0.0.1",
                "storePath": str(self.store),
            }
        )

    def start(
        self,
        task: str = "train",
        *,
        world: int = 1,
        resume: str | None = None,
        actions: list[dict[str, Any]] | None = None,
        limit: float = 120,
        **more: Any,
    ) -> Outcome:
        """Starts one incarnation of the gang and waits for its end."""
        self.starts += 1
        self.incarnation += 1
        directory = self.root / f"start-{self.starts}"
        directory.mkdir(parents=True, exist_ok=True)
        store = RunStore(self.store)
        self.store.mkdir(parents=True, exist_ok=True)
        record = Incarnation(
            incarnation=self.incarnation,
            attempt=1,
            ticket=1,
            owner_pod_uid="pod",
            owner_pod="job-0-1",
            created_at=datetime.now(UTC),
            resume=resume,
        )
        assert incarnations.claim(store, record)
        config = self.config()
        port = free_port()
        ranks = [
            RankContext(
                task=task,
                config=config,
                incarnation=self.incarnation,
                rank=rank,
                world_size=world,
                local_rank=rank,
                local_world_size=world,
                master_port=port,
                resume=resume,
                prepared=self.prepared,
                skipped_windows=self.skipped,
            ).model_dump(mode="json", by_alias=True)
            for rank in range(world)
        ]
        answer = self.server.run(
            ranks=ranks,
            directory=str(directory),
            volumes=str(self.volumes),
            secrets=str(self.secrets),
            actions=actions or [],
            limit=limit,
            deepspeed=self.spec.get("parallelism", {}).get("strategy") == "DeepSpeed",
            **more,
        )
        return Outcome(
            list(answer["codes"]),
            [read_events(directory / f"events-{rank}.jsonl") for rank in range(world)],
            [(directory / f"rank-{rank}.log").read_text(errors="replace") for rank in range(world)],
            built=answer["built"],
            threads=answer["threads"],
        )

    def prepare(self) -> Outcome:
        outcome = self.start("prepare").ok()
        self.prepared = outcome.of("Prepared")[0].name
        return outcome

    def train(self, **options: Any) -> Outcome:
        """Trains after preparing, if that was not done."""
        if self.prepared is None:
            self.prepare()
        return self.start(**options)


def read_events(path: Path) -> list[RankEvent]:
    if not path.exists():
        return []
    return [RankEvent.model_validate_json(line) for line in path.read_text().splitlines()]
