"""A model built in the parent before the fork: the same run to the last bit, and never another run's model."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch

from windlass.api.contract import RankContext
from windlass.api.finetune import FineTuneJobSpec
from windlass_workloads.train import ahead
from windlass_workloads.train.assembly import finder_of
from windlass_workloads.train.build import build
from windlass_workloads.train.model import read_model
from windlass_workloads.train.replicas import bit_sums
from workloads.train.support import SPEC, merge

pytestmark = pytest.mark.workloads

LORA = {"type": "LoRA", "rank": 4, "dropout": "0.1"}
MANY = {"resources": {"perNode": {"memory": "64Gi"}}}


def spec(**changes) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(merge(SPEC, changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": LORA},
        {"adapter": LORA, "training": {"precision": "BF16"}},
        {"adapter": {"type": "IA3"}},
        {},
        {"training": {"activationCheckpointing": True}},
        {"parallelism": {"strategy": "FSDP"}},
        {"parallelism": {"strategy": "FSDP"}, "adapter": LORA},
    ],
    ids=["lora", "lora-bf16", "ia3", "full", "recomputed", "fsdp", "fsdp-lora"],
)
def test_run_is_bitwise_the_same(make_job, changes) -> None:
    plain = make_job(**changes, **MANY).train(world=2).ok()
    job = make_job(**changes, **MANY)
    built = job.train(world=2, ahead=True).ok()
    assert built.built is True
    assert built.losses() == plain.losses() and built.norms() == plain.norms()
    resumed = job.start(world=2, ahead=True, resume=built.saved[0]).ok()
    assert resumed.losses() == {step: loss for step, loss in plain.losses().items() if step > 3}


def test_parent_has_one_thread_afterwards_and_forks_soundly_again_and_again(make_job) -> None:
    job = make_job(adapter=LORA, training={"maxSteps": 1})
    outcomes = [job.train(world=2, ahead=True).ok() for _ in range(3)]
    assert {outcome.threads for outcome in outcomes} == {1}
    assert len({outcome.losses()[1] for outcome in outcomes}) == 1


def test_ranks_that_were_forked_with_other_weights_are_told_so(make_job, volumes, tmp_path) -> None:
    """The parent's sums stand for what the rank has: a rank that builds by itself is compared with them."""
    from safetensors.torch import load_file, save_file

    from workloads.train.test_replicas import volumes_per_rank

    job = make_job(training={"maxSteps": 2}, **MANY)
    job.volumes = volumes_per_rank(volumes, tmp_path)
    (weights,) = (tmp_path / "node-1" / "models" / "tiny").glob("*.safetensors")
    tensors = load_file(weights)
    tensors[sorted(tensors)[0]] += 1e-6
    save_file(tensors, weights, metadata={"format": "pt"})
    job.prepare()
    outcome = job.start(world=2, ahead=True, ahead_volumes=str(tmp_path / "node-0"))
    assert outcome.built is True
    assert "ranks read different weights" in outcome.of("Failure")[0].failure.message


def context_of(job, **changes) -> RankContext:
    config = job.config()
    return RankContext(
        task="train", config=config, incarnation=1, world_size=2, prepared=job.prepared, **changes
    )


@pytest.fixture
def local(volumes: Path):
    return read_model("pvc://models/tiny", volumes / "models" / "tiny")


@pytest.fixture(autouse=True)
def forgetful():
    ahead.forget()
    yield
    ahead.forget()


def build_here(job, volumes: Path) -> bool:
    from windlass_workloads.data.sources import Roots

    context = context_of(job)
    return ahead.build_ahead(context, finder_of(context.config, Roots(volumes)))


def test_what_is_taken_is_what_would_have_been_built_and_is_taken_once(make_job, volumes, local) -> None:
    job = make_job(adapter=LORA)
    assert build_here(job, volumes)
    one = ahead.take(local, spec(adapter=LORA), "FP32")
    other = build(local, spec(adapter=LORA), "FP32")
    assert one is not None and one.bit_sums is not None
    assert torch.equal(one.bit_sums, bit_sums(other.model))
    assert (one.work, one.parameters, one.chooses_logits) == (
        other.work,
        other.parameters,
        other.chooses_logits,
    )
    assert one.model.training
    assert ahead.take(local, spec(adapter=LORA), "FP32") is None


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({"adapter": {**LORA, "rank": 8}}, "FP32"),
        ({}, "FP32"),
        ({"adapter": LORA, "training": {"seed": 18}}, "FP32"),
        ({"adapter": LORA, "training": {"activationCheckpointing": True}}, "FP32"),
        ({"adapter": LORA}, "BF16"),
    ],
    ids=["rank", "no-adapter", "seed", "recomputed", "precision"],
)
def test_model_of_another_spec_is_not_taken(make_job, volumes, local, changes, precision) -> None:
    assert build_here(make_job(adapter=LORA), volumes)
    assert ahead.take(local, spec(**changes), precision) is None


def test_model_whose_files_have_changed_is_not_taken(make_job, volumes, local) -> None:
    from dataclasses import replace

    assert build_here(make_job(adapter=LORA), volumes)
    assert ahead.take(replace(local, digest="xxh3:0"), spec(adapter=LORA), "FP32") is None


def test_second_request_builds_nothing_new(make_job, volumes, monkeypatch) -> None:
    job = make_job(adapter=LORA)
    assert build_here(job, volumes)
    monkeypatch.setattr(ahead, "build", lambda *_: pytest.fail("built twice"))
    assert build_here(job, volumes)


@pytest.mark.parametrize(
    ("changes", "memory", "fits"),
    [
        ({"adapter": LORA}, "1Mi", True),
        ({}, "1Mi", False),
        ({}, "64Gi", True),
        ({"adapter": LORA, "parallelism": {"strategy": "FSDP"}}, "1Mi", False),
        ({"adapter": LORA, "parallelism": {"strategy": "DeepSpeed", "zeroStage": 3}}, "64Gi", True),
    ],
    ids=["frozen-is-shared", "full-too-large", "full-fits", "sharded-too-large", "sharded-fits"],
)
def test_weights_that_ranks_write_to_must_fit_an_eighth_of_the_pods_memory(
    local, changes, memory, fits
) -> None:
    wanted = spec(**changes, resources={"perNode": {"memory": memory}})
    assert ahead.fits(local.directory, wanted, torch.float32) is fits


def test_an_eighth_is_counted_to_the_byte(tmp_path: Path) -> None:
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "a": {"shape": [4, 8]}, "b": {"shape": []}, "c": {"shape": [31]}}
    ).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert ahead.elements(tmp_path / "m.safetensors") == 64
    for memory, fits in (("2048", True), ("2047", False)):
        wanted = spec(resources={"perNode": {"memory": memory}})
        assert ahead.fits(tmp_path, wanted, torch.float32) is fits
    assert ahead.fits(tmp_path, spec(resources={"perNode": {"memory": "1024"}}), torch.bfloat16)


@pytest.mark.parametrize(
    ("precision", "devices", "ahead_of_time"),
    [("FP32", 0, "FP32"), ("FP32", 2, "FP32"), ("BF16", 2, "BF16"), ("Auto", 2, None)],
)
def test_no_device_is_asked_for_the_precision(precision, devices, ahead_of_time) -> None:
    wanted = spec(
        training={"precision": precision}, resources={"accelerator": {"count": devices}, "ranksPerNode": 1}
    )
    assert ahead.precision_ahead(wanted) == ahead_of_time


def test_precision_that_a_device_must_choose_leaves_building_to_the_ranks(make_job, volumes) -> None:
    job = make_job(training={"precision": "Auto"}, resources={"accelerator": {"count": 1}})
    assert not build_here(job, volumes)


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_loading_by_threads_is_allowed_again_afterwards(monkeypatch, before) -> None:
    monkeypatch.delenv(ahead.SYNCHRONOUS, raising=False)
    if before is not None:
        monkeypatch.setenv(ahead.SYNCHRONOUS, before)
    with ahead.one_thread():
        assert os.environ[ahead.SYNCHRONOUS] == "1"
    assert os.environ.get(ahead.SYNCHRONOUS) == before
