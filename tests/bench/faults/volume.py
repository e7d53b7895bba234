"""The volume of the checkpoint store: a tmpfs of this process's own, that can be full or read-only for a while."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

NEW_MOUNTS = 0x00020000
READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 1, 1 << 5, 1 << 14, 1 << 18
MEGABYTES = 2048
BUSY_SECONDS = 5.0


def libc() -> ctypes.CDLL:
    """The C library, with errno kept."""
    return ctypes.CDLL(None, use_errno=True)


def own_mounts() -> bool:
    """From here on mounts of this process and its children are nobody else's; False without the right to that."""
    if libc().unshare(NEW_MOUNTS) != 0:
        return False
    return bool(libc().mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) == 0)


class Volume:
    """A mounted tmpfs. It ends with the last process that sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self._mount(0, f"size={MEGABYTES}m")

    def fill(self) -> None:
        """Leaves no byte free: the limit becomes what is in use."""
        deadline = time.monotonic() + BUSY_SECONDS
        while not self._try(REMOUNT, f"size={self._used()}"):
            # Somebody has written in between.
            if time.monotonic() > deadline:
                raise OSError(ctypes.get_errno(), f"{self.path}: not filled")

    def free(self) -> None:
        """The limit is as it was."""
        self._mount(REMOUNT, f"size={MEGABYTES}m")

    def freeze(self) -> None:
        """Read-only, as soon as no file is open for writing."""
        deadline = time.monotonic() + BUSY_SECONDS
        while not self._try(REMOUNT | READ_ONLY, f"size={MEGABYTES}m"):
            if time.monotonic() > deadline:
                raise OSError(ctypes.get_errno(), f"{self.path}: always busy")
            time.sleep(0.001)

    def close(self) -> None:
        """Detached, whoever still looks at it."""
        libc().umount2(str(self.path).encode(), 2)

    def _used(self) -> int:
        found = os.statvfs(self.path)
        return max(1, found.f_blocks - found.f_bfree) * found.f_frsize

    def _mount(self, flags: int, options: str) -> None:
        if not self._try(flags, options):
            raise OSError(ctypes.get_errno(), f"{self.path}: not mounted with {options}")

    def _try(self, flags: int, options: str) -> bool:
        where = str(self.path).encode()
        return bool(libc().mount(b"tmpfs", where, b"tmpfs", flags, options.encode()) == 0)
