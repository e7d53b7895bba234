"""Whole runs: what they say, what they leave behind, how they stop, how they refuse."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from windlass.api.meta import ExitCode, Phase, Reason
from windlass_workloads.checkpoint import manifest as manifests
from windlass_workloads.checkpoint.store import RunStore

pytestmark = pytest.mark.workloads
LORA = {"type": "LoRA", "rank": 4}
EXPORT = {"export": "HuggingFace", "everySteps": 1000}


def shown(text, tokenizer, model):
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_a_run_says_what_it_does_in_order(make_job):
    job = make_job(
        data={"validation": {"fraction": "0.2"}},
        training={"maxSteps": 4, "validateEverySteps": 2},
        adapter=LORA,
    )
    plan = job.prepare().of("Plan")[0].plan
    run = job.train().ok()
    assert (plan.total_steps, plan.world_size, plan.accumulation, plan.precision) == (4, 1, 4, "FP32")
    assert plan.train_samples + plan.validation_samples == 40
    assert 0 < plan.trainable_parameters < plan.parameters / 10
    assert run.of("Plan")[0].plan == plan
    kinds = [event.type if event.type != "Phase" else event.phase for event in run.events[0]]
    assert kinds == [
        *(Phase.RENDEZVOUS, Phase.LOAD, "Plan", Phase.TRAIN, "Forward", "Step", "Step"),
        *(Phase.VALIDATE, "Validation", Phase.TRAIN, "Step"),
        *(Phase.SAVE, "Checkpoint", Phase.TRAIN, "Step"),
        *(Phase.VALIDATE, "Validation", Phase.TRAIN, Phase.SAVE, "Checkpoint", Phase.TRAIN),
        *(Phase.EXPORT, "Done"),
    ]
    step = run.of("Step")[-1]
    assert 0 < step.own_seconds < step.seconds
    assert step.tokens > 0
    assert 0 <= step.data_wait_seconds < step.seconds
    assert step.learning_rate == pytest.approx(
        1e-2 * 0.5 * (1 + 2**-0.5) - 5e-3 * (2**-0.5 + 2**-0.5), abs=2e-3
    )
    last = manifests.read(RunStore(job.store), run.saved[-1])
    assert last.validation_loss == run.of("Validation")[-1].loss
    assert last.data_digest == plan.data_digest


def test_held_out_samples_are_used_once_at_the_end_if_no_period_is_given(make_job):
    run = make_job(data={"validation": {"fraction": "0.2"}}, training={"maxSteps": 3}).train().ok()
    assert [event.step for event in run.of("Validation")] == [3]


@pytest.mark.fault("F26")
@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_sigterm_to_one_rank_saves_on_all_and_loses_nothing(make_job, strategy):
    changes = {"parallelism": {"strategy": strategy}, "checkpoint": {"everySteps": 1000}, "adapter": LORA}
    whole = make_job(**changes).train(world=2).ok().losses()
    job = make_job(**changes)
    stopped = job.train(world=2, actions=[{"rank": 1, "type": "Step", "step": 3, "signal": "SIGTERM"}])
    assert stopped.codes == [0, 0]
    step = stopped.of("Saved")[0].step
    assert step in (3, 4)
    assert stopped.of("Saved", rank=1)[0].step == step
    assert stopped.saved == [f"step-{step:08d}.i2"]
    assert not stopped.of("Done")
    resumed = job.start(world=2, resume=stopped.saved[0]).ok()
    assert {**stopped.losses(), **resumed.losses()} == whole


@pytest.mark.parametrize("phase", ["Rendezvous", "Load"])
def test_sigterm_before_the_first_step_ends_cleanly(make_job, phase):
    job = make_job()
    job.prepare()
    stopped = job.train(world=2, actions=[{"type": "Phase", "step": None, "signal": "SIGTERM"}])
    assert stopped.codes == [0, 0]
    assert [event.step for event in stopped.of("Saved")] == [0]
    assert stopped.losses() == {}
    assert RunStore(job.store).list_checkpoints() == []


def test_sigterm_stops_prepare_and_the_next_one_begins_anew(make_job):
    job = make_job()
    stopped = job.start("prepare", actions=[{"type": "Phase", "signal": "SIGTERM"}])
    assert stopped.codes == [0]
    assert not stopped.of("Prepared")
    assert job.prepare().of("Prepared")


@pytest.mark.parametrize("strategy", [{"strategy": "FSDP"}, {"strategy": "DeepSpeed", "zeroStage": 3}])
def test_the_exported_adapter_and_merged_model_agree(make_job, volumes, strategy):
    job = make_job(adapter=LORA, checkpoint={**EXPORT, "mergeAdapter": True}, parallelism=strategy)
    output = job.train(world=2).ok().of("Output")[0].output
    root = job.store / "output"
    assert output.uri == "pvc://store/team/job/uid-1/output/merged"
    tokenizer = AutoTokenizer.from_pretrained(root / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(root / "adapter").chat_template
    base = AutoModelForCausalLM.from_pretrained(volumes / "models" / "tiny")
    plain = shown("my router broke", tokenizer, base)
    merged = shown("my router broke", tokenizer, AutoModelForCausalLM.from_pretrained(root / "merged"))
    adapted = shown("my router broke", tokenizer, PeftModel.from_pretrained(base, root / "adapter").eval())
    assert float((merged - adapted).abs().max()) < 1e-4
    assert float((merged - plain).abs().max()) > 1e-2
    assert json.loads((root / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "pvc://models/tiny"
    )


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_the_exported_model_is_whole_and_its_digests_are_true(make_job, strategy):
    job = make_job(checkpoint=EXPORT, parallelism={"strategy": strategy})
    run = job.train(world=2).ok()
    output = run.of("Output")[0].output
    root = job.store / "output"
    assert output.uri.endswith("/output/model")
    config = json.loads((root / "model" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert AutoModelForCausalLM.from_pretrained(root / "model").num_parameters() > 0
    record = json.loads((root / "digests.json").read_text())
    assert record["digest"] == output.digest
    for name, facts in record["files"].items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == facts["sha256"], name
    before = (root / "model" / "model.safetensors").stat().st_mtime_ns
    again = job.start(world=2, resume=run.saved[-1]).ok()
    assert again.of("Output")[0].output == output
    assert (root / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert again.losses() == {}


def slow_export(job, volumes, end):
    job.prepare()
    return job.start(
        world=2,
        function="tests.workloads.train.slow.train",
        environment={"VOLUMES": str(volumes), "END": end},
        stop_peers=False,
    )


def test_an_export_may_take_longer_than_messages_between_ranks(make_job, volumes):
    run = slow_export(make_job(checkpoint=EXPORT), volumes, "late").ok()
    assert [len(run.of("Done", rank)) for rank in (0, 1)] == [1, 1]


def test_who_waits_for_an_export_notices_that_it_was_killed(make_job, volumes):
    run = slow_export(make_job(checkpoint=EXPORT), volumes, "killed")
    assert run.codes[0] == -9
    failure = run.of("Failure", rank=1)[0].failure
    assert (failure.reason, run.codes[1]) == (Reason.INFRASTRUCTURE, ExitCode.CRASH)


def test_packing_and_activation_checkpointing_train(make_job):
    job = make_job(data={"packing": True}, training={"activationCheckpointing": True, "maxSteps": 8})
    losses = job.train().ok().losses()
    assert losses[8] < losses[1]


def test_slow_bf16_is_done_and_warned_of(make_job):
    run = make_job(training={"precision": "BF16", "maxSteps": 2}, adapter=LORA).train().ok()
    plan = run.of("Plan")[0].plan
    assert plan.precision == "BF16"
    assert run.losses()[2] > 0


REFUSALS = [
    ({"model": {"uri": "pvc://models/none"}}, Reason.MODEL_NOT_FOUND, "nothing at none on claim models"),
    ({"data": {"sources": [{"uri": "pvc://data/x.jsonl"}]}}, Reason.DATA_NOT_FOUND, "/ holds train.jsonl"),
    ({"data": {"sequenceLength": 1000}}, Reason.SEQUENCE_TOO_LONG, "allowed at most 512"),
    (
        {"data": {"sources": [{"uri": "pvc://data/train.jsonl", "format": "Instruction"}]}},
        Reason.DATA_UNREADABLE,
        "unreadable row train.jsonl:1: no column instruction (got messages)",
    ),
]


@pytest.mark.parametrize(("changes", "reason", "said"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_prepare_refuses_what_training_could_not_use(make_job, changes, reason, said):
    refused = make_job(**changes).start("prepare")
    assert refused.codes == [ExitCode.CONFIGURATION]
    failure = refused.of("Failure")[0].failure
    assert failure.reason == reason
    assert said in failure.message
    assert failure.hint


def test_a_changed_seed_is_refused_on_resume(make_job):
    job = make_job()
    job.train().ok()
    job.spec = {**job.spec, "training": {**job.spec["training"], "globalBatchSize": 2}}
    refused = job.start(resume="step-00000003.i2")
    assert refused.codes == [ExitCode.CONFIGURATION]
    assert refused.of("Failure")[0].failure.message == (
        "spec.training.globalBatchSize: differs from the checkpoint at step 3 (got 2); allowed 4."
    )


def test_a_loss_that_is_no_number_ends_the_run_before_a_save(make_job):
    run = make_job(
        training={"learningRate": "1e30", "gradientClip": "0"}, checkpoint={"everySteps": 1}
    ).train()
    assert run.codes == [ExitCode.NUMERIC]
    failure = run.of("Failure")[0].failure
    assert failure.message.startswith("step ")
    assert failure.reason == Reason.NON_FINITE
    assert len(run.saved) == len(run.of("Step"))


def test_the_warm_process_has_one_thread(fork_server):
    assert fork_server.threads == 1
