"""The table from evidence to failure class."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.api.status import Failure
from windlass.core.failure.classify import TABLE, classify, first_failed, is_follower
from windlass.core.failure.evidence import EVIDENCE_LINES, End

Kind = FailureClass
RESET = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242"
TRACEBACK = ("Traceback (most recent call last):", "ValueError: boom at 0x7f01")


def an_end(**fields: object) -> End:
    return replace(End(at=100.0, rank=0, pod="triage-0-1", exit_code=1), **fields)  # type: ignore[arg-type]


TABLE_ROWS = [
    ("node lost", an_end(disruption="DeletionByTaintManager"), Kind.INFRASTRUCTURE, Reason.INFRASTRUCTURE),
    ("node gone", an_end(pod_reason="NodeLost"), Kind.INFRASTRUCTURE, Reason.INFRASTRUCTURE),
    ("drain", an_end(disruption="EvictionByEvictionAPI"), Kind.PREEMPTED, Reason.PREEMPTED),
    ("priority", an_end(disruption="PreemptionByScheduler"), Kind.PREEMPTED, Reason.PREEMPTED),
    ("eviction", an_end(pod_reason="Evicted", log_tail=("low on memory",)), Kind.PREEMPTED, Reason.PREEMPTED),
    (
        "scratch",
        an_end(pod_reason="Evicted", log_tail=("Pod ephemeral local storage usage exceeds",)),
        Kind.STORAGE,
        Reason.STORAGE,
    ),
    ("told to leave", an_end(rank=None, exit_code=ExitCode.PREEMPTED), Kind.PREEMPTED, Reason.PREEMPTED),
    ("a script of the same code", an_end(exit_code=ExitCode.PREEMPTED), Kind.CRASH, Reason.CRASH),
    ("no program", an_end(exit_code=127), Kind.CONFIGURATION, Reason.CONFIGURATION),
    ("no right to run it", an_end(exit_code=126), Kind.CONFIGURATION, Reason.CONFIGURATION),
    ("no agent", an_end(rank=None, exit_code=127), Kind.CONFIGURATION, Reason.CONFIGURATION),
    (
        "oom pod",
        an_end(exit_code=137, container_reason="OOMKilled"),
        Kind.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
    ),
    ("oom rank", an_end(exit_code=None, signal=9, oom_kills=1), Kind.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    (
        "cuda oom",
        an_end(log_tail=("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",)),
        Kind.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
    ),
    (
        "cpu oom",
        an_end(log_tail=("DefaultCPUAllocator: can't allocate memory",)),
        Kind.OUT_OF_MEMORY,
        "OutOfMemory",
    ),
    ("oom code", an_end(exit_code=ExitCode.OUT_OF_MEMORY), Kind.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    (
        "shared memory",
        an_end(log_tail=("OSError: [Errno 28] No space left on device: '/dev/shm/x'",)),
        Kind.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
    ),
    (
        "disk full",
        an_end(log_tail=("OSError: [Errno 28] No space left on device",)),
        Kind.STORAGE,
        "StorageFull",
    ),
    ("quota", an_end(log_tail=("OSError: [Errno 122] Disk quota exceeded",)), Kind.STORAGE, "StorageFull"),
    ("io error", an_end(log_tail=("OSError: [Errno 5] Input/output error",)), Kind.STORAGE, Reason.STORAGE),
    ("stale nfs", an_end(log_tail=("OSError: [Errno 116] Stale file handle",)), Kind.STORAGE, Reason.STORAGE),
    (
        "read only",
        an_end(log_tail=("OSError: [Errno 30] Read-only file system",)),
        Kind.STORAGE,
        Reason.STORAGE,
    ),
    ("xid", an_end(log_tail=("NVRM: Xid (PCI:0000:3b:00): 79",)), Kind.INFRASTRUCTURE, Reason.INFRASTRUCTURE),
    (
        "ecc",
        an_end(log_tail=("uncorrectable ECC error encountered",)),
        Kind.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
    ),
    ("no command", an_end(exit_code=127, rank=None), Kind.CONFIGURATION, Reason.CONFIGURATION),
    ("start error", an_end(container_reason="StartError"), Kind.CONFIGURATION, Reason.CONFIGURATION),
    ("bad setting code", an_end(exit_code=ExitCode.CONFIGURATION), Kind.CONFIGURATION, Reason.CONFIGURATION),
    (
        "import before the first step",
        an_end(before_first_step=True, log_tail=("ModuleNotFoundError: No module named 'flash_attn'",)),
        Kind.CONFIGURATION,
        Reason.CONFIGURATION,
    ),
    (
        "import later",
        an_end(log_tail=("ModuleNotFoundError: No module named 'x'",)),
        Kind.CRASH,
        Reason.CRASH,
    ),
    ("no number code", an_end(exit_code=ExitCode.NUMERIC), Kind.NUMERIC, Reason.NON_FINITE),
    ("no number", an_end(log_tail=("AssertionError: loss is nan",)), Kind.NUMERIC, Reason.NON_FINITE),
    ("fenced", an_end(exit_code=ExitCode.FENCED), Kind.INFRASTRUCTURE, Reason.INFRASTRUCTURE),
    (
        "name server",
        an_end(log_tail=("socket.gaierror: [Errno -2] Name or service not known",)),
        Kind.INFRASTRUCTURE,
        Reason.INFRASTRUCTURE,
    ),
    ("connection", an_end(log_tail=(RESET,)), Kind.INFRASTRUCTURE, Reason.INFRASTRUCTURE),
    ("pod gone", End(at=1.0, pod="p", whole_pod=True), Kind.INFRASTRUCTURE, Reason.INFRASTRUCTURE),
    ("sigkill", an_end(exit_code=None, signal=9), Kind.CRASH, Reason.CRASH),
    ("sigsegv", an_end(exit_code=139), Kind.CRASH, Reason.CRASH),
    ("traceback", an_end(log_tail=TRACEBACK), Kind.CRASH, Reason.CRASH),
    ("early end", an_end(exit_code=0), Kind.CRASH, Reason.CRASH),
]


@pytest.mark.fault("F29")
@pytest.mark.fault("F34")
@pytest.mark.fault("F39")
@pytest.mark.fault("F48")
@pytest.mark.parametrize(("name", "end", "kind", "reason"), TABLE_ROWS, ids=[row[0] for row in TABLE_ROWS])
def test_evidence_has_a_class(name: str, end: End, kind: FailureClass, reason: str) -> None:
    judgement = classify([end])
    assert (judgement.failure_class, judgement.reason) == (kind, reason), name


def test_every_line_of_the_table_is_reached() -> None:
    reached = {next(row.name for row in TABLE if row.holds(end)) for _, end, _, _ in TABLE_ROWS}
    assert reached == {row.name for row in TABLE}


def test_word_of_a_rank_stands() -> None:
    told = Failure(
        reason="DataUnreadable", failure_class=Kind.CONFIGURATION, message="line 3: not JSON", hint="fix it"
    )
    judgement = classify([an_end(failure=told, log_tail=TRACEBACK, exit_code=11)])
    assert (judgement.reason, judgement.message, judgement.hint) == (
        "DataUnreadable",
        "line 3: not JSON",
        "fix it",
    )


def test_crash_that_speaks_of_memory_is_out_of_memory() -> None:
    told = Failure(reason="Crash", failure_class=Kind.CRASH, message="CUDA out of memory")
    judgement = classify([an_end(failure=told)])
    assert judgement.failure_class is Kind.OUT_OF_MEMORY
    assert "microBatchSize" in judgement.hint


def test_follower_is_never_the_cause_although_it_ended_first() -> None:
    killed = an_end(rank=1, at=100.2, exit_code=None, signal=9)
    follower = an_end(rank=0, at=100.0, log_tail=(RESET,))
    judgement = classify([follower, killed])
    assert judgement.first_failed.rank == 1
    assert judgement.failure_class is Kind.CRASH
    assert judgement.evidence[-1] == "followers: rank 0"


def test_follower_that_reports_itself_is_still_a_follower() -> None:
    told = Failure(reason="Crash", failure_class=Kind.CRASH, message=RESET)
    assert is_follower(an_end(failure=told))


def test_killed_for_memory_is_no_follower_whatever_it_printed() -> None:
    assert not is_follower(an_end(signal=9, exit_code=None, oom_kills=1, log_tail=(RESET,)))


def test_ranks_that_we_stopped_are_not_the_cause() -> None:
    stopped = an_end(rank=0, at=90.0, signal=9, exit_code=None, stopped=True)
    crashed = an_end(rank=1, at=100.0, log_tail=TRACEBACK)
    assert first_failed([stopped, crashed]).rank == 1


def test_rank_that_ended_quietly_is_not_blamed_for_the_one_that_failed() -> None:
    quiet, crashed = an_end(rank=0, at=90.0, exit_code=0), an_end(rank=1, at=100.0, log_tail=TRACEBACK)
    assert first_failed([quiet, crashed]).rank == 1


def test_only_followers_are_infrastructure() -> None:
    ends = [an_end(rank=rank, at=100.0 + rank, log_tail=(RESET,)) for rank in (1, 0)]
    judgement = classify(ends)
    assert judgement.failure_class is Kind.INFRASTRUCTURE
    assert judgement.first_failed.rank == 0


def test_signature_ignores_numbers_and_addresses() -> None:
    one, other = (
        classify([an_end(log_tail=(f"ValueError: bad row {n} at {address}",))]).signature
        for n, address in ((3, "0x7f01"), (4, "0xffee"))
    )
    assert one == other
    assert one != classify([an_end(log_tail=("KeyError: 'x'",))]).signature


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (an_end(signal=9, exit_code=None), "rank 0 was killed by signal 9"),
        (an_end(signal=9, exit_code=None, oom_kills=2), "rank 0 was killed for memory by signal 9"),
        (an_end(exit_code=3), "rank 0 ended with exit code 3"),
        (
            an_end(rank=None, container_reason="OOMKilled"),
            "pod triage-0-1 was killed for memory by the kernel",
        ),
        (
            an_end(rank=None, disruption="EvictionByEvictionAPI"),
            "was removed by the cluster (EvictionByEvictionAPI)",
        ),
        (an_end(rank=None, pod_reason="Evicted"), "pod triage-0-1 was ended by the kubelet (Evicted)"),
        (End(at=1.0, pod="p", whole_pod=True), "pod p went away"),
        (End(at=1.0, exit_code=1), "a process ended with exit code 1"),
    ],
)
def test_end_that_nobody_described_gets_a_sentence(end: End, text: str) -> None:
    assert text in classify([end]).message


LINES = st.sampled_from(
    [RESET, *TRACEBACK, "CUDA out of memory", "No space left on device", "step 3 loss 2.1", ""]
)
ENDS = st.builds(
    End,
    at=st.floats(0, 1e6),
    rank=st.none() | st.integers(0, 7),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.sampled_from([6, 9, 11, 15]),
    log_tail=st.lists(LINES, max_size=30).map(tuple),
    oom_kills=st.integers(0, 2),
    stopped=st.booleans(),
    before_first_step=st.booleans(),
    container_reason=st.none() | st.sampled_from(["OOMKilled", "Error", "StartError"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ENDS, min_size=1, max_size=8))
def test_any_evidence_is_judged_and_the_order_of_arrival_does_not_matter(ends: list[End]) -> None:
    judgement = classify(ends)
    assert judgement.message and len(judgement.evidence) <= EVIDENCE_LINES
    assert all(len(line) <= 400 for line in judgement.evidence)
    assert judgement.failure().reason == judgement.reason
    distinct = len({(end.at, end.rank) for end in ends}) == len(ends)
    if distinct:
        assert classify(ends[::-1]).first_failed == judgement.first_failed


@settings(max_examples=100, deadline=None)
@given(st.lists(ENDS, min_size=1, max_size=8))
def test_the_cause_is_a_follower_only_if_all_are(ends: list[End]) -> None:
    own = [end for end in ends if not end.stopped]
    if is_follower(first_failed(ends)) and own:
        assert all(is_follower(end) for end in own)
