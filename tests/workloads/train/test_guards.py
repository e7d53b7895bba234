"""Numbers that go wrong in real ranks: no rank applies the step, and after a rollback the run is the one that never
met the data."""

from __future__ import annotations

import json

import pytest

from windlass.api.contract import AcceptedCheckpoint, Rollback
from windlass.api.meta import ExitCode, FailureClass, Reason
from windlass.core.failure.numeric import detour
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore
from windlass_workloads.data.order import Order

pytestmark = pytest.mark.workloads
STRATEGIES = {
    "DDP": {"strategy": "DDP"},
    "FSDP": {"strategy": "FSDP"},
    "ZeRO-1": {"strategy": "DeepSpeed", "zeroStage": 1},
    "ZeRO-2": {"strategy": "DeepSpeed", "zeroStage": 2},
    "ZeRO-3": {"strategy": "DeepSpeed", "zeroStage": 3},
}
BATCH, SAMPLES, BAD_STEP = 4, 40, 5
NINE = {"maxSteps": 9, "learningRate": "1e-3"}
EVERY_TWO = {"everySteps": 2, "keepLast": 9}


def unit_of(job, step=BAD_STEP):
    """A sample that the step takes and no other step of its pass over the data."""
    return Order(job.config().spec.training.seed, SAMPLES).batch(step, BATCH)[0]


def start(job, volumes, *, kind="nan", rank=1, step=BAD_STEP, world=2, **options):
    """A start with the fault in it; it shows only while the sample is met."""
    job.prepared or job.prepare()
    fault = {"kind": kind, "rank": rank, "unit": unit_of(job, step)}
    environment = {"VOLUMES": str(volumes), "FAULT": json.dumps(fault)}
    return job.start(
        world=world,
        function="tests.workloads.train.faulty.train",
        environment=environment,
        stop_peers=False,
        **options,
    )


def seen(job, rank=0):
    return json.loads((job.root / f"start-{job.starts}" / f"seen-{rank}.json").read_text())


def assert_stopped(job, run, reason, step=BAD_STEP):
    """All ranks stopped at the step, of which no rank applied anything."""
    assert run.codes == [ExitCode.NUMERIC] * 2
    for rank in (0, 1):
        event = run.of("Failure", rank)[0]
        assert (event.step, event.failure.reason, event.failure.failure_class) == (
            step,
            reason,
            FailureClass.NUMERIC,
        )
        assert event.failure.message.startswith(f"step {step}: loss ")
        assert event.failure.evidence[1].startswith(f"samples of step {step} in the prepared data: ")
        assert str(unit_of(job, step)) in event.failure.evidence[1].partition(": ")[2].split(", ")
        assert [each.step for each in run.of("Step", rank)] == list(range(1, step))
        assert seen(job, rank)["moved"] is False


@pytest.mark.fault("F43")
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_loss_that_is_no_number_on_one_rank_is_applied_on_none(make_job, volumes, name):
    job = make_job(training=NINE, checkpoint=EVERY_TWO, parallelism=STRATEGIES[name])
    run = start(job, volumes)
    assert_stopped(job, run, Reason.NON_FINITE)
    assert run.of("Failure")[0].failure.message.startswith("step 5: loss nan, gradient no number on ")
    assert run.saved == ["step-00000002.i2", "step-00000004.i2"]


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("name", "precision"),
    [("DDP", "FP32"), ("FSDP", "FP32"), ("ZeRO-1", "FP32"), ("ZeRO-2", "BF16"), ("ZeRO-3", "FP32")],
)
def test_a_flipped_bit_in_one_rank_s_gradient_is_applied_on_none(make_job, volumes, name, precision):
    job = make_job(
        training={**NINE, "precision": precision}, checkpoint=EVERY_TWO, parallelism=STRATEGIES[name]
    )
    run = start(job, volumes, kind="flip", rank=0)
    assert_stopped(job, run, Reason.NON_FINITE)
    message = run.of("Failure")[0].failure.message
    assert "loss nan" not in message
    assert ", gradient no number on " in message


@pytest.mark.fault("F43")
@pytest.mark.parametrize(("name", "back"), [("DDP", 1), ("DDP", 2), ("FSDP", 1), ("FSDP", 2), ("ZeRO-2", 1)])
def test_after_a_rollback_a_run_is_the_one_that_never_met_the_data(make_job, volumes, name, back):
    changes = {"training": NINE, "checkpoint": EVERY_TWO, "parallelism": STRATEGIES[name]}
    job = make_job(**changes)
    failed = start(job, volumes)
    accepted = [
        AcceptedCheckpoint(name=saved, step=int(saved[5:13]), incarnation=2, digest="")
        for saved in reversed(failed.saved)
    ]
    way = detour(Rollback(checkpoints=back, step=BAD_STEP, skip_steps=1), accepted, (), BATCH)
    assert way.windows == ((16, 20),)
    job.skipped = list(way.windows)
    resumed_step = way.accepted[0].step
    assert resumed_step == 6 - 2 * back
    resumed = start(job, volumes, resume=way.accepted[0].name).ok()

    reference = make_job(**changes)
    reference.skipped = [(16, 20)]
    whole = start(reference, volumes).ok()
    wanted = {step: loss for step, loss in whole.losses().items() if step > resumed_step}
    if name == "ZeRO-2":
        assert resumed.losses() == pytest.approx(wanted, rel=1e-6)
    else:
        assert resumed.losses() == wanted
        assert resumed.norms() == {step: whole.norms()[step] for step in wanted}

    # A later start that is told of no window finds it in the manifest.
    assert manifests.read(RunStore(job.store), resumed.saved[-1]).skipped_windows == [(16, 20)]
    job.skipped = []
    later = start(job, volumes, resume="step-00000006.i3").ok()
    assert later.losses() == pytest.approx({step: whole.losses()[step] for step in (7, 8, 9)}, rel=1e-6)


TWENTY = {"maxSteps": 20, "learningRate": "1e-3"}
SPIKE = {"action": "Rollback", "windowSteps": 10, "deviations": "3", "patience": 1}


def test_a_loss_spike_stops_the_step_on_all_ranks_before_it_is_applied(make_job, volumes):
    job = make_job(training=TWENTY, guards={"lossSpike": SPIKE})
    run = start(job, volumes, kind="scale", step=5)
    # The first pass meets the sample before a window of losses is known; the second meets it again.
    step = run.of("Failure")[0].step
    assert 10 < step <= 20
    assert_stopped_at_spike(job, run, step)


def assert_stopped_at_spike(job, run, step):
    assert run.codes == [ExitCode.NUMERIC] * 2
    for rank in (0, 1):
        event = run.of("Failure", rank)[0]
        assert (event.step, event.failure.reason) == (step, Reason.LOSS_SPIKE)
        assert "above" in event.failure.message
        assert run.of("Step", rank)[-1].step == step - 1
        assert seen(job, rank)["moved"] is False


def test_losses_of_a_checkpoint_are_remembered_so_that_a_resumed_run_judges_alike(make_job, volumes):
    job = make_job(training=TWENTY, checkpoint={"everySteps": 10, "keepLast": 9}, guards={"lossSpike": SPIKE})
    whole = start(job, volumes, kind="scale", step=5)
    step = whole.of("Failure")[0].step
    assert len(manifests.read(RunStore(job.store), "step-00000010.i2").recent_losses) == 10
    again = start(job, volumes, kind="scale", step=5, resume="step-00000010.i2")
    assert_stopped_at_spike(job, again, step)
    assert again.of("Failure")[0].failure.message == whole.of("Failure")[0].failure.message


def test_a_spike_that_is_only_told_of_is_told_once_and_trained_through(make_job, volumes):
    job = make_job(training={**TWENTY, "maxSteps": 26}, guards={"lossSpike": {**SPIKE, "action": "Notify"}})
    run = start(job, volumes, kind="scale", step=5).ok()
    told = [event for event in run.of("LossSpike") if event.message]
    assert told
    assert told[0].message.startswith(f"step {told[0].step}: loss ")
    assert run.of("LossSpike", 1) == []
    assert max(run.losses()) == 26


def test_guards_change_no_bit_of_a_run_without_faults_and_send_no_message(make_job, volumes):
    losses, collectives = [], []
    for action in ("Off", "Rollback"):
        rule = {**SPIKE, "action": action, "deviations": "1000"}
        job = make_job(training=TWENTY, guards={"lossSpike": rule})
        run = start(job, volumes, kind="scale", rank=-1).ok()
        losses.append((run.losses(), run.norms()))
        collectives.append(seen(job)["collectives"])
    assert losses[0] == losses[1]
    # The one that sums the loss carries what the guards look at.
    assert collectives == [[1] * 20] * 2
