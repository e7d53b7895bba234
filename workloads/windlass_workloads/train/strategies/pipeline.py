"""Pipeline parallelism: each rank of a group holds some of the layers, and rows pass through the group (1F1B).

A stage is the model with the other stages' layers taken out, under the names that they all had, so that checkpoints
and exports are those of the whole model. Within a stage, weights are sharded as in FSDP over the ranks that hold the
same one, and may be cut by `tensor`. torch's schedule runs the micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B

from windlass.api.meta import Reason
from windlass_workloads.checkpoint.state import StageState
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.train.objectives.batch import Batch, Objective, dense
from windlass_workloads.train.strategies.base import Setting, norm_of
from windlass_workloads.train.strategies.fsdp import FSDP, PIPE, mesh_of
from windlass_workloads.train.strategies.tensor import refuse_dropout

FIELD = "spec.parallelism.pipeline"
PLAIN: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures that are embedding, layers, norm and output, nothing between. A test compares each, cut and whole."""


class Passed(nn.Module):  # type: ignore[misc]
    """Stands where a part of the model is another stage's: what goes in comes out."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """The same."""
        return hidden


class Pipeline(FSDP):
    """FSDP of one stage, and the schedule that connects it with its neighbours."""

    name = "FSDP-pipeline"
    state = StageState

    def __init__(self, model: Any, setting: Setting) -> None:
        mesh = mesh_of(setting)
        self.count = mesh[PIPE].size()
        self.place = mesh[PIPE].get_local_rank()
        self.group = mesh[PIPE].get_group()
        cut(model, self.place, self.count)
        super().__init__(model, setting)
        stage = PipelineStage(self.module, self.place, self.count, setting.device, group=self.group)
        self.schedule = Schedule1F1B(stage, setting.accumulation, loss_fn=self._loss, scale_grads=False)
        self._objective: Objective | None = None
        self._scale = 1.0

    def run(self, batches: Sequence[Batch], objective: Objective, targets: int) -> torch.Tensor:
        """Forward and backward of a step's micro-batches; this rank's part of the loss, which the last stage knows."""
        # FSDP takes the mean over the ranks of a stage; the sum is wanted.
        self._objective, self._scale = objective, self.readers / targets
        return self._sum(batches, self.schedule.step) / self.readers

    def evaluate(self, batches: Sequence[Batch], objective: Objective) -> float:
        """The summed loss of some batches, as many as a step has; less than that are filled up."""
        self._objective, self._scale = objective, 1.0
        return float(self._sum(batches, self.schedule.eval))

    def _sum(self, batches: Sequence[Batch], go: Any) -> torch.Tensor:
        """Run the schedule; the sum of the losses."""
        losses: list[torch.Tensor] = []
        # Logits of all micro-batches would be kept until the next step.
        given: dict[str, Any] = {"return_outputs": False}
        if self.place == 0:
            given["arg_mbs"] = [(batch.inputs["input_ids"],) for batch in batches]
        if self.place == self.count - 1:
            given |= {"target_mbs": [dense(batch) for batch in batches], "losses": losses}
        go(**given)
        return sum((loss.detach() for loss in losses), torch.zeros((), device=self.setting.device))

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert self._objective is not None  # noqa: S101 - set by whoever runs the schedule
        learning = self.module.training
        return self._objective.loss_of(logits, targets, learning=learning) * self._scale

    def measure(self) -> float:
        """The norm over all stages, which every rank gets."""
        square = norm_of(self.trained).detach().double().square()
        dist.all_reduce(square, group=self.group)
        self.norm = square.sqrt().float()
        return float(self.norm)

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Gathered weight by weight onto rank 0, whose own group holds every stage once."""
        of_first = 0 in dist.get_process_group_ranks(self.group)
        found: dict[str, torch.Tensor] = {}
        mine = self.module.state_dict()
        shapes: list[Any] = [None] * self.count
        if of_first:
            told = [(name, tuple(each.shape), each.dtype) for name, each in mine.items()]
            dist.all_gather_object(shapes, told, group=self.group)
        for name, each in mine.items():
            whole = each.full_tensor() if hasattr(each, "full_tensor") else each
            if of_first and self.place == 0:
                found[name] = whole.detach().cpu()
            elif of_first:
                dist.send(whole.detach().contiguous(), dst=0, group=self.group)
        if dist.get_rank() != 0:
            return {}
        for place in range(1, self.count):
            source = dist.get_global_rank(self.group, place)
            for name, shape, dtype in shapes[place]:
                part = torch.empty(shape, dtype=dtype, device=self.setting.device)
                dist.recv(part, src=source, group=self.group)
                found[name] = part.cpu()
        return found


def cut(model: Any, place: int, count: int) -> None:
    """Leave one stage of a model, in place, and have its forward take and give what passes between stages."""
    inner = model.base_model
    if model.config.model_type not in PLAIN:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: this architecture is not cut into stages (got {count} with model_type "
            f"{model.config.model_type}); allowed {', '.join(PLAIN)}.",
            hint="remove parallelism.pipeline.",
        )
    if model.config.tie_word_embeddings:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: the first and the last stage would share a weight (got {count} with tied embeddings); allowed "
            "a model whose tie_word_embeddings is false.",
            hint="set architecture.tieEmbeddings: false for a new model, or remove parallelism.pipeline.",
        )
    refuse_dropout(model, FIELD, count)
    layers = inner.layers
    if len(layers) < count:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: more stages than layers (got {count} with {len(layers)} layers); allowed at most "
            f"{len(layers)}.",
            hint="lower parallelism.pipeline.",
        )
    mine = range(len(layers) * place // count, len(layers) * (place + 1) // count)
    for number in range(len(layers)):
        if number not in mine:
            layers[number] = Passed()
    first, last = place == 0, place == count - 1
    if not first:
        inner.embed_tokens = Passed()
    if not last:
        inner.norm, model.lm_head = Passed(), Passed()

    def forward(given: torch.Tensor) -> Any:
        positions = torch.arange(given.shape[1], device=given.device).expand(given.shape[:2])
        named = {"input_ids": given} if first else {"inputs_embeds": given}
        return model.lm_head(inner(**named, position_ids=positions, use_cache=False).last_hidden_state)

    model.forward = forward
