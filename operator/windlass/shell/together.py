"""Several requests of one round at the same time, few at first.

The actor uses it for the pods and objects of a gang: one after another they cost a whole round trip each. A
server that refuses the first pod will refuse the others alike, so batches begin with one and double.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_BATCH: Final = 16
"""Most requests of one round at a time; every worker may have as many, and the client has 64 connections."""


async def together(
    work: Callable[[Item], Coroutine[Any, Any, Result]], items: Sequence[Item]
) -> list[Result]:
    """The results in the items' order. The first error ends what has not ended yet, and is raised as it is."""
    tasks: list[asyncio.Task[Result]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(item)) for item in items]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def batches(
    items: Sequence[Item], *, first: int = 1, largest: int = LARGEST_BATCH
) -> Iterator[Sequence[Item]]:
    """The items in order, in batches that double from `first` to `largest`."""
    begin, size = 0, first
    while begin < len(items):
        yield items[begin : begin + size]
        begin, size = begin + size, min(size * 2, largest)
