"""Helpers for the tests of checkpoints: contexts, incarnations and small committed checkpoints. No torch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windlass.api.contract import Incarnation, Manifest, RankContext, RankEvent
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore, checkpoint_name

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN_UID = "0b5f"
SPEC = {
    "model": {"uri": "pvc://models/tiny"},
    "data": {"sources": [{"uri": "pvc://data/train.jsonl"}]},
    "training": {"globalBatchSize": 4, "maxSteps": 10},
    "checkpoint": {"store": "pvc://store"},
}


class Events:
    """A channel that remembers."""

    def __init__(self) -> None:
        self.sent: list[RankEvent] = []

    def send(self, event: RankEvent) -> None:
        self.sent.append(event)

    def of(self, kind: str) -> list[RankEvent]:
        return [event for event in self.sent if event.type == kind]


def incarnation(number: int, **fields: Any) -> Incarnation:
    values: dict[str, Any] = {
        "incarnation": number,
        "attempt": 1,
        "ticket": 1,
        "owner_pod_uid": "pod-a",
        "owner_pod": "run-0-1",
        "created_at": NOW,
    }
    return Incarnation(**{**values, **fields})


def manifest_of(store: RunStore, step: int, number: int, **fields: Any) -> Manifest:
    """The manifest of the files that are in the directory."""
    directory = store.path(checkpoint_name(step, number))
    paths = sorted(each.relative_to(directory).as_posix() for each in directory.rglob("*") if each.is_file())
    entries = [manifests.entry_of(directory, path) for path in paths]
    values: dict[str, Any] = {
        "run_uid": RUN_UID,
        "step": step,
        "incarnation": number,
        "world_size": 1,
        "strategy": "DDP",
        "format": "DCP",
        "files": entries,
        "files_digest": manifests.files_digest(entries),
        "created_at": NOW,
    }
    return Manifest(**{**values, **fields})


def write_files(store: RunStore, step: int, number: int, size: int = 2000) -> Path:
    directory = store.make(checkpoint_name(step, number))
    (directory / "shard").mkdir()
    for index, path in enumerate(("weights.bin", "shard/optimizer.bin")):
        (directory / path).write_bytes(bytes((step + index + byte) % 251 for byte in range(size)))
    return directory


def commit(store: RunStore, step: int, number: int, **fields: Any) -> str:
    """A whole small checkpoint; returns its name."""
    write_files(store, step, number)
    name = checkpoint_name(step, number)
    manifests.commit(store, name, manifest_of(store, step, number, **fields))
    return name


def context(
    root: Path | str, rank: int = 0, world: int = 1, resume: str | None = None, number: int = 1
) -> RankContext:
    run = {"kind": "FineTuneJob", "namespace": "team", "name": "run", "uid": RUN_UID}
    config = {"run": run, "attempt": 1, "spec": SPEC, "leaderHost": "run-0", "storePath": str(root)}
    return RankContext.model_validate(
        {
            "task": "train",
            "config": config,
            "incarnation": number,
            "rank": rank,
            "worldSize": world,
            "resume": resume,
        }
    )
