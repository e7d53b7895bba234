"""The directory of one run: its layout and the few operations that everything else is made of.

Used by agents (no torch) and ranks. Each operation is atomic and durable: after a crash between any
two of them the store is as before the second. Must never follow a path out of its root.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from windlass_workloads.checkpoint.errors import STORE_FIELD, StoreUnusable

INCARNATIONS: Final = "incarnations"
PREPARED: Final = "prepared"
MODEL: Final = "model.json"
INITIAL: Final = "initial"
CORPORA: Final = "corpora.windlass"
TRASH: Final = "trash"
OUTPUT: Final = "output"
LOGS: Final = "logs"
GANG_KEY: Final = "gang.key"
TIMELINE: Final = "timeline.jsonl"
TRACKING: Final = "tracking.json"
METRICS_SPOOL: Final = "metrics-spool.jsonl"
MANIFEST: Final = "manifest.json"

TEMPORARY: Final = ".tmp-"
CHECKPOINT: Final = re.compile(r"step-([0-9]{8,12})\.i([0-9]{1,8})")


def corpora_of(run: Path) -> Path:
    """Where the runs of a store keep the corpora that they share: beside the directories of namespaces.

    A namespace's name has no dot.
    """
    return run.parents[2] / CORPORA


def checkpoint_name(step: int, incarnation: int) -> str:
    """Directory name of the checkpoint that `incarnation` makes of `step`."""
    return f"step-{step:08d}.i{incarnation}"


def parse_checkpoint_name(name: str) -> tuple[int, int] | None:
    """(step, incarnation) of a checkpoint directory's name, or None for any other name."""
    match = CHECKPOINT.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def check_relative(path: str) -> str:
    """The path if it stays inside its directory; ValueError for `..`, absolute or odd ones."""
    parts = PurePosixPath(path).parts
    plain = (
        bool(parts) and ".." not in parts and not path.startswith("/") and str(PurePosixPath(path)) == path
    )
    if not plain or path == "." or "\\" in path or any(ord(letter) < 32 for letter in path):
        raise ValueError(
            f"path: leaves its directory or is not plain (got {path!r}); allowed a relative path"
        )
    return path


class RunStore:
    """One run's directory. Paths given to its methods are relative to the root, with `/`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def path(self, relative: str) -> Path:
        """Absolute path of a relative one; ValueError when it would leave the store."""
        return self.root / check_relative(relative)

    def list_checkpoints(self) -> list[str]:
        """Names of all checkpoint directories, complete or not, newest (step, incarnation) first."""
        known = [(key, name) for name in self.names("") if (key := parse_checkpoint_name(name)) is not None]
        return [name for _, name in sorted(known, reverse=True)]

    # --- primitives: everything in this package that touches shared state goes through these ------

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder (`""` is the root), without temporary files; empty when missing."""
        try:
            found = os.listdir(self.path(folder) if folder else self.root)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(TEMPORARY))

    def read(self, relative: str) -> bytes | None:
        """Content of a file, or None when it does not exist."""
        try:
            return self.path(relative).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, relative: str) -> bool:
        """Whether a file or directory is there; a symbolic link is not."""
        try:
            return not stat.S_ISLNK(os.lstat(self.path(relative)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def write(self, relative: str, data: bytes, *, mode: int = 0o640) -> None:
        """Replaces a file as a whole: readers see the old content or the new, also after a crash."""
        target = self.path(relative)
        with self._temporary(target, data, mode) as temporary:
            os.replace(temporary, target)
        sync_directory(target.parent)

    def create(self, relative: str, data: bytes, *, mode: int = 0o640) -> bool:
        """Makes a file with its whole content, only if it is not there yet; False when it is."""
        target = self.path(relative)
        with self._temporary(target, data, mode) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A network file system may answer a repeated request for a link that it has made.
                if os.stat(temporary).st_nlink != 2:
                    return False
        sync_directory(target.parent)
        return True

    def move(self, source: str, target: str) -> bool:
        """Renames a file or directory; False when the source is gone or the target is there."""
        old, new = self.path(source), self.path(target)
        new.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(new):
            return False
        try:
            os.rename(old, new)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        sync_directory(new.parent)
        sync_directory(old.parent)
        return True

    def remove(self, relative: str) -> None:
        """Deletes a file or a whole directory; nothing happens when it is gone."""
        target = self.path(relative)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    # --- helpers on top ---------------------------------------------------------------------------

    def make(self, relative: str) -> Path:
        """Makes a directory (and its parents) and returns its absolute path."""
        path = self.path(relative)
        path.mkdir(parents=True, exist_ok=True)
        sync_directory(path.parent)
        return path

    def append_line(self, relative: str, row: Mapping[str, object]) -> None:
        """Adds one JSON line to a file; a line torn by a crash stays by itself, for the reader to skip."""
        path = self.path(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(row, separators=(",", ":")) + "\n").encode()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            view = memoryview(b"\n" + line if torn else line)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)

    def read_lines(self, relative: str) -> list[dict[str, object]]:
        """Rows of a JSON-lines file; lines that do not parse are left out."""
        rows: list[dict[str, object]] = []
        for line in (self.read(relative) or b"").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
        return rows

    def probe(self) -> None:
        """Makes the layout and proves that exclusive create works; StoreUnusable says what does not."""
        relative = f"probe-{uuid.uuid4().hex}"
        try:
            for folder in (INCARNATIONS, TRASH):
                self.make(folder)
            first = self.create(relative, b"first")
            second = self.create(relative, b"second")
            content = self.read(relative)
        except OSError as error:
            raise StoreUnusable(
                f"{STORE_FIELD}: the store cannot be used (got {error}); allowed a writable file system "
                "with hard links. hint: check the claim's access mode, free space and the pod's fsGroup."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                self.remove(relative)
        if not first or second or content != b"first":
            raise StoreUnusable(
                f"{STORE_FIELD}: the store does not honour exclusive create (got created twice: {second}); "
                "allowed a file system where making an existing file fails. hint: use another storage class."
            )

    @contextlib.contextmanager
    def _temporary(self, target: Path, data: bytes, mode: int) -> Iterator[Path]:
        """A durable file with this content beside the target, removed at the end if still there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable; file systems that cannot are left as they are."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
