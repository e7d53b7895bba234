"""How a fault is described: what is done, in which rank, and what the right judgement of it is.

Labels are given by who causes the fault and knows the cause, never by what the table says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from windlass.api.meta import FailureClass

Deed = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `deed` runs in every rank with its number; `cause` is the rank at fault, None for nobody's."""

    name: str
    label: FailureClass
    deed: Deed
    world: int = 1
    cause: int | None = 0
    early: bool = False
    """Whether it happens before the first step, where settings are tried for the first time."""


CATALOGUE: dict[str, Fault] = {}


def fault(
    name: str,
    label: FailureClass,
    *,
    world: int = 1,
    cause: int | None = 0,
    early: bool = False,
) -> Callable[[Deed], Deed]:
    """Puts a function into the catalogue."""

    def add(deed: Deed) -> Deed:
        assert name not in CATALOGUE, name
        CATALOGUE[name] = Fault(name, label, deed, world=world, cause=cause, early=early)
        return deed

    return add
