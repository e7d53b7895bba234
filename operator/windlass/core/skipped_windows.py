"""Arithmetic of skipped data: windows [first, last) of positions in the order of training that nobody trains on.

Ranks find the position of a sample by it, the leader the window that a rollback leaves out. Windows given to these
functions may overlap and come in any order. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

Window = tuple[int, int]


def merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """The same positions as windows that are sorted and neither touch nor overlap; empty ones are left out."""
    joined: list[Window] = []
    for first, last in sorted(windows):
        if first >= last:
            continue
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def position(count: int, windows: Iterable[Window]) -> int:
    """Position of the count-th sample that is trained on, from zero: count, moved behind all windows before it."""
    for first, last in merged(windows):
        if count < first:
            break
        count += last - first
    return count


def window_of(
    step: int, skip_steps: int, *, resumed_step: int, global_batch_size: int, windows: Iterable[Window]
) -> Window | None:
    """The window that holds the data of the last `skip_steps` steps up to `step`, as `windows` had it trained.

    Steps up to `resumed_step` are in the checkpoint that training goes on from, so theirs are not left out: that would
    move the order under what was trained already. None when nothing is left to skip.
    """
    first_step = max(step - skip_steps, resumed_step)
    if first_step >= step:
        return None
    known = merged(windows)
    last = position(step * global_batch_size - 1, known)
    return position(first_step * global_batch_size, known), last + 1
