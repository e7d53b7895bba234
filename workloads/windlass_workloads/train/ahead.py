"""The model that the warm parent builds before it forks ranks, so that none of them has to.

A rank forked later shares its pages until it writes to them, and begins where building would have ended: a restart in
place then costs neither reading nor assembling. Runs in the warm parent: one thread, no device, no collective.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from windlass.api.contract import RankContext
from windlass.api.jobs import TrainingJobSpec
from windlass.api.quantities import parse
from windlass_workloads.data.sources import Finder
from windlass_workloads.train import precision as precisions
from windlass_workloads.train.build import Built, build, weights_type
from windlass_workloads.train.model import LocalModel
from windlass_workloads.train.pin import pinned_model
from windlass_workloads.train.replicas import bit_sums

log = logging.getLogger(__name__)

MEMORY_SHARE: Final = 8
"""Weights that ranks write to stay in the parent as a copy: at most this part of the pod's memory."""
SYNCHRONOUS: Final = "HF_DEACTIVATE_ASYNC_LOAD"


@dataclass(frozen=True, slots=True)
class _Kept:
    key: str
    built: Built


_kept: _Kept | None = None


def build_ahead(context: RankContext, finder: Finder) -> bool:
    """Builds and keeps the model of this run; False where a rank will have to do it itself, which is always right."""
    global _kept
    spec = context.config.spec
    precision = precision_ahead(spec)
    if precision is None:
        return False
    local = pinned_model(context.config, finder)
    key = key_of(local, spec, precision)
    if _kept is not None and _kept.key == key:
        return True
    if not fits(local.directory, spec, weights_type(spec, precision)):
        return False
    with one_thread():
        built = build(local, spec, precision)
    if spec.parallelism.strategy == "DDP" and context.world_size > 1:
        built = replace(built, bit_sums=bit_sums(built.model))
    _kept = _Kept(key, built)
    return True


def take(local: LocalModel, spec: TrainingJobSpec, precision: str) -> Built | None:
    """What the parent built, if it is what this rank needs. It is the rank's own from here on."""
    global _kept
    kept, _kept = _kept, None
    return kept.built if kept is not None and kept.key == key_of(local, spec, precision) else None


def forget() -> None:
    """Keeps nothing any more."""
    global _kept
    _kept = None


def key_of(local: LocalModel, spec: TrainingJobSpec, precision: str) -> str:
    """Everything that decides the model: files, adapter, seed, how it is kept and run."""
    parts = {
        "digest": local.digest,
        "uri": local.uri,
        "adapter": spec.adapter.to_wire() if spec.adapter is not None else None,
        "seed": spec.training.seed,
        "recomputed": spec.training.activation_checkpointing,
        "type": str(weights_type(spec, precision)),
    }
    return json.dumps(parts, sort_keys=True)


def precision_ahead(spec: TrainingJobSpec) -> str | None:
    """The run's precision where no device has to be asked, which would make a context that must not be forked."""
    asked = spec.training.precision
    if spec.resources.accelerator.count:
        return None if asked == "Auto" else asked
    return precisions.choose(asked, precisions.hardware_of_cpu(precisions.processor_flags())).precision


def fits(directory: Path, spec: TrainingJobSpec, dtype: torch.dtype) -> bool:
    """Whether the parent can afford it. Frozen weights of DDP stay shared with all ranks and cost nothing more."""
    if spec.adapter is not None and spec.parallelism.strategy == "DDP":
        return True
    size = sum(map(elements, directory.glob("*.safetensors"))) * dtype.itemsize
    return bool(size * MEMORY_SHARE <= parse(spec.resources.per_node.memory))


def elements(path: Path) -> int:
    """Numbers in a safetensors file, by its header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps transformers from loading by a pool of threads, some of which may outlive the loading."""
    before = os.environ.get(SYNCHRONOUS)
    os.environ[SYNCHRONOUS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SYNCHRONOUS]
        else:
            os.environ[SYNCHRONOUS] = before
