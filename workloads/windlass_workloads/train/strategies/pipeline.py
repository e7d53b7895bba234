"""Pipeline parallelism: each rank of a group holds some of the layers, and rows pass through the group (1F1B).

A stage is the model with the other stages' layers taken out, under the names that they all had, so that checkpoints
and exports are those of the whole model. Within a stage, weights are sharded as in FSDP over the ranks that hold the
same one, and may be cut by `tensor`. torch's schedule runs the micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B

from windlass.api.meta import Reason
from windlass_workloads.checkpoint.interface import DirectoryAdapter, StateAdapter
from windlass_workloads.checkpoint.state import StageState
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.train.objectives.batch import Batch, Objective, dense
from windlass_workloads.train.strategies.base import Setting, norm_of
from windlass_workloads.train.strategies.fsdp import FSDP, PIPE, mesh_of

FIELD = "spec.parallelism.pipeline"


class Passed(nn.Module):  # type: ignore[misc]
    """Stands where a part of the model is another stage's: what goes in comes out."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """The same."""
        return hidden


class Pipeline(FSDP):
    """FSDP of one stage, and the schedule that connects it with its neighbours."""

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
        given: dict[str, Any] = {}
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

    def saved_state(self, counters: dict[str, int]) -> StateAdapter | DirectoryAdapter:
        """Format DCP; each rank writes its shards of its stage."""
        return StageState(
            strategy=self.name,
            model=self.module,
            optimizer=self.optimizer,
            scheduler=None,
            counters=counters,
            trainable_only=self.setting.trainable_only,
        )

    def full_weights(self) -> dict[str, torch.Tensor]:
        """Gathered stage by stage onto rank 0."""
        whole = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True))
        mine = {name: tensor.cpu() for name, tensor in whole.items()}
        found: list[Any] = [None] * self.count
        # Rank 0's own group holds every stage once.
        dist.gather_object(
            mine,
            found if self.place == 0 else None,
            dst=dist.get_global_rank(self.group, 0),
            group=self.group,
        )
        if dist.get_rank() != 0:
            return {}
        return {name: tensor for part in found for name, tensor in part.items()}


def cut(model: Any, place: int, count: int) -> None:
    """Leave one stage of a model, in place, and have its forward take and give what passes between stages."""
    inner = model.base_model
    layers = getattr(inner, "layers", None)
    parts = all(hasattr(inner, name) for name in ("embed_tokens", "norm")) and hasattr(model, "lm_head")
    if layers is None or not parts:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: this architecture cannot be cut into stages (got {count} with model_type "
            f"{model.config.model_type}); allowed Llama and others built alike.",
            hint="remove parallelism.pipeline.",
        )
    if model.config.tie_word_embeddings:
        raise WorkloadError(
            Reason.CONFIGURATION,
            f"{FIELD}: the first and the last stage would share a weight (got {count} with tied embeddings); allowed "
            "a model whose tie_word_embeddings is false.",
            hint="set architecture.tieEmbeddings: false for a new model, or remove parallelism.pipeline.",
        )
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
