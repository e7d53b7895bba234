"""The real training tasks with volumes of the test's own; who begins its first step is written down as toys do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from windlass.api.contract import RankContext, RankEvent
from windlass_workloads.agent.channel import RankChannel
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import tasks

build_ahead_of_tasks = tasks.build_ahead


class Noted:
    """A rank's channel that also notes the first forward in the store, where the test looks."""

    def __init__(self, context: RankContext, channel: RankChannel) -> None:
        self.channel = channel
        self.store = RunStore(context.config.store_path)
        self.place = {"incarnation": context.incarnation, "rank": context.rank}

    @property
    def save_requested(self) -> bool:
        return self.channel.save_requested

    def send(self, event: RankEvent) -> None:
        if event.type == "Forward":
            self.store.append_line("forward.jsonl", {**self.place, "step": event.step})
        self.channel.send(event)


def roots() -> Roots:
    return Roots(Path(os.environ["VOLUMES"]))


def preload() -> None:
    from windlass_workloads.train.strategies.deepspeed import load_library

    tasks.preload()
    load_library()


def build_ahead(context: RankContext) -> bool:
    return build_ahead_of_tasks(context, roots())


def prepare(context: RankContext, channel: Any) -> None:
    tasks.prepare(context, Noted(context, channel), roots())


def train(context: RankContext, channel: Any) -> None:
    tasks.train(context, Noted(context, channel), roots())


def parallelism(spec: dict[str, Any], stage: int) -> dict[str, Any]:
    """The test's spec as a run of DeepSpeed that does not end by itself."""
    changed = json.loads(json.dumps(spec))
    changed["parallelism"] = {"strategy": "DeepSpeed", "zeroStage": stage}
    changed["data"]["sequenceLength"] = 64
    changed["training"] |= {"precision": "FP32", "maxSteps": 100_000}
    changed["checkpoint"] |= {"export": "None"}
    return changed
