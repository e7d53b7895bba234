"""Settings that no tensor tells and a checkpoint's meaning depends on, as each incarnation file keeps them.

`claims` writes them, `adopt` compares those of two runs. Texts of JSON, so that an older release carries what it does
not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from windlass.api.jobs import TrainingJobSpec
from windlass.api.training import LORA_RANK


def recipe(spec: TrainingJobSpec) -> dict[str, str]:
    """The settings of a run by their place in the spec; none for a command of the user's own.

    Equal settings are equal texts, however they were written: defaults filled in, numbers in their shortest form.
    """
    if spec.custom is not None:
        return {}
    adapter: dict[str, Any] = {"type": "None"}
    if spec.adapter is not None:
        adapter = {"type": spec.adapter.type, "targetModules": sorted(spec.adapter.target_modules)}
    if spec.adapter is not None and spec.adapter.type == "LoRA":
        rank = spec.adapter.rank or LORA_RANK
        adapter |= {"rank": rank, "alpha": spec.adapter.alpha or 2 * rank}
    chosen = spec.training.optimizer
    numbers = {
        "weightDecay": chosen.weight_decay,
        "beta1": chosen.beta1,
        "beta2": chosen.beta2,
        "epsilon": chosen.epsilon,
    }
    optimizer = {"type": chosen.type} | {name: float(value) for name, value in numbers.items()}
    return {
        "adapter": json.dumps(adapter, sort_keys=True),
        "training.optimizer": json.dumps(optimizer, sort_keys=True),
    }


def differences(saved: Mapping[str, Any], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Place, saved text and present text of what differs. What only one of two releases knows is not compared."""
    for name, text in now.items():
        before = json.loads(saved.get(name, text))
        wanted = json.loads(text)
        if any(before[key] != wanted[key] for key in before.keys() & wanted.keys()):
            yield name, saved[name], text
