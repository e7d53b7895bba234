"""Keeps freed memory of this process at hand, where it would be given back to the system and asked for again.

glibc gives large blocks back when they are freed. Arrays of megabytes that come and go by the hundred then cost more in
page faults than in arithmetic: a corpus took a third longer, and a plain training loop lost an eighth of its speed or
more. Called where such work begins: by tasks of the corpus stage, and by ranks that compute on processors. Elsewhere
than on glibc it does nothing.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
"""Names of settings in malloc.h."""


@cache
def keep(free_bytes: int, block_bytes: int) -> bool:
    """Keep up to so many free bytes at the heap's end, and take blocks of up to so many from it; whether that is so."""
    try:
        settle = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(settle(MMAP_THRESHOLD, block_bytes)) and bool(settle(TRIM_THRESHOLD, free_bytes))
