"""States of the random generators of one rank as tensors, so that loading one needs no unpickling.

Used by writer and reader. Must never draw a number itself.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

PYTHON_VERSION = 3


def key_of(rank: int) -> str:
    """Key of a rank's generators in a checkpoint."""
    return f"rank-{rank:05d}"


def capture() -> dict[str, Any]:
    """Generators of Python, numpy, torch and the rank's accelerator."""
    _, integers, gauss = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(integers, dtype=torch.int64),
        "numpy": torch.tensor(
            [*numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"], numpy_state["has_gauss"]],
            dtype=torch.int64,
        ),
        "gauss": torch.tensor(
            [math.nan if gauss is None else gauss, numpy_state["gauss"]],
            dtype=torch.float64,
        ),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def wake(names: Collection[str]) -> None:
    """Starts the accelerator where a checkpoint has its generator: a script may load before it first computes."""
    if "cuda" in names and torch.cuda.is_available():
        torch.cuda.init()


def restore(state: dict[str, Any]) -> None:
    """Puts the generators back to a captured state."""
    gauss_python, gauss_numpy = state["gauss"].tolist()
    torch.set_rng_state(state["torch"])
    gauss = None if math.isnan(gauss_python) else gauss_python
    random.setstate((PYTHON_VERSION, tuple(state["python"].tolist()), gauss))
    *key, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, has_gauss, gauss_numpy))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def derive(seed: int, step: int, rank: int) -> None:
    """Seeds the generators of a rank that the checkpoint does not know, the same way every time."""
    number = int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:4], "big")
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def file_of(rank: int) -> str:
    """File of a rank's generators beside an engine's own files."""
    return f"{key_of(rank)}.random.pt"


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes a captured state as a file of tensors."""
    torch.save(state, path)


def read(path: Path) -> dict[str, Any] | None:
    """A captured state, or None when there is no such file; only tensors are ever read."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state
