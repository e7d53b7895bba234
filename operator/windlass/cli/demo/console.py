"""What the demo tells its user: one line per step with the seconds it took.

Used by the steps. It must never print to standard error, which is for failures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)


@contextmanager
def step(text: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
    """Announce a step, and say at its end how long it took; `seconds` remembers it under the same text."""
    say(f"== {text}")
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if seconds is not None:
        seconds[text] = round(took, 2)
    say(f"   {took:.1f} s")
