"""Progress lines and phase times of `up` and `down`, on standard error.

Used by the modules that do long work. It must never print credentials.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"cluster: {message}", file=sys.stderr, flush=True)


@contextmanager
def phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time a phase into `seconds` and print how long it took."""
    begin = time.monotonic()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begin, 2)
    say(f"{name}: {seconds[name]:.1f} s")
