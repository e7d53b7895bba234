"""`windlass plan --model-config`: memory and checkpoint bytes from a config.json, without torch.

Called by `offline`. It must never guess a family of models that it does not know: preflight counts those.
"""

from __future__ import annotations

import json
from pathlib import Path

from windlass.api.jobs import TrainingJobSpec
from windlass.api.status import Plan
from windlass.cli.errors import CliError
from windlass.core.planning.estimate import bytes_text, sized
from windlass.core.planning.shape import FAMILIES, from_config


def with_model(plan: Plan, spec: TrainingJobSpec, path: Path) -> Plan:
    """The plan with what follows from the model's sizes; CliError for a file that does not tell them."""
    if spec.custom is not None:
        raise CliError(
            "--model-config: the job has no model of which sizes could be told (got spec.custom); allowed: jobs with "
            "spec.model. hint: leave it out"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CliError(
            f"--model-config: cannot be read (got {path}: {error.strerror}); allowed: a model's config.json. "
            "hint: copy it from the model's directory"
        ) from error
    except ValueError as error:
        raise CliError(
            f"--model-config: is not JSON (got {path}); allowed: a model's config.json. hint: copy it again"
        ) from error
    shape = from_config(config, spec.adapter) if isinstance(config, dict) else None
    if shape is None:
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise CliError(
            f"--model-config: sizes cannot be derived (got model_type {kind} with targets "
            f"{', '.join(spec.adapter.target_modules) if spec.adapter else 'none'}); allowed: "
            f"{', '.join(sorted(FAMILIES))} with their own linear layers. "
            "hint: leave it out; status.plan has them after preflight, for every model"
        )
    return sized(plan, spec, shape, half=computes_in_half(spec))


def computes_in_half(spec: TrainingJobSpec) -> bool:
    """What training.precision will come to: Auto takes bf16 on accelerators, and here counts as fp32 on CPUs."""
    precision = spec.training.precision
    return precision == "BF16" or (precision == "Auto" and spec.resources.accelerator.count > 0)


def size_rows(spec: TrainingJobSpec, plan: Plan) -> list[tuple[str, str]]:
    """Lines of the plan about sizes; none while the model is not known."""
    memory = plan.memory_per_rank
    if memory is None:
        return []
    parts = [
        f"{name.replace('_', ' ')} {bytes_text(value)}"
        for name, value in memory
        if value and name not in ("total", "checkpoint_copy")
    ]
    number = "bf16" if computes_in_half(spec) else "fp32"
    place = "on the accelerator" if spec.resources.accelerator.count else "in its pod"
    rows = [
        ("model", f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters trained, in {number}"),
        (
            "memory",
            f"{bytes_text(memory.total)} per rank {place}, at rows of {spec.sequence_length} tokens",
        ),
        ("", ", ".join(parts)),
    ]
    if memory.checkpoint_copy:
        rows.append(
            ("", f"and {bytes_text(memory.checkpoint_copy)} per rank in the pod while a save is written")
        )
    rows.append(("checkpoint", f"{bytes_text(plan.checkpoint_bytes or 0)} each"))
    return rows
