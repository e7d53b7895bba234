"""`windlass logs NAME --failed`: the log's end of the rank that failed first, as the leader kept it in the store.

Called by `logs`. The pod that printed it may be long gone; the store is read where it is a directory of this machine,
else through a pod of the run, else through a short-lived one with the run's volumes. It must never change anything.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.api.kinds import KINDS
from windlass.api.meta import STORE_MOUNT
from windlass.cli import fetch
from windlass.cli.access import Access
from windlass.cli.errors import CliError
from windlass.core import names
from windlass.core.observed import Job

FOLDER = "logs"
NAME = re.compile(r"incarnation-(\d{8})-rank-(\d{1,5})\.log")
MARK = "kept "
# Base64 and a first word that is no JSON: the client's stream would turn JSON into Python's own notation.
READ = """
import base64, os, sys
where = sys.argv[1]
for name in sorted(os.listdir(where) if os.path.isdir(where) else []):
    if name.endswith(".log") and not name.startswith("."):
        with open(os.path.join(where, name), "rb") as log: text = log.read()
        print("kept", name, base64.b64encode(text).decode(), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept log of one rank: the life of the gang that it failed in, and its last lines."""

    incarnation: int
    rank: int
    lines: tuple[str, ...]


def failed_log(access: Access, body: dict[str, Any], rank: int | None) -> Kept:
    """The newest kept log, of one rank if given. Raises CliError."""
    job = Job.from_wire(body)
    if job.spec is None:
        raise CliError(f"{job.name}: its spec does not parse ({job.spec_error}). hint: `windlass validate`")
    directory = names.store_path(job.spec, namespace=job.namespace, name=job.name, uid=job.uid)
    inside = f"{directory.removeprefix(STORE_MOUNT).strip('/')}/{FOLDER}"
    found = [kept for kept in read(access, job, inside) if rank is None or kept.rank == rank]
    if not found:
        whose = "no rank" if rank is None else f"not rank {rank}"
        raise CliError(
            f"{job.name}: no log of a failed rank is kept in its store (so far {whose} failed first and left one). "
            f"hint: `windlass status {job.name}` lists recoveries with their evidence"
        )
    return max(found, key=lambda kept: kept.incarnation)


def read(access: Access, job: Job, inside: str) -> list[Kept]:
    """Kept logs in a directory of the store's claim, by the nearest way to it. Raises CliError."""
    if job.spec is None:
        return []
    claim = names.store_claim(job.spec)
    local = fetch.local_volume(access, claim)
    if local is not None:
        return read_local(local / inside)
    command = ["-c", READ, f"{STORE_MOUNT}/{inside}"]
    own = f"{KINDS[job.kind].short}/{job.name}"
    for pod in access.pods(own):
        if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None:
            python = pod.spec.containers[0].command[0]
            return parse(access.run_in(pod.metadata.name, [python, *command]).splitlines())
    with fetch.ReaderPod(access, own, claim) as (name, python):
        return parse(access.run_in(name, [python, *command]).splitlines())


def read_local(directory: Path) -> list[Kept]:
    """Kept logs in a directory of this machine; none where it is missing."""
    if not directory.is_dir():
        return []
    files = sorted(path for path in directory.iterdir() if NAME.fullmatch(path.name) and path.is_file())
    return [kept(path.name, path.read_bytes()) for path in files]


def parse(printed: Iterable[str]) -> list[Kept]:
    """Kept logs from what the program printed; other lines (warnings of an interpreter, say) are passed over."""
    found = []
    for line in printed:
        name, _, text = line.removeprefix(MARK).partition(" ")
        if not line.startswith(MARK) or not NAME.fullmatch(name):
            continue
        try:
            found.append(kept(name, base64.b64decode(text, validate=True)))
        except binascii.Error as problem:
            raise CliError(f"{name}: was damaged on the way. hint: try again") from problem
    return found


def kept(name: str, text: bytes) -> Kept:
    """One kept log from its file's name and content."""
    match = NAME.fullmatch(name)
    incarnation, rank = (int(match[1]), int(match[2])) if match else (0, 0)
    return Kept(incarnation, rank, tuple(text.decode(errors="replace").splitlines()))
