"""A disk that dies or fails at its n-th operation, and one that writes down what was made durable when.

Works on the functions of the operating system that this project and the libraries under it use, for paths below one
directory. A dead disk answers nothing more: what would run after a kill does not run here either.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

CHANGES = ("mkdir", "rmdir", "unlink", "rename", "replace", "link")
"""Functions of os that change names; the first argument is a path, or a name beside `dir_fd`."""


class Killed(BaseException):
    """The process has ended; nothing of it runs on."""


class Disk:
    """Counts changing operations below `root`, and dies (`die_at`) or fails (`fail_at`) at one of them, from 1."""

    def __init__(
        self, root: Path, *, die_at: int | None = None, fail_at: int | None = None, number: int = errno.ENOSPC
    ) -> None:
        self.root = str(root)
        self.die_at, self.fail_at, self.number = die_at, fail_at, number
        self.count = 0
        self.dead = False
        self.log: list[tuple[str, str]] = []
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Disk:
        for name in CHANGES:
            self._wrap(os, name, self._changes)
        self._wrap(os, "open", self._opens)
        self._wrap(os, "write", self._writes)
        self._wrap(os, "fsync", self._writes)
        self._wrap(io, "open", self._opens_stream)
        self._wrap(builtins, "open", self._opens_stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, name, original in reversed(self._kept):
            setattr(module, name, original)
        self._kept.clear()

    def _wrap(self, module: Any, name: str, make: Callable[[str, Any], Any]) -> None:
        original = getattr(module, name)
        self._kept.append((module, name, original))
        setattr(module, name, make(name, original))

    def operation(self, what: str, path: str) -> None:
        """One operation is about to happen."""
        if self.dead:
            raise Killed
        self.count += 1
        self.log.append((what, os.path.relpath(path, self.root)))
        if self.count == self.die_at:
            self.dead = True
            raise Killed
        if self.count == self.fail_at:
            raise OSError(self.number, os.strerror(self.number), path)

    def _mine(self, path: Any) -> bool:
        try:
            return os.fspath(path).startswith(self.root)
        except TypeError:
            return False

    def _path_of(self, descriptor: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return ""

    def _changes(self, name: str, original: Any) -> Any:
        def changed(path: Any, *more: Any, **options: Any) -> Any:
            where = path
            folder = options.get("dir_fd")
            if folder is not None:
                where = os.path.join(self._path_of(folder), os.fspath(path))
            if self._mine(where):
                self.operation(name, os.fspath(where))
            return original(path, *more, **options)

        return changed

    def _opens(self, name: str, original: Any) -> Any:
        def opened(path: Any, flags: int, *more: Any, **options: Any) -> Any:
            if self._mine(path) and flags & os.O_CREAT:
                self.operation("create", os.fspath(path))
            elif self._mine(path) and self.dead:
                raise Killed
            return original(path, flags, *more, **options)

        return opened

    def _writes(self, name: str, original: Any) -> Any:
        def written(descriptor: int, *more: Any) -> Any:
            path = self._path_of(descriptor)
            if self._mine(path):
                self.operation(name, path)
            return original(descriptor, *more)

        return written

    def _opens_stream(self, name: str, original: Any) -> Any:
        def opened(path: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            if self._mine(path) and set(mode) & set("wax+"):
                self.operation("create", os.fspath(path))
            elif self._mine(path) and self.dead:
                raise Killed
            return original(path, mode, *more, **options)

        return opened
