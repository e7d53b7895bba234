"""Reads manifests from files or standard input for the offline commands.

Used by validate, plan and render. It says which file and document a problem is in, and must never contact
a cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from windlass.cli.errors import CliError

STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """One document and where it was read."""

    place: str
    document: Any


def read(paths: Sequence[str]) -> list[Source]:
    """All documents of the files, in order; `-` is standard input, a directory means its YAML files."""
    found = [source for path in _expand(paths) for source in _read_one(path)]
    if not found:
        raise CliError(
            f"-f: holds no document (got {', '.join(paths)}); allowed: YAML. hint: check the file", status=2
        )
    return found


def _expand(paths: Sequence[str]) -> list[str]:
    expanded: list[str] = []
    for path in paths:
        if path != STANDARD_INPUT and Path(path).is_dir():
            inside = sorted(Path(path).iterdir())
            expanded += [str(item) for item in inside if item.suffix in (".yaml", ".yml", ".json")]
        else:
            expanded.append(path)
    return expanded


def _read_one(path: str) -> list[Source]:
    try:
        text = sys.stdin.read() if path == STANDARD_INPUT else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise CliError(
            f"-f: cannot be read (got {path}: {problem}); allowed: a readable YAML file", status=2
        ) from problem
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as problem:
        detail = " ".join(str(problem).split())
        raise CliError(
            f"{path}: is not YAML ({detail}). hint: check indentation and quotes there", status=2
        ) from problem
    places = [path if len(documents) == 1 else f"{path}[{number}]" for number in range(len(documents))]
    return [
        Source(place, document)
        for place, document in zip(places, documents, strict=True)
        if document is not None
    ]
