"""The loss curve is the same whatever runs it: strategy, ranks, accumulation, restarts."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.workloads
LORA = {"type": "LoRA", "rank": 4}
STRATEGIES = {
    "DDP": {"strategy": "DDP"},
    "FSDP": {"strategy": "FSDP"},
    "ZeRO-1": {"strategy": "DeepSpeed", "zeroStage": 1},
    "ZeRO-2": {"strategy": "DeepSpeed", "zeroStage": 2},
    "ZeRO-3": {"strategy": "DeepSpeed", "zeroStage": 3},
}
TWENTY = {"maxSteps": 20, "globalBatchSize": 4, "learningRate": "2e-3"}
NO_SAVES = {"everySteps": 1000}


def assert_close(left, right, relative):
    assert list(left) == list(right)
    worst = max(abs(left[step] - right[step]) / abs(right[step]) for step in right)
    assert worst <= relative, worst


@pytest.fixture(scope="module")
def reference(fork_server, volumes, tmp_path_factory):
    """20 steps of full fine-tuning on one rank without accumulation: losses by step."""
    from tests.workloads.train.support import SPEC, Job, merge

    spec = merge(SPEC, {"training": {**TWENTY, "microBatchSize": 4}, "checkpoint": NO_SAVES})
    return Job(fork_server, volumes, tmp_path_factory.mktemp("reference"), spec).train().ok().losses()


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_compute_the_same_losses(make_job, reference, name):
    job = make_job(training=TWENTY, checkpoint=NO_SAVES, parallelism=STRATEGIES[name])
    losses = job.train(world=2).ok().losses()
    assert losses[20] < 0.8 * losses[1]
    assert_close(losses, reference, 1e-5)


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 2), (2, 2), (4, 1)], ids=lambda value: str(value))
def test_ranks_and_accumulation_do_not_change_the_losses(make_job, reference, world, micro):
    job = make_job(training={**TWENTY, "microBatchSize": micro}, checkpoint=NO_SAVES)
    assert_close(job.train(world=world).ok().losses(), reference, 1e-5)


@pytest.mark.parametrize("name", ["DDP", "FSDP", "ZeRO-2"])
def test_a_global_batch_that_does_not_divide_changes_nothing(make_job, name):
    training = {"maxSteps": 4, "globalBatchSize": 3}
    alone = make_job(training={**training, "microBatchSize": 3}, checkpoint=NO_SAVES).train().ok().losses()
    job = make_job(training=training, checkpoint=NO_SAVES, parallelism=STRATEGIES[name])
    assert_close(job.train(world=2).ok().losses(), alone, 1e-5)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("DDP", None),
        ("DDP", {**LORA, "dropout": "0.1"}),
        ("FSDP", None),
        ("FSDP", {"type": "IA3"}),
        ("ZeRO-1", LORA),
        ("ZeRO-2", None),
        ("ZeRO-3", None),
        ("ZeRO-3", LORA),
    ],
    ids=lambda value: value if isinstance(value, str) else "full" if value is None else value["type"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(make_job, name, adapter):
    changes = {"parallelism": STRATEGIES[name], "training": {"maxSteps": 5}, "checkpoint": {"everySteps": 2}}
    if adapter is not None:
        changes["adapter"] = adapter
    job = make_job(**changes)
    whole = job.train(world=2).ok()
    assert whole.saved == [f"step-{step:08d}.i2" for step in (2, 4, 5)]
    resumed = job.start(world=2, resume="step-00000002.i2").ok()
    bitwise = name in {"DDP", "FSDP"}
    wanted = {step: loss for step, loss in whole.losses().items() if step > 2}
    if bitwise:
        assert resumed.losses() == wanted
        assert resumed.norms() == {step: norm for step, norm in whole.norms().items() if step > 2}
    else:
        assert_close(resumed.losses(), wanted, 1e-6)


@pytest.mark.fault("F60")
def test_a_resumed_run_may_have_another_number_of_ranks(make_job):
    job = make_job(parallelism=STRATEGIES["FSDP"], checkpoint={"everySteps": 3})
    whole = job.train(world=2).ok().losses()
    resumed = job.start(world=1, resume="step-00000003.i2").ok().losses()
    assert_close(resumed, {step: whole[step] for step in (4, 5, 6)}, 1e-5)
