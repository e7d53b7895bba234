"""Loading while the volume fails: the checkpoint is not blamed. A refusal comes before anything is loaded."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from windlass.api.contract import Manifest
from windlass_workloads.checkpoint import randomness, reader
from windlass_workloads.checkpoint.errors import CheckpointUnusable, StoreUnusable, TooLittleMemory
from windlass_workloads.checkpoint.state import ReplicatedState
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.writer import CheckpointWriter
from windlass_workloads.train.failures import failure_of
from workloads.checkpoint.support import Events, context

NAME = "step-00000001.i1"


def state() -> ReplicatedState:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return ReplicatedState(
        strategy="DDP", model=model, optimizer=optimizer, scheduler=None, counters={"step": 1}
    )


@pytest.fixture
def saved(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path)
    told = context(tmp_path, 0, 1, None, 1)
    writer = CheckpointWriter(store=store, context=told, channel=Events(), state=state(), asynchronous=False)
    writer.save(1)
    assert writer.failed is None
    return store


def load(store: RunStore, **options: Any) -> Manifest:
    return reader.load(store=store, context=context(store.root, 0, 1, NAME, 2), state=state(), **options)


def outage() -> OSError:
    return OSError(errno.EIO, "Input/output error")


@pytest.mark.fault("F57")
@pytest.mark.parametrize(
    "error", [outage(), CheckpointException("read", {0: (outage(), None)})], ids=["plain", "torch's"]
)
def test_a_volume_that_fails_while_it_is_read_is_an_outage(
    saved: RunStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(reader.dcp, "load", fail)
    with pytest.raises(
        StoreUnusable, match=f"while checkpoint {NAME} is read .*Input/output error"
    ) as caught:
        load(saved)
    assert failure_of(caught.value)[0].reason == "Storage"
    monkeypatch.undo()
    assert load(saved).step == 1


def test_what_torch_cannot_fit_is_the_checkpoints_fault(
    saved: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise CheckpointException("read", {0: (ValueError("size 3 is not 2"), None)})

    monkeypatch.setattr(reader.dcp, "load", fail)
    with pytest.raises(CheckpointUnusable) as caught:
        load(saved)
    assert list(caught.value.evidence) == ["ValueError: size 3 is not 2"]


SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    CheckpointException("read", {0: (ValueError("stopped"), None), 1: (MemoryError("no more"), None)}),
]


@pytest.mark.fault("F39")
@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["load", "state"])
def test_too_little_memory_is_not_held_against_the_checkpoint(
    saved: RunStore, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    """Fewer ranks hold more each. A checkpoint that was given up for it would be missed once all nodes are back."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    if where == "load":
        monkeypatch.setattr(reader.dcp, "load", fail)
    else:
        monkeypatch.setattr(ReplicatedState, "by_name", fail)
        monkeypatch.setattr(reader.flat, "is_flat", lambda _: False)
    with pytest.raises(TooLittleMemory, match=f"loading checkpoint {NAME}: ") as caught:
        load(saved)
    failure, code = failure_of(caught.value)
    assert (failure.reason, failure.failure_class, code) == ("OutOfMemory", "OutOfMemory", 12)
    assert "resources.perNode.memory" in (failure.hint or "")
    monkeypatch.undo()
    assert load(saved).step == 1


@pytest.mark.parametrize("known", [True, False])
def test_an_accelerator_is_started_for_the_generator_that_it_is_to_have(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """A script may load before it first computes there."""
    started: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: started.append(True))
    randomness.wake({"torch", "cuda"} if known else {"torch"})
    assert started == [True] * known


def test_loading_asks_for_the_generators_that_the_checkpoint_has(
    saved: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    monkeypatch.setattr(randomness, "wake", lambda names: asked.append(set(names)))
    load(saved)
    assert asked == [set(randomness.capture())]


def test_a_refusal_comes_before_anything_is_loaded(saved: RunStore) -> None:
    class Refused(Exception):
        pass

    def refuse(manifest: Manifest) -> None:
        assert manifest.step == 1
        raise Refused

    fresh = state()
    before = {name: each.clone() for name, each in fresh.model.state_dict().items()}
    with pytest.raises(Refused):
        reader.load(store=saved, context=context(saved.root, 0, 1, NAME, 2), state=fresh, check=refuse)
    assert all(torch.equal(each, before[name]) for name, each in fresh.model.state_dict().items())
