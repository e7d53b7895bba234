"""`windlass report [NAME] [-f FILE] [-o FILE]`: a run's life as one HTML file.

Called by `main`. The job comes from the cluster, or with -f from a file (`kubectl get ftj NAME -o yaml`). It must
write a whole file or none.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windlass.api.kinds import KINDS
from windlass.cli import documents, page
from windlass.cli.access import Access, bare, kinds_of
from windlass.cli.errors import CliError


def report_command(options: argparse.Namespace, connect: Callable[[], Access]) -> int:
    """Write the page and say where it is."""
    if options.file is None and options.name is None:
        raise CliError("NAME: is missing. hint: name a job, or give its YAML by -f", status=2)
    job = from_file(options.file, options.name) if options.file else connect().job(options.name)
    text = page.render(job)
    if options.output == "-":
        sys.stdout.write(text)
        return 0
    target = Path(options.output or f"{job['metadata']['name']}.html")
    write(target, text)
    print(f"written: {target}")
    return 0


def from_file(path: str, name: str | None) -> dict[str, Any]:
    """The job in a file: the named one (of a kind too, as `ptj/web`), or the only one. Raises CliError."""
    found = [job for source in documents.read([path]) for job in jobs_in(source.document)]
    chosen = found if name is None else [job for job in found if is_named(job, name)]
    if len(chosen) != 1:
        names = ", ".join(spelled(job, found) for job in found) or "none"
        wanted = f"one job named {name}" if name else "one job"
        raise CliError(
            f"-f: {path} holds not just {wanted} (there: {names}); allowed: a job with its status. "
            "hint: `kubectl get ftj NAME -o yaml > run.yaml`, and name the job where a file has several",
            status=2,
        )
    return chosen[0]


def is_named(job: dict[str, Any], name: str) -> bool:
    """Whether a job has a name, and the kind that may stand before it."""
    return job["metadata"]["name"] == bare(name) and KINDS[job["kind"]] in kinds_of(name)


def spelled(job: dict[str, Any], among: list[dict[str, Any]]) -> str:
    """A job's name, with its kind where another kind has one of that name."""
    name = str(job["metadata"]["name"])
    is_only = all(one["kind"] == job["kind"] for one in among if one["metadata"]["name"] == name)
    return name if is_only else f"{KINDS[job['kind']].short}/{name}"


def jobs_in(document: Any) -> list[dict[str, Any]]:
    """Jobs with a name in a document, which may be a List."""
    if not isinstance(document, dict):
        return []
    if isinstance(document.get("items"), list):
        return [job for item in document["items"] for job in jobs_in(item)]
    metadata = document.get("metadata")
    named = isinstance(metadata, dict) and isinstance(metadata.get("name"), str) and metadata["name"] != ""
    return [document] if document.get("kind") in KINDS and named else []


def write(target: Path, text: str) -> None:
    """Replace the file in one step. Raises CliError."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(target)
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise CliError(
            f"-o: cannot be written (got {target}: {problem.strerror or problem}); allowed: a file in a directory that "
            "is there. hint: choose another place",
            status=2,
        ) from problem
