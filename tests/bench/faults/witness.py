"""What stands between a rank and its agent: it writes each loss down in full, keeps a pace, and takes orders.

`order-RANK` in the witness's folder says what is to happen after the rank's next step. Orders about disks work on this
rank's own calls to the operating system.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from windlass.api.contract import RankContext, RankEvent
from windlass_workloads.agent.channel import RankChannel
from workloads.checkpoint.faulty import Disk

WITNESS, PACE = "BENCH_WITNESS", "BENCH_STEP_SECONDS"
LOSSES, HIT = "losses.jsonl", "hit"


class Witness:
    """A rank's channel."""

    def __init__(self, context: RankContext, channel: RankChannel) -> None:
        self.context = context
        self.channel = channel
        self.folder = Path(os.environ[WITNESS])
        self.pace = float(os.environ.get(PACE, "0"))
        self.losses = os.open(self.folder / LOSSES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def save_requested(self) -> bool:
        """As the agent's channel says."""
        return self.channel.save_requested

    def send(self, event: RankEvent) -> None:
        """Passes an event on; after a step it is time for orders."""
        self.channel.send(event)
        if event.type != "Step":
            return
        if self.context.rank == 0 and event.loss is not None:
            row = {"incarnation": self.context.incarnation, "step": event.step, "loss": event.loss.hex()}
            os.write(self.losses, (json.dumps(row) + "\n").encode())
        order = self.folder / f"order-{self.context.rank}"
        with contextlib.suppress(FileNotFoundError):
            text = order.read_text()
            order.unlink()
            self.obey(text.split())
        time.sleep(self.pace)

    def obey(self, words: list[str]) -> None:
        """Does what an order says."""
        match words:
            case ["exit", code]:
                os._exit(int(code))
            case ["raise", "MemoryError"]:
                raise MemoryError
            case ["raise", "OSError"]:
                raise OSError(errno.EIO, os.strerror(errno.EIO), self.context.config.store_path)
            case ["raise", *text]:
                raise RuntimeError(" ".join(text))
            case ["disk-fails", number, place]:
                self.spoil(number=int(number), place=int(place))
            case ["disk-kills", place]:
                self.spoil(number=0, place=int(place))
            case _:
                raise ValueError(f"order: not understood (got {words})")

    def spoil(self, *, number: int, place: int) -> None:
        """From here on the `place`-th change of the store fails with an error, or kills this rank (number 0)."""
        SpoiltDisk(Path(self.context.config.store_path), self.folder / HIT, number, place).__enter__()


class SpoiltDisk(Disk):
    """Tells that it has struck, so that nobody waits for a fault that is still to come."""

    def __init__(self, root: Path, told: Path, number: int, place: int) -> None:
        super().__init__(root, fail_at=place, number=number)
        self.told = told

    def operation(self, what: str, path: str) -> None:
        """One operation is about to happen."""
        if self.count + 1 == self.fail_at:
            self.told.write_text(f"{what} {os.path.basename(path)}")
            if not self.number:
                os.kill(os.getpid(), signal.SIGKILL)
        super().operation(what, path)


def read_losses(folder: Path) -> list[dict[str, Any]]:
    """What the witnesses wrote down; a torn last line is left out."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / LOSSES).read_text().split("\n")[:-1]]
    return []
