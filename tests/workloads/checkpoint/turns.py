"""Actors that share a store and take turns: one store operation each, in any order, with crashes between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from windlass_workloads.checkpoint.store import RunStore


class Killed(BaseException):
    """The actor's process has died."""


class Actor:
    """Runs a function in a thread that stops before each of its store operations."""

    def __init__(self, root: Path, body: Callable[[TurnStore], None]) -> None:
        self.finished = False
        self.error: BaseException | None = None
        self.next = "start"
        self._killed = False
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._body = body
        self._store = TurnStore(root, self)
        threading.Thread(target=self._run, daemon=True).start()

    def turn(self) -> None:
        """Lets it do one operation (or end)."""
        if not self.finished:
            self._go.release()
            self._done.acquire()

    def kill(self) -> None:
        """It never does another operation."""
        self._killed = True
        self.turn()

    def stop(self, operation: str) -> None:
        """Called in the actor's thread, before each operation."""
        self.next = operation
        self._done.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._killed:
                self._body(self._store)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.finished = True
        self._done.release()


class TurnStore(RunStore):
    """A store whose operations wait for their turn."""

    def __init__(self, root: Path, actor: Actor) -> None:
        super().__init__(root)
        self.actor = actor

    def names(self, folder: str) -> list[str]:
        self.actor.stop("names")
        return super().names(folder)

    def read(self, relative: str) -> bytes | None:
        self.actor.stop("read")
        return super().read(relative)

    def exists(self, relative: str) -> bool:
        self.actor.stop("exists")
        return super().exists(relative)

    def create(self, relative: str, data: bytes, *, mode: int = 0o640) -> bool:
        self.actor.stop("create")
        return super().create(relative, data, mode=mode)

    def move(self, source: str, target: str) -> bool:
        self.actor.stop("move")
        return super().move(source, target)

    def make(self, relative: str) -> Path:
        self.actor.stop("make")
        return super().make(relative)

    def remove(self, relative: str) -> None:
        self.actor.stop("remove")
        super().remove(relative)
