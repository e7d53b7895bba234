"""The patterns that give log lines a meaning, each with lines that it must and must not take."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import ExitCode, FailureClass
from windlass.api.status import FailedRank, Failure
from windlass.core.failure import evidence as seen
from windlass.core.failure.evidence import EVIDENCE_CHARACTERS, EVIDENCE_LINES, End, exited, lines_of

# As the libraries really write them (torch 2.15, gloo, NCCL, the kernel, the C library).
CASCADE = [
    "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242",
    "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed.",
    "RuntimeError: Connection reset by peer",
    "ConnectionRefusedError: [Errno 111] Connection refused",
    "torch.distributed.DistNetworkError: Connection was reset",
    "BrokenPipeError: [Errno 32] Broken pipe",
    "Socket closed",
    "RuntimeError: Timed out waiting 1800000ms for recv operation to complete",
    "ProcessGroupNCCL.cpp:1552] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12)",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "torch.distributed.DistBackendError: NCCL error",
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed",
    "connectFullMesh failed",
    "unhandled system error, NCCL version 2.27",
    "remote process has exited",
    "peer disconnected",
]
OUT_OF_MEMORY = [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
    "MemoryError",
    "OSError: [Errno 12] Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "Failed to allocate memory for the tensor",
]
SHARED_MEMORY = [
    "OSError: [Errno 28] No space left on device: '/dev/shm/torch_12_34'",
    "unable to open shared memory object </torch_1_2> in read-write mode",
    "RuntimeError: unable to write to file </torch_1> /dev/shm",
    "DataLoader worker is killed by signal: Bus error.",
    "insufficient shared memory (shm)",
]
STORAGE_FULL = [
    "OSError: [Errno 28] No space left on device",
    "safetensors_rust.SafetensorError: Error while serializing: IoError(Os { code: 28, kind: StorageFull, "
    'message: "No space left on device" })',
    "write failed: ENOSPC",
    "OSError: [Errno 122] Disk quota exceeded",
]
STORAGE = [
    "OSError: [Errno 5] Input/output error",
    "read: EIO",
    "OSError: [Errno 116] Stale file handle",
    "mount: Stale NFS file handle",
    "OSError: [Errno 30] Read-only file system: '/windlass/store'",
    "OSError: [Errno 107] Transport endpoint is not connected",
]
HARDWARE = [
    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "NVLink error on link 3",
    "CUDA error: unspecified launch failure",
    "CUDA error: unknown error",
]
CONFIGURATION = [
    "ModuleNotFoundError: No module named 'flash_attn'",
    "ImportError: cannot import name 'x'",
    "train.py: error: unrecognized arguments: --learnig-rate",
    "FileNotFoundError: [Errno 2] No such file or directory: '/windlass/volumes/data/x.jsonl'",
    "PermissionError: [Errno 13] Permission denied",
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 16x2)",
    "size mismatch for embed_tokens.weight: copying a param",
    "KeyError: 'instruction'",
    "TypeError: f() got an unexpected keyword argument 'rank'",
]
PATTERNS = {
    "CASCADE": CASCADE,
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "SHARED_MEMORY": SHARED_MEMORY,
    "STORAGE_FULL": STORAGE_FULL,
    "STORAGE": STORAGE,
    "HARDWARE": HARDWARE,
    "CONFIGURATION": CONFIGURATION,
}
# What a healthy run prints must never speak of a fault.
INNOCENT = [
    "step 120 loss 1.2345 lr 2.0e-05 tokens/s 15203",
    "saved step-00000120.i1 in 1.31 s",
    "loading model from /windlass/volumes/models/SmolLM2",
    "world size 4, rank 2, device cuda:2, 79.1 GiB free",
    "errno 280 is not a thing",
    "learning rate warm-up over 50 steps",
    "exit at step 28, 5 left on this page",
    "validation loss 2.01 perplexity 7.4",
    "memory: 12.4 GiB allocated, 3.1 GiB reserved",
    "time to first step 12.1 s",
    "",
]


@pytest.mark.parametrize(
    ("name", "line"),
    [(name, line) for name, lines in PATTERNS.items() for line in lines],
    ids=lambda text: text[:30],
)
def test_pattern_takes_what_libraries_write(name: str, line: str) -> None:
    assert getattr(seen, name).search(line), (name, line)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("line", INNOCENT, ids=lambda text: text[:30])
def test_pattern_leaves_a_healthy_log_alone(name: str, line: str) -> None:
    assert not getattr(seen, name).search(line)


@pytest.mark.parametrize("name", PATTERNS)
def test_letter_case_never_decides(name: str) -> None:
    for line in PATTERNS[name]:
        assert getattr(seen, name).search(line.upper()), line
        assert getattr(seen, name).search(line.lower()), line


# A line can speak of two things; the table in `classify` decides by its order. These pairs may not overlap.
DISJOINT = [
    ("OUT_OF_MEMORY", "CASCADE"),
    ("OUT_OF_MEMORY", "STORAGE"),
    ("STORAGE_FULL", "CASCADE"),
    ("STORAGE", "STORAGE_FULL"),
    ("HARDWARE", "STORAGE"),
    ("CONFIGURATION", "OUT_OF_MEMORY"),
]


@pytest.mark.parametrize(("one", "other"), DISJOINT)
def test_lines_of_one_kind_do_not_speak_of_another(one: str, other: str) -> None:
    assert [line for line in PATTERNS[one] if getattr(seen, other).search(line)] == []
    assert [line for line in PATTERNS[other] if getattr(seen, one).search(line)] == []


@pytest.mark.parametrize(
    ("exit_code", "signal", "killed_by"),
    [
        (None, None, None),
        (0, None, None),
        (1, None, None),
        (128, None, None),
        (129, None, 1),
        (137, None, 9),
        (139, None, 11),
        (143, None, 15),
        (159, None, 31),
        (160, None, None),
        (255, None, None),
        (None, 9, 9),
        (137, 6, 6),
        (0, 0, None),
    ],
)
def test_signal_is_known_also_from_a_runtimes_exit_code(
    exit_code: int | None, signal: int | None, killed_by: int | None
) -> None:
    assert End(at=0.0, exit_code=exit_code, signal=signal).killed_by == killed_by


@pytest.mark.parametrize("code", list(ExitCode))
def test_own_exit_codes_are_told_apart(code: ExitCode) -> None:
    end = End(at=0.0, exit_code=int(code))
    assert [other for other in ExitCode if exited(end, other)] == [code]
    assert end.killed_by is None


def told(message: str, *lines: str) -> Failure:
    return Failure(reason="Crash", failure_class=FailureClass.CRASH, message=message, evidence=list(lines))


def test_everything_that_was_said_counts() -> None:
    end = End(at=0.0, failure=told("CUDA out of memory", "tried 2 GiB"), log_tail=("step 3", "boom"))
    assert end.text.splitlines() == ["CUDA out of memory", "tried 2 GiB", "step 3", "boom"]
    assert End(at=0.0).text == ""
    assert End(at=0.0, rank=3, pod="p", node="n").place == FailedRank(rank=3, pod="p", node="n")


LINES = [
    # (log, what is shown)
    ((), []),
    (("", "   ", "\t"), []),
    (("step 1", "step 2"), ["step 1", "step 2"]),
    (("step 1", "ValueError: x", "step 2"), ["ValueError: x"]),
    (tuple(f"step {n}" for n in range(20)), [f"step {n}" for n in range(14, 20)]),
    (("  padded  ",), ["padded"]),
    (("a", "a", "b", "a"), ["a", "b"]),
    (
        ("Killed", "segmentation fault", "aborted", "fatal: x"),
        ["Killed", "segmentation fault", "aborted", "fatal: x"],
    ),
]


@pytest.mark.parametrize(("log", "shown"), LINES)
def test_lines_that_speak_of_an_error_are_shown_first(log: tuple[str, ...], shown: list[str]) -> None:
    assert lines_of(End(at=0.0, log_tail=log)) == shown


def test_own_words_come_before_the_log() -> None:
    end = End(at=0.0, failure=told("m", "first"), log_tail=("RuntimeError: last",))
    assert lines_of(end) == ["first", "RuntimeError: last"]


def test_long_lines_are_cut() -> None:
    (line,) = lines_of(End(at=0.0, log_tail=("x" * 5000,)))
    assert len(line) == EVIDENCE_CHARACTERS


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([*CASCADE, *OUT_OF_MEMORY, *INNOCENT, "y" * 900]), max_size=40),
    st.lists(st.text(max_size=30), max_size=8),
)
def test_evidence_is_bounded_and_holds_only_what_was_said(log: list[str], own: list[str]) -> None:
    end = End(at=0.0, log_tail=tuple(log), failure=told("m", *own) if own else None)
    shown = lines_of(end)
    assert len(shown) < EVIDENCE_LINES
    assert len(shown) == len(set(shown))
    known = {line.strip()[:EVIDENCE_CHARACTERS] for line in log} | set(own)
    assert set(shown) <= known


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_compiled_once_and_bounded(name: str) -> None:
    """Logs are long: no pattern may run away on a line that almost matches."""
    pattern = getattr(seen, name)
    assert isinstance(pattern, re.Pattern)
    for line in ("no space left" + " " * 5000 + "/dev/sh", "/dev/shm" + "x" * 5000, "connection " * 500):
        assert not pattern.search(line)
