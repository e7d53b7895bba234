"""What a corpus is made of, held fast: which files, with which contents, and that nobody else makes the same meanwhile.

Called by `stages.make`. Contents are digested first and read later: files that are others by then, by size, time or
identity, would give a corpus under another's name, and are refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from windlass.api.meta import Reason
from windlass_workloads.corpus.read import Piece, Source, files_of, kind_of, pieces_of, refused, spelled
from windlass_workloads.corpus.tasks import UNFINISHED, write_json
from windlass_workloads.data.prepare import file_digest

STAMPS: Final = "files.json"
LOOK_SECONDS: Final = 0.2
"""How often who waits for another process looks whether that has ended."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """All files of all sources, as they were when they were digested."""

    sources: tuple[Source, ...]
    paths: tuple[tuple[Path, ...], ...]
    stamps: tuple[tuple[int, int, int], ...]
    name: str

    @classmethod
    def of(cls, sources: Sequence[Source], recipe: Json) -> Files:
        """The files, and a name that follows from the recipe, from what they are called and from what they hold."""
        paths = tuple(tuple(files_of(source)) for source in sources)
        stamps = tuple(stamp(path) for found in paths for path in found)
        files = [
            [
                spelled(source.path.name),
                [[called(path, source), *kind_of(path), file_digest(path)] for path in found],
            ]
            for source, found in zip(sources, paths, strict=True)
        ]
        facts = json.dumps({**recipe, "files": files}, sort_keys=True)
        return cls(tuple(sources), paths, stamps, hashlib.sha256(facts.encode()).hexdigest()[:20])

    def pieces(self, piece_bytes: int) -> list[Piece]:
        """The same files in pieces."""
        return pieces_of(self.sources, self.paths, piece_bytes)

    def begin(self, working: Path) -> None:
        """A directory for the stages. One of a run that may have read other contents is begun anew."""
        stamps = [list(each) for each in self.stamps]
        try:
            known = json.loads((working / STAMPS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if known != stamps:
            discard(working)
            working.mkdir(parents=True)
            write_json(working / STAMPS, stamps)

    def refuse_changes(self, working: Path) -> None:
        """DataUnreadable if a file is another by now; what was made of it goes."""
        every = [
            (source, path) for source, found in zip(self.sources, self.paths, strict=True) for path in found
        ]
        for (source, path), before in zip(every, self.stamps, strict=True):
            try:
                same = stamp(path) == before
            except OSError:
                same = False
            if not same:
                problem = f"{spelled(path.name)} changed while it was read"
                hint = "make the corpus again once nobody writes to it"
                discard(working)
                raise refused(source.field, Reason.DATA_UNREADABLE, problem, hint)


def stamp(path: Path) -> tuple[int, int, int]:
    """Size, time of the last change and identity of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def called(path: Path, source: Source) -> str:
    """What a file is called, within its source if that is a directory."""
    return spelled(path.name if path == source.path else str(path.relative_to(source.path)))


@contextmanager
def alone(lock: Path, check: Callable[[], None]) -> Iterator[None]:
    """Wait until no other process is within this; a process that ends, however it ends, is out of it."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(LOOK_SECONDS)
        yield
    finally:
        os.close(handle)


def discard(directory: Path) -> None:
    """Remove a directory; half of it never stands under its name."""
    if not directory.exists():
        return
    gone = directory.with_name(f"{UNFINISHED}{directory.name.lstrip('.')}.{secrets.token_hex(4)}")
    directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
