"""The process that converts a checkpoint: when there is one, what it tells, and what its death means."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.api.contract import RankContext
from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass_workloads.checkpoint import incarnations, universal
from windlass_workloads.checkpoint.errors import CheckpointUnusable, Fenced, SaveError, StoreUnusable
from windlass_workloads.checkpoint.store import MANIFEST, RunStore
from windlass_workloads.train import conversion
from windlass_workloads.train.failures import failure_of
from workloads.checkpoint.support import commit, incarnation
from workloads.checkpoint.support import context as context_of

NAME = "step-00000003.i1"
ZERO = {"strategy": "DeepSpeed", "zeroStage": 2}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "run")
    store.probe()
    assert incarnations.claim(store, incarnation(1))
    return store


def told(
    store: RunStore,
    *,
    rank: int = 0,
    world: int = 1,
    resume: str | None = NAME,
    parallelism: dict[str, Any] | None = None,
) -> RankContext:
    wire = context_of(store.root, rank, world, resume).to_wire()
    wire["config"]["spec"]["parallelism"] = parallelism or ZERO  # type: ignore[index]
    return RankContext.model_validate(wire)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the kernel would list for a process that may be forked; pytest's own may have more threads."""
    listing = tmp_path / "tasks"
    listing.mkdir()
    (listing / "1").touch()
    monkeypatch.setattr(conversion, "TASKS", str(listing))
    return listing


# --- when -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "start", "needed"),
    [
        ({}, {}, True),
        ({}, {"world": 4}, True),
        ({}, {"world": 4, "rank": 3}, True),
        ({}, {"world": 2}, False),
        ({}, {"resume": None}, False),
        ({}, {"parallelism": {"strategy": "FSDP"}}, False),
        ({"format": "DCP", "strategy": "FSDP"}, {}, False),
        ({"world_size": 1}, {}, False),
        ({"world_size": 1}, {"world": 2}, True),
    ],
    ids=str,
)
def test_it_is_needed_where_deepspeed_goes_on_with_another_number_of_ranks(
    store: RunStore, saved: dict[str, Any], start: dict[str, Any], needed: bool
) -> None:
    fields = {"world_size": 2, "format": "DeepSpeed", "strategy": "DeepSpeed-2", **saved}
    assert commit(store, 3, 1, **fields) == NAME
    assert conversion.is_needed(told(store, **start)) is needed


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not JSON"])
def test_what_is_wrong_with_a_manifest_is_left_to_the_load(store: RunStore, content: bytes | None) -> None:
    commit(store, 3, 1, world_size=2, format="DeepSpeed")
    manifest = store.path(f"{NAME}/{MANIFEST}")
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    assert conversion.is_needed(told(store)) is False


def test_a_manifest_that_cannot_be_opened_is_left_to_the_load(store: RunStore) -> None:
    store.make(f"{NAME}/{MANIFEST}")
    assert conversion.is_needed(told(store)) is False


# --- what it tells ----------------------------------------------------------------------------------

TOLD = [
    (
        CheckpointUnusable(NAME, "its content is damaged", hint="look", evidence=["a: is missing"]),
        Reason.CHECKPOINT_UNUSABLE,
        FailureClass.STORAGE,
        ExitCode.STORAGE,
    ),
    (StoreUnusable("the volume is away"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (OSError(5, "Input/output error"), Reason.STORAGE, FailureClass.STORAGE, ExitCode.STORAGE),
    (SaveError("full", full=True), Reason.STORAGE_FULL, FailureClass.STORAGE, ExitCode.STORAGE),
    (
        MemoryError("can't allocate"),
        Reason.OUT_OF_MEMORY,
        FailureClass.OUT_OF_MEMORY,
        ExitCode.OUT_OF_MEMORY,
    ),
    (
        Fenced(mine=1, newest=4, action="x"),
        Reason.INFRASTRUCTURE,
        FailureClass.INFRASTRUCTURE,
        ExitCode.FENCED,
    ),
]


@pytest.mark.parametrize(("error", "reason", "kind", "code"), TOLD, ids=lambda value: type(value).__name__)
def test_the_rank_fails_as_the_process_did(
    store: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: Reason,
    kind: FailureClass,
    code: ExitCode,
) -> None:
    def fail(*_: Any) -> bool:
        raise error

    monkeypatch.setattr(universal, "make", fail)
    answer = pickle.loads(pickle.dumps(conversion.outcome_of(told(store))))
    with pytest.raises((CheckpointUnusable, StoreUnusable, SaveError, MemoryError, Fenced)) as caught:
        conversion.raise_as(answer, told(store))
    failure, ended = failure_of(caught.value)
    assert (failure.reason, failure.failure_class, ended) == (reason, kind, code)
    if isinstance(error, CheckpointUnusable):
        assert str(caught.value) == str(error)
        assert failure.evidence == list(error.evidence) == ["a: is missing"]
    if isinstance(error, MemoryError):
        assert "resources.perNode.memory" in failure.hint
    if isinstance(error, Fenced):
        assert (caught.value.mine, caught.value.newest) == (1, 4)  # type: ignore[attr-defined]


def test_nothing_is_raised_when_it_is_done(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal, "make", lambda *_: True)
    conversion.raise_as(conversion.outcome_of(told(store)), told(store))


# --- the process ------------------------------------------------------------------------------------


def serve_by(act: Callable[[], None]) -> Callable[..., None]:
    """A stand-in for the body of the process that never answers."""

    def serve(_context: str, _parent: int, _sender: Any) -> None:
        act()

    return serve


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def abort_self() -> None:
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGABRT)


def leave() -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("act", "reason", "text"),
    [
        (kill_self, Reason.OUT_OF_MEMORY, "was killed (signal 9)"),
        (abort_self, Reason.CHECKPOINT_UNUSABLE, "ended with signal 6"),
        (leave, Reason.CHECKPOINT_UNUSABLE, "ended with exit code 3"),
    ],
)
def test_a_death_without_an_answer_is_told_apart(
    store: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: Path,
    act: Callable[[], None],
    reason: Reason,
    text: str,
) -> None:
    monkeypatch.setattr(conversion, "serve", serve_by(act))
    with pytest.raises((MemoryError, CheckpointUnusable)) as caught:
        conversion.run(told(store))
    assert text in str(caught.value)
    assert failure_of(caught.value)[0].reason == reason


def test_it_works_in_a_process_of_its_own_which_is_quiet_and_says_how_it_went(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, one_thread: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(inner: RunStore, context: RankContext, _: Any) -> bool:
        print("*** 1. Extracting ZeRO fragments")
        store.create("made-by", str(os.getpid()).encode())
        raise CheckpointUnusable(context.resume or "", str(inner.root), hint="look", evidence=["line"])

    monkeypatch.setattr(universal, "make", make)
    with pytest.raises(CheckpointUnusable) as caught:
        conversion.run(told(store))
    assert caught.value.message == str(store.root)
    assert int(store.read("made-by") or b"0") not in (0, os.getpid())
    assert capfd.readouterr().out == ""


def test_other_ranks_convert_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", None)
    conversion.run(told(store, rank=1, world=4))


@pytest.mark.parametrize(("threads", "method"), [(1, "fork"), (2, "spawn")])
def test_a_process_of_several_threads_is_not_forked(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, one_thread: Path, threads: int, method: str
) -> None:
    asked: list[str] = []
    forking = multiprocessing.get_context("fork")
    for number in range(2, threads + 1):
        (one_thread / str(number)).touch()

    def get_context(kind: str) -> Any:
        asked.append(kind)
        return forking

    monkeypatch.setattr(multiprocessing, "get_context", get_context)
    monkeypatch.setattr(universal, "make", lambda *_: True)
    conversion.run(told(store))
    assert asked == [method]
