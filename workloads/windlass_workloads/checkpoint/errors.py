"""What can go wrong with checkpoints, as exceptions with texts for the user.

Raised by this package, turned into a Failure by ranks and agents. Must never hide the evidence.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from windlass.core.failure.evidence import OUT_OF_MEMORY

STORE_FIELD = "spec.checkpoint.store"
FALL_BACK = "the run falls back to the next verified checkpoint by itself; check the volume for errors"


class CheckpointError(Exception):
    """Base of all errors of this package."""


class StoreUnusable(CheckpointError):
    """The store cannot hold checkpoints safely, or holds something unreadable."""


class Fenced(CheckpointError):
    """A newer incarnation exists: whoever gets this must stop writing."""

    def __init__(self, *, mine: int, newest: int, action: str) -> None:
        super().__init__(f"fenced: incarnation {mine} may not {action}, incarnation {newest} has taken over")
        self.mine = mine
        self.newest = newest


class SaveError(CheckpointError):
    """A save failed; the last committed checkpoint is untouched. `full` when space was the reason."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class CheckpointUnusable(CheckpointError):
    """A checkpoint cannot be loaded. `evidence` holds at most 8 lines, `hint` the next step."""

    def __init__(self, name: str, message: str, *, hint: str, evidence: Sequence[str] = ()) -> None:
        super().__init__(f"checkpoint {name}: {message}. hint: {hint}")
        self.name = name
        self.message = message
        self.hint = hint
        self.evidence = tuple(evidence[:8])


class TooLittleMemory(MemoryError):
    """There is too little memory to load or convert a checkpoint, which is not to blame. `hint` is the next step."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory; torch has only words for that on a CPU."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"))


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that the volume has no space left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def full_text(where: str) -> str:
    """Text for a volume without space; `where` is what was being written."""
    return (
        f"{STORE_FIELD}: the volume is full (got ENOSPC writing {where}); allowed any size that holds "
        "keepLast + 1 checkpoints. hint: enlarge the claim or lower spec.checkpoint.keepLast; training "
        "goes on and the last committed checkpoint is kept."
    )
