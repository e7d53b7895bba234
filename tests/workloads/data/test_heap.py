"""Freed memory that is kept is not asked for again: the system has to give far fewer pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKLOADS = Path(__file__).resolve().parents[3] / "workloads"
PROGRAM = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from windlass_workloads import heap
if sys.argv[2] == "kept":
    assert heap.keep(256 << 20, 128 << 20), "glibc has taken it"
def work():
    for _ in range(40):
        many = [np.ones(5_000_000, dtype=np.uint8) for _ in range(8)]
        many.clear()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(WORKLOADS), how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_kept_memory_is_not_asked_for_again() -> None:
    assert faults("kept") * 5 < faults("given back")


def test_elsewhere_than_on_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from windlass_workloads import heap

    class Other:
        """A C library without that function."""

        def __init__(self, _: None) -> None:
            pass

    monkeypatch.setattr(heap.ctypes, "CDLL", Other)
    assert heap.keep.__wrapped__(1 << 20, 1 << 20) is False
