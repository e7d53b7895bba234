"""Another number of ranks from the same checkpoint: the losses that the whole gang would have had, to rounding."""

from __future__ import annotations

import pytest

from tests.workloads.train.support import merge
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.checkpoint.universal import copy_of

pytestmark = pytest.mark.workloads

TOLERANCE = 1e-5
LORA = {"type": "LoRA", "rank": 4}
PATIENT = {"limit": 600}
BASE = {"training": {"globalBatchSize": 6, "maxSteps": 9}, "checkpoint": {"everySteps": 3, "async": False}}


@pytest.mark.fault("F60")
@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
@pytest.mark.parametrize("adapter", [None, {"type": "LoRA", "rank": 4}], ids=["full", "lora"])
def test_three_ranks_go_on_as_two_and_as_three_again(make_job, strategy, adapter) -> None:
    changes = BASE | {"parallelism": {"strategy": strategy}} | ({"adapter": adapter} if adapter else {})
    whole = make_job(**changes).train(world=3).ok().losses()
    job = make_job(**changes)
    kill = [{"type": "Step", "step": 5, "rank": 2, "signal": "SIGKILL"}]
    first = job.train(world=3, actions=kill)
    (saved,) = {name for name in first.saved if name.startswith("step-00000003")}
    leave = [{"type": "Step", "step": 6, "signal": "SIGTERM"}]
    second = job.start(world=2, resume=saved, actions=leave).ok()
    assert sorted(second.losses()) == [4, 5, 6, 7]
    third = job.start(world=3, resume=second.saved[-1]).ok()
    assert sorted(third.losses()) == [8, 9]
    found = first.losses() | second.losses() | third.losses()
    for step, loss in whole.items():
        assert found[step] == pytest.approx(loss, rel=TOLERANCE), step


@pytest.mark.fault("F60")
@pytest.mark.parametrize(
    ("stage", "adapter"),
    [(1, None), (2, None), (3, None), (2, LORA), (3, LORA)],
    ids=["1-full", "2-full", "3-full", "2-lora", "3-lora"],
)
def test_two_ranks_of_deepspeed_go_on_as_one_and_as_four(make_job, stage, adapter) -> None:
    """Decay is strong and only for some weights, so that a setting that went to the wrong ones would show."""
    changes = merge(BASE, {"parallelism": {"strategy": "DeepSpeed", "zeroStage": stage}})
    changes = merge(changes, {"training": {"optimizer": {"weightDecay": "0.5"}}})
    changes |= {"adapter": adapter} if adapter else {}
    whole = make_job(**changes).train(world=2, **PATIENT).ok().losses()
    job = make_job(**changes)
    kill = [{"type": "Step", "step": 5, "rank": 1, "signal": "SIGKILL"}]
    first = job.train(world=2, actions=kill, **PATIENT)
    (saved,) = {name for name in first.saved if name.startswith("step-00000003")}
    leave = [{"type": "Step", "step": 6, "signal": "SIGTERM"}]
    second = job.start(world=1, resume=saved, actions=leave, **PATIENT).ok()
    assert sorted(second.losses()) == [4, 5, 6, 7]
    third = job.start(world=4, resume=second.saved[-1], **PATIENT).ok()
    assert sorted(third.losses()) == [8, 9]
    found = first.losses() | second.losses() | third.losses()
    for step, loss in whole.items():
        assert found[step] == pytest.approx(loss, rel=TOLERANCE), step
    # Loading is told of before ranks meet: that is where the seconds of the conversion are.
    assert [event.phase for event in second.of("Phase")][:3] == ["Load", "Rendezvous", "Load"]
    store = RunStore(job.store)
    assert [name for name in store.list_checkpoints() if store.exists(copy_of(name))] == [
        second.saved[-1],
        saved,
    ]


@pytest.mark.parametrize("world", [1, 2, 4, 5])
def test_any_number_of_ranks_computes_the_same_batch(make_job, world) -> None:
    """Also where the batch does not divide by it: some ranks then compute for nothing."""
    reference = make_job(**BASE).train(world=3).ok().losses()
    losses = make_job(**BASE).train(world=world).ok().losses()
    for step, loss in reference.items():
        assert losses[step] == pytest.approx(loss, rel=TOLERANCE), step
