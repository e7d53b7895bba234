"""Files that are hashed while they are written, for torch.distributed.checkpoint.

Used by the writer. The digest is of the bytes that were meant, not of what is read back. Must never
swallow an error of the file system.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem

from windlass.api.contract import FileEntry
from windlass_workloads.checkpoint.manifest import hash_file
from windlass_workloads.checkpoint.store import sync_directory

OpenFile = Callable[[Path, str], IO[bytes]]


def open_file(path: Path, mode: str) -> IO[bytes]:
    """The ordinary opener; tests pass one with a quota."""
    return path.open(mode)


class HashingStream(io.IOBase):
    """Passes writes on to a file and digests them; positions only grow."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.digest = xxhash.xxh3_128()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all of the data."""
        view = memoryview(data).cast("B")
        try:
            self.raw.write(view)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def writable(self) -> bool:
        """Always."""
        return True

    def flush(self) -> None:
        """Hands buffered bytes to the operating system."""
        if not self.raw.closed:
            self.raw.flush()

    def fileno(self) -> int:
        """Descriptor of the file, for fsync."""
        return self.raw.fileno()


class HashingFileSystem(FileSystem):  # type: ignore[misc]
    """A local file system that remembers size and digest of what was written through it."""

    def __init__(self, root: Path, opener: OpenFile = open_file) -> None:
        super().__init__()
        self.root = root
        self.opener = opener
        self.entries: dict[str, FileEntry] = {}
        self.error: OSError | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """Opens a file for writing; its entry is complete when the block ends without an error."""
        with self.opener(Path(path), mode) as raw:
            stream = HashingStream(raw)
            try:
                yield stream
                stream.flush()
            except OSError as error:
                self.error = self.error or error
                raise
            finally:
                self.error = self.error or stream.error
        relative = Path(path).relative_to(self.root).as_posix()
        self.entries[relative] = FileEntry(path=relative, size=stream.size, xxh3=stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Renames a file together with its entry."""
        super().rename(path, new_path)
        old, new = (Path(each).relative_to(self.root).as_posix() for each in (path, new_path))
        if (entry := self.entries.pop(old, None)) is not None:
            self.entries[new] = entry.model_copy(update={"path": new})


class HashingWriter(FileSystemWriter):  # type: ignore[misc]
    """Writer of torch.distributed.checkpoint with one durable, hashed file per rank."""

    def __init__(self, directory: Path, opener: OpenFile = open_file) -> None:
        super().__init__(directory, single_file_per_rank=True, sync_files=True, thread_count=1)
        self.hashing = HashingFileSystem(directory, opener)
        self.fs = self.hashing

    def entries(self) -> list[FileEntry]:
        """What this rank wrote."""
        return list(self.hashing.entries.values())


def hash_written(directory: Path, mine: Callable[[str], bool]) -> list[FileEntry]:
    """Entries of the files below a directory that `mine` picks, after making them durable."""
    entries: list[FileEntry] = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_dir():
            sync_directory(path)
        elif mine(relative):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            entries.append(FileEntry(path=relative, size=path.stat().st_size, xxh3=hash_file(path)))
    return entries
