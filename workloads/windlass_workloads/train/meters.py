"""Speed and efficiency of training, counted rather than guessed.

FLOPs are those of matrix products: 2 per weight and token forward, 2 for gradients of inputs, 2 for gradients of
trained weights, and dense (not halved) attention. MFU leaves recomputation out, HFU counts it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

# Dense bf16 peaks in FLOP/s by a part of the device's name, more special names first.
PEAKS = (
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A10G", 70e12),
)


def peak_of(device_name: str) -> float | None:
    """Peak FLOP/s of an accelerator, None when it is not in the table (a CPU never is)."""
    return next((peak for part, peak in PEAKS if part in device_name), None)


@dataclass(frozen=True, slots=True)
class Work:
    """What decides the FLOPs of a model: weights in matrix products, the trained among them, attention's shape."""

    weights: int
    trained: int
    layers: int
    width: int
    recomputed: bool

    def flops(self, tokens: int, squares: int) -> float:
        """Model FLOPs for sequences with `tokens` in all and `squares` as the sum of their squared lengths."""
        passes = 2 * (2 * self.weights) + 2 * self.trained
        return float(passes) * tokens + 12.0 * self.layers * self.width * squares

    def hardware_flops(self, tokens: int, squares: int) -> float:
        """Like flops, with the second forward of activation checkpointing."""
        again = 2.0 * self.weights * tokens + 4.0 * self.layers * self.width * squares
        return self.flops(tokens, squares) + (again if self.recomputed else 0.0)


def count_parameters(model: Any) -> tuple[int, int]:
    """All parameters and the trained ones."""
    parameters = list(model.parameters())
    return sum(each.numel() for each in parameters), sum(
        each.numel() for each in parameters if each.requires_grad
    )


def work_of(model: Any, *, recomputed: bool) -> Work:
    """Counts a model. A look-up of embeddings is no product, unless the same weights serve as output head."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    weights, trained = count_parameters(model)
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or head.weight is not table.weight:
        weights -= table.weight.numel()
    config = getattr(base.config, "get_text_config", lambda: base.config)()
    return Work(
        weights=weights,
        trained=trained,
        layers=int(getattr(config, "num_hidden_layers", 0)),
        width=int(getattr(config, "hidden_size", 0)),
        recomputed=recomputed,
    )


@dataclass(slots=True)
class StepTimer:
    """Seconds of one step, the part spent waiting for data, and the rank's own before it met the others."""

    started: float = field(default_factory=time.perf_counter)
    data_wait: float = 0.0
    own: float | None = None

    def wait_over(self, since: float) -> None:
        """Data were waited for since then."""
        self.data_wait += time.perf_counter() - since

    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self.started
