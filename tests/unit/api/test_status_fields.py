"""Status promises nothing that nobody fills in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from windlass.api.status import JobStatus

ROOT = Path(__file__).resolve().parents[3]
WRITERS = ("operator/windlass/core", "operator/windlass/shell", "workloads/windlass_workloads")
SOURCE = "\n".join(path.read_text() for root in WRITERS for path in sorted((ROOT / root).rglob("*.py")))


def models(annotation: object) -> Iterator[type[BaseModel]]:
    """Models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def fields(model: type[BaseModel], path: str = "status", seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Dotted paths of all fields below a model."""
    for name, field in model.model_fields.items():
        yield f"{path}.{name}"
        for inner in models(field.annotation):
            if inner.__name__ not in seen:
                yield from fields(inner, f"{path}.{name}", seen | {inner.__name__})


@pytest.mark.parametrize("path", sorted(fields(JobStatus)))
def test_every_field_of_status_is_written_by_somebody(path: str) -> None:
    """As a keyword argument or as a key of an update."""
    name = path.rsplit(".", 1)[1]
    assert re.search(rf"\b{name}=[^=]|\"{name}\"", SOURCE), f"{path}: nothing sets it; take it out"
