"""What the training loop hands to saves and loads, and what it gets back. No torch at import.

Implemented by state.ReplicatedState (DDP), state.TorchState (FSDP) and deepspeed.DeepSpeedState. Must never
know how bytes reach the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from windlass.api.contract import RankEvent
from windlass.api.status import CheckpointRecord


class Channel(Protocol):
    """Where a rank's events go; the agent's RankChannel, or a list in tests."""

    def send(self, event: RankEvent) -> None:
        """Passes one event on; never raises."""


class StateAdapter(Protocol):
    """State of a run that torch.distributed.checkpoint can write (format DCP)."""

    strategy: str
    format: Literal["DCP", "DeepSpeed"]

    def state_dict(self) -> dict[str, Any]:
        """What is saved: nested, of this rank's live tensors, DTensors, EndToEnds and plain values; not copied."""

    def by_name(self) -> dict[str, Any]:
        """Live tensors by name, for a checkpoint that was saved so to be loaded into."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `by_name`, already filled with what the checkpoint holds."""

    def load_flat(self, state: dict[str, Any]) -> None:
        """Takes over what was saved in the form of `flat`."""


class DirectoryAdapter(Protocol):
    """State of an engine that writes and reads its own files (format DeepSpeed); it blocks."""

    strategy: str
    format: Literal["DCP", "DeepSpeed"]

    def save_directory(self, directory: Path) -> None:
        """Collective: every rank writes its files below the directory."""

    def load_directory(self, directory: Path) -> None:
        """Collective: every rank reads what save_directory wrote with the same number of ranks."""

    def load_universal(self, directory: Path) -> None:
        """Collective: every rank reads its part of the universal copy, which any number of ranks can load."""

    def owner_of(self, path: str) -> int:
        """Rank that hashes a file, given relative to the directory."""


@dataclass(frozen=True, slots=True)
class SaveFacts:
    """What the manifest says about the run beside what the context holds."""

    data_digest: str | None = None
    model_digest: str | None = None
    precision: str = "FP32"
    skipped_windows: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SaveNotes:
    """What the manifest says about the moment of a save."""

    validation_loss: float | None = None
    recent_losses: tuple[float, ...] = ()
    suspect_losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SaveResult:
    """How the last save ended, the same on every rank: a record or a problem."""

    step: int
    record: CheckpointRecord | None = None
    problem: str | None = None
    fenced_by: int | None = None
