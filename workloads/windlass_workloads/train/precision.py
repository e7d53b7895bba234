"""Which number format a run computes in, and why.

bf16 without hardware support was measured 30 times slower than fp32, so `Auto` looks at the processor. The choice
and its reason go into the plan; nothing is degraded silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from windlass.api.meta import Reason
from windlass_workloads.data.errors import WorkloadError

Precision = Literal["BF16", "FP32"]
CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True, slots=True)
class Choice:
    """The format, the reason, and a warning when the user's choice will be slow."""

    precision: Precision
    reason: str
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What decides: kind of device, its name, whether it computes bf16 fast."""

    kind: Literal["cpu", "cuda"]
    name: str
    fast_bf16: bool


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Flags of the first processor; empty where the file is missing or has none."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def choose(asked: Literal["Auto", "BF16", "FP32"], hardware: Hardware) -> Choice:
    """The format for what was asked; PrecisionUnsupported where the device cannot compute it."""
    if asked == "FP32":
        return Choice("FP32", "asked for by training.precision")
    if asked == "BF16" and hardware.fast_bf16:
        return Choice("BF16", "asked for by training.precision")
    if asked == "BF16" and hardware.kind == "cuda":
        raise WorkloadError(
            Reason.PRECISION_UNSUPPORTED,
            f"spec.training.precision: {hardware.name} has no bf16 (got BF16); allowed Auto, FP32.",
            hint="use Auto or FP32, or a device of compute capability 8.0 or newer.",
        )
    if asked == "BF16":
        warning = (
            "spec.training.precision: this processor emulates bf16, which can be many times slower than fp32 "
            f"(got BF16; no {' or '.join(sorted(CPU_FLAGS))}). hint: use Auto"
        )
        return Choice("BF16", "asked for by training.precision", warning)
    if hardware.fast_bf16:
        return Choice("BF16", f"Auto: {hardware.name} computes bf16 in hardware")
    return Choice("FP32", f"Auto: {hardware.name} has no bf16 hardware")


def hardware_of_cpu(flags: frozenset[str]) -> Hardware:
    """A CPU by its flags."""
    found = sorted(flags & CPU_FLAGS)
    return Hardware("cpu", f"CPU with {' and '.join(found)}" if found else "CPU", bool(found))
