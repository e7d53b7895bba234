"""What is recorded about a run beside its metrics: parameters and lineage, from an allow-list.

Nothing else of the spec goes out: no environment, no secret's name, no pod settings.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from windlass.api.contract import RankContext
from windlass.api.status import Plan

UID_TAG = "windlass.uid"


def parameters_of(context: RankContext, plan: Plan) -> dict[str, str]:
    """Parameters of a run; values as text, unset ones left out."""
    spec = context.config.spec
    training, adapter = spec.training, spec.adapter
    values: dict[str, object] = {
        "model": spec.origin,
        "objective": spec.objective,
        "strategy": spec.parallelism.strategy,
        "zero_stage": spec.parallelism.zero_stage,
        "shard_group_size": spec.parallelism.shard_group_size,
        "world_size": plan.world_size,
        "accumulation": plan.accumulation,
        "global_batch_size": training.global_batch_size,
        "micro_batch_size": training.micro_batch_size,
        "epochs": training.epochs,
        "total_steps": plan.total_steps,
        "learning_rate": training.learning_rate,
        "scheduler": training.scheduler.type,
        "warmup": training.scheduler.warmup,
        "weight_decay": training.optimizer.weight_decay,
        "gradient_clip": training.gradient_clip,
        "precision": plan.precision,
        "seed": training.seed,
        "sequence_length": spec.sequence_length,
        "train_samples": plan.train_samples,
        "train_tokens": plan.train_tokens,
        "parameters": plan.parameters,
        "trainable_parameters": plan.trainable_parameters,
        **spec.facts,
    }
    if adapter is not None:
        values |= {"adapter": adapter.type, "adapter_rank": adapter.rank, "adapter_alpha": adapter.alpha}
    return {name: str(value) for name, value in values.items() if value is not None}


def code_version() -> str:
    """Version of the installed package."""
    try:
        return version("windlass")
    except PackageNotFoundError:
        return "unknown"


def tags_of(context: RankContext, plan: Plan) -> dict[str, str]:
    """Tags that tell where a run comes from."""
    run = context.config.run
    return {
        UID_TAG: run.uid,
        "windlass.kind": run.kind,
        "windlass.namespace": run.namespace,
        "windlass.name": run.name,
        "windlass.version": code_version(),
        "windlass.data_digest": plan.data_digest or "",
        "windlass.model_uri": context.config.spec.origin,
        "mlflow.runName": run.name,
        "mlflow.source.name": "windlass",
    }
