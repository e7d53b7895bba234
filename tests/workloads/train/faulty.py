"""What a rank runs whose numbers are to go wrong: on one rank, while the global batch holds a certain sample.

FAULT in the environment is JSON: rank, unit (the sample) and kind: `nan` (the loss is no number), `flip` (one bit of
the exponent of a gradient turns in the backward, the loss stays what it is) or `scale` (the loss is ten times higher).
Writes `seen-RANK.json`: collectives per step that Python made, and after a guard tripped whether weights moved.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.workloads.train.forkserver import FileChannel
from windlass.api.contract import RankContext
from windlass_workloads.data.sources import Roots
from windlass_workloads.train import loop, tasks
from windlass_workloads.train.failures import GuardTripped
from windlass_workloads.train.objectives.supervised import NextToken

TOP_OF_EXPONENT = 1 << 30


def flipped(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient (fp32) with the highest bit of its exponents turned."""
    bits = gradient.to(torch.float32).view(torch.int32) ^ TOP_OF_EXPONENT
    return bits.view(torch.float32).to(gradient.dtype)


def own_weights(job: Any) -> list[torch.Tensor]:
    """Copies of what this rank holds of the weights."""
    parts = [getattr(each, "ds_tensor", each) for each in job.strategy.module.parameters()]
    parts = [part.to_local() if hasattr(part, "to_local") else part for part in parts]
    return [part.detach().clone() for part in parts]


class Faulty:
    """The loop's functions, with the fault in them."""

    def __init__(self, context: RankContext, directory: Path) -> None:
        self.fault = json.loads(os.environ["FAULT"])
        self.rank = context.rank
        self.file = directory / f"seen-{context.rank}.json"
        self.meets = False
        self.calls = 0
        self.per_step: list[int] = []
        self.make_batches, self.take_step = loop.make_batches, loop.take_step
        self.loss_sum: Any = NextToken.loss_sum
        self.all_reduce = dist.all_reduce

    def plant(self) -> None:
        loop.make_batches, loop.take_step = self.batches, self.step
        faulty = self

        def loss_sum(objective: NextToken, *arguments: Any, **named: Any) -> torch.Tensor:
            return faulty.loss(objective, *arguments, **named)

        NextToken.loss_sum = loss_sum  # type: ignore[method-assign]
        dist.all_reduce = self.reduce

    def batches(self, job: Any, step: int) -> Any:
        units = job.order.batch(step, job.spec.training.global_batch_size)
        self.meets = self.fault["rank"] == self.rank and self.fault["unit"] in units
        return self.make_batches(job, step)

    def loss(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = self.loss_sum(*arguments, **named)
        if not self.meets:
            return loss
        if self.fault["kind"] == "nan":
            return loss * float("nan")
        if self.fault["kind"] == "scale":
            return loss * 10
        loss.register_hook(flipped)
        return loss

    def reduce(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return self.all_reduce(*arguments, **named)

    def step(self, job: Any, step: int, *arguments: Any, **named: Any) -> Any:
        before, self.calls = own_weights(job), 0
        moved = None
        try:
            return self.take_step(job, step, *arguments, **named)
        except GuardTripped:
            pairs = zip(before, own_weights(job), strict=True)
            moved = not all(torch.equal(left, right) for left, right in pairs)
            raise
        finally:
            self.per_step.append(self.calls)
            self.file.write_text(json.dumps({"collectives": self.per_step, "moved": moved}))


def train(context: RankContext, directory: Path) -> None:
    """Trains as the agent would have it."""
    Faulty(context, directory).plant()
    channel = FileChannel(directory / f"events-{context.rank}.jsonl", context.rank, [])
    tasks.train(context, channel, Roots(Path(os.environ["VOLUMES"])))
