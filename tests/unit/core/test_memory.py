"""Memory of a rank by arithmetic: parts, what each setting changes, and never less for more work."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import SPEC
from windlass.api.finetune import FineTuneJobSpec
from windlass.core.planning.memory import (
    RankMemory,
    Sharing,
    Workload,
    rank_memory,
    state_bytes,
    workload_of,
)
from windlass.core.planning.shape import ModelShape

FULL = ModelShape(
    parameters=20_000_000,
    trained=20_000_000,
    layers=8,
    hidden=384,
    intermediate=1024,
    heads=6,
    kv_heads=3,
    head_size=64,
    vocabulary=16_000,
    tied=True,
)
ADAPTED = replace(FULL, parameters=20_500_000, trained=500_000)
ALONE = Workload("DDP", 1, 2, 256, 1, half=False, recomputed=False)
MIB = 2**20


def job(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(SPEC | changes)


@pytest.mark.parametrize(
    ("shape", "load", "weights", "gradients", "optimizer"),
    [
        (FULL, ALONE, 80, 80, 160),
        (FULL, replace(ALONE, half=True), 80, 80, 160),
        (ADAPTED, replace(ALONE, adapter="LoRA"), 82, 2, 4),
        (ADAPTED, replace(ALONE, adapter="LoRA", half=True), 42, 2, 4),
        (FULL, replace(ALONE, sharing="FSDP", world=4), 20, 20, 40),
        (ADAPTED, replace(ALONE, sharing="FSDP", world=4, half=True), 20.5, 0.5, 1),
        (FULL, replace(ALONE, sharing="FSDP", world=4, shard_group=2), 40, 40, 80),
        (FULL, replace(ALONE, sharing="FSDP", world=4, shard_group=4), 20, 20, 40),
        (ADAPTED, replace(ALONE, sharing="FSDP", world=64, shard_group=4, half=True), 20.5, 0.5, 1),
        (FULL, replace(ALONE, sharing="ZeRO-1", world=4), 80, 80, 60),
        (FULL, replace(ALONE, sharing="ZeRO-2", world=4), 80, 20, 60),
        (FULL, replace(ALONE, sharing="ZeRO-3", world=4), 20, 20, 60),
        (FULL, replace(ALONE, sharing="ZeRO-1", world=4, half=True), 40, 40, 60),
        (FULL, replace(ALONE, sharing="ZeRO-2", world=4, half=True), 40, 10, 60),
        (FULL, replace(ALONE, sharing="ZeRO-3", world=4, half=True), 10, 10, 60),
    ],
)
def test_what_is_held_at_rest(
    shape: ModelShape, load: Workload, weights: float, gradients: float, optimizer: float
) -> None:
    found = rank_memory(shape, load)
    held = (found.weights, found.gradients, found.optimizer)
    assert held == (weights * 1e6, gradients * 1e6, optimizer * 1e6)


def test_logits_are_counted_three_times_in_fp32() -> None:
    assert rank_memory(FULL, ALONE).logits == 512 * 16_000 * 12


ZERO_3 = replace(ALONE, sharing="ZeRO-3", world=2)
BILLIONS = replace(FULL, parameters=3_000_000_000, trained=3_000_000_000)
SHORT = {"rows": 1, "tokens_per_row": 8}


@pytest.mark.parametrize(
    ("shape", "load", "gathered"),
    [
        # All weights stay gathered, one bucket of gradients, and both copies of it beyond the logits' 98.3 MB.
        (FULL, ZERO_3, 80e6 + 80e6 + (160e6 - 512 * 16_000 * 12)),
        (FULL, replace(ZERO_3, half=True), 40e6 + 40e6),
        (FULL, replace(ZERO_3, **SHORT), 80e6 + 80e6 + 160e6 - 8 * 16_000 * 12),
        # Frozen weights are gathered too, but only the adapter has gradients.
        (ADAPTED, replace(ZERO_3, adapter="LoRA"), 82e6 + 2e6),
        # Large models: weights up to stage3_max_live_parameters, gradients up to reduce_bucket_size.
        (BILLIONS, replace(ZERO_3, rows=64, tokens_per_row=8192), 4e9 + 2e9),
        (BILLIONS, replace(ZERO_3, **SHORT), 4e9 + 2e9 + 4e9 - 8 * 16_000 * 12),
        # An accelerator gives the whole bucket away, however small the model.
        (FULL, replace(ZERO_3, on_device=True), 80e6 + 2e9),
        (FULL, replace(ZERO_3, on_device=True, half=True), 40e6 + 1e9),
        (FULL, replace(ALONE, sharing="ZeRO-2", on_device=True, half=True), 1e9),
        (FULL, replace(ALONE, sharing="ZeRO-2"), 80e6),
        (BILLIONS, replace(ALONE, sharing="ZeRO-1", half=True), 1e9),
    ],
)
def test_what_deepspeed_holds_for_a_while(shape: ModelShape, load: Workload, gathered: float) -> None:
    assert rank_memory(shape, load).gathered == gathered


def test_an_accelerator_reuses_what_activations_took_before_a_bucket_is_sent() -> None:
    load = replace(ZERO_3, on_device=True, rows=1, tokens_per_row=512)
    kept = rank_memory(BILLIONS, load)
    assert kept.gathered == 4e9 + 2e9 + 2e9 - kept.logits - kept.activations


@pytest.mark.parametrize(
    ("sharing", "on_device", "process"),
    [
        ("DDP", False, 32),
        ("FSDP", False, 32),
        ("ZeRO-2", False, 32),
        ("ZeRO-3", False, 96),
        ("ZeRO-3", True, 0),
    ],
)
def test_a_process_takes_its_share_of_a_host_only(sharing: Sharing, on_device: bool, process: int) -> None:
    assert rank_memory(FULL, replace(ALONE, sharing=sharing, on_device=on_device)).process == process * MIB


@pytest.mark.parametrize(("count", "on_device"), [(0, False), (1, True)])
def test_the_spec_says_whether_ranks_have_accelerators(count: int, on_device: bool) -> None:
    assert workload_of(job(resources={"accelerator": {"count": count}}), half=False).on_device == on_device


@pytest.mark.parametrize(
    ("shape", "sharing", "size"),
    [
        (FULL, "DDP", 240e6),
        (FULL, "FSDP", 240e6),
        (ADAPTED, "DDP", 6e6),
        (ADAPTED, "FSDP", 6e6),
        (FULL, "ZeRO-2", 320e6),
    ],
)
def test_a_checkpoint_holds_what_is_trained(shape: ModelShape, sharing: Sharing, size: float) -> None:
    assert state_bytes(shape, replace(ALONE, sharing=sharing, world=2)) == size


@pytest.mark.parametrize(
    ("sharing", "copies", "size"),
    [
        ("DDP", True, 240e6),
        ("DDP", False, 240e6),
        ("FSDP", True, 120e6),
        ("FSDP", False, 0),
        ("ZeRO-3", True, 0),
    ],
)
def test_a_save_writes_from_a_copy(sharing: Sharing, copies: bool, size: float) -> None:
    load = replace(ALONE, sharing=sharing, world=2, copies_state=copies)
    assert rank_memory(FULL, load).checkpoint_copy == size


def test_a_save_of_groups_copies_a_part_of_a_group() -> None:
    load = replace(ALONE, sharing="FSDP", world=8, shard_group=2)
    assert rank_memory(FULL, load).checkpoint_copy == 120e6
    assert state_bytes(FULL, load) == state_bytes(FULL, replace(load, shard_group=None))


def test_groups_change_nothing_but_what_is_split() -> None:
    alone = replace(ALONE, sharing="FSDP", world=2)
    groups = replace(alone, world=16, shard_group=2)
    assert rank_memory(FULL, groups) == rank_memory(FULL, alone)


def test_recomputing_keeps_one_layer_and_the_inputs_of_all() -> None:
    plain = rank_memory(FULL, ALONE).activations
    less = rank_memory(FULL, replace(ALONE, recomputed=True)).activations
    assert less == plain // 8 + 8 * 512 * 384 * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("DDP", 1, 1, 1024, 16)),
        ({"parallelism": {"strategy": "FSDP"}, "resources": {"nodes": 2}}, ("FSDP", 2, 1, 1024, 8)),
        (
            {"parallelism": {"strategy": "DeepSpeed", "zeroStage": 3}, "resources": {"ranksPerNode": 4}},
            ("ZeRO-3", 4, 1, 1024, 4),
        ),
        (
            {
                "training": {"globalBatchSize": 16, "microBatchSize": 8, "maxSteps": 1},
                "data": {**SPEC["data"], "sequenceLength": 64},
            },
            ("DDP", 1, 8, 64, 2),
        ),
    ],
)
def test_the_workload_of_a_spec(changes: dict[str, Any], expected: tuple[object, ...]) -> None:
    load = workload_of(job(**changes), half=False)
    assert (load.sharing, load.world, load.rows, load.tokens_per_row, load.accumulation) == expected


@pytest.mark.parametrize(("size", "shards"), [(None, 8), (2, 2), (4, 4), (8, 8)])
def test_the_parts_of_a_spec(size: int | None, shards: int) -> None:
    parallelism = {"strategy": "FSDP"} | ({} if size is None else {"shardGroupSize": size})
    spec = job(parallelism=parallelism, resources={"nodes": 4, "ranksPerNode": 2})
    assert workload_of(spec, half=False).shards == shards


@pytest.mark.parametrize(("longest", "tokens"), [(None, 1024), (100, 100), (5000, 1024)])
def test_rows_are_as_long_as_the_longest_sample(longest: int | None, tokens: int) -> None:
    assert workload_of(job(), half=False, longest=longest).tokens == tokens


SHAPES = st.builds(
    ModelShape,
    parameters=st.integers(10**6, 10**9),
    trained=st.integers(1, 10**6),
    layers=st.integers(1, 64),
    hidden=st.integers(8, 4096),
    intermediate=st.integers(8, 8192),
    heads=st.integers(1, 32),
    kv_heads=st.integers(1, 8),
    head_size=st.integers(8, 128),
    vocabulary=st.integers(8, 10_000),
    tied=st.booleans(),
)
LOADS = st.builds(
    Workload,
    sharing=st.sampled_from(get_args(Sharing)),
    world=st.integers(1, 64),
    rows=st.integers(1, 64),
    tokens_per_row=st.integers(1, 8192),
    accumulation=st.integers(1, 8),
    half=st.booleans(),
    recomputed=st.booleans(),
    adapter=st.sampled_from([None, "LoRA", "IA3"]),
    copies_state=st.booleans(),
    shard_group=st.sampled_from([None, 2, 8]),
    on_device=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(SHAPES, LOADS)
def test_parts_sum_to_the_total_and_none_is_negative(shape: ModelShape, load: Workload) -> None:
    found = rank_memory(shape, load)
    parts = {each.name: getattr(found, each.name) for each in fields(RankMemory)}
    assert all(part >= 0 for part in parts.values())
    assert found.total == sum(parts.values()) - found.checkpoint_copy


@settings(max_examples=300, deadline=None)
@given(SHAPES, LOADS, st.sampled_from(["rows", "tokens_per_row"]), st.integers(1, 9))
def test_more_rows_or_tokens_never_need_less(shape: ModelShape, load: Workload, name: str, more: int) -> None:
    larger = replace(load, **{name: getattr(load, name) + more})
    before, after = rank_memory(shape, load), rank_memory(shape, larger)
    assert after.total >= before.total
    # Where a bucket is sent once activations are gone, the larger of both counts.
    if load.sharing != "ZeRO-3":
        assert after.total > before.total


@settings(max_examples=300, deadline=None)
@given(SHAPES, LOADS, st.integers(1, 9))
def test_more_ranks_never_need_more_of_each(shape: ModelShape, load: Workload, more: int) -> None:
    wider = replace(load, world=load.world + more)
    assert rank_memory(shape, wider).total <= rank_memory(shape, load).total


@settings(max_examples=200, deadline=None)
@given(SHAPES, LOADS, st.sampled_from(["vocabulary", "parameters"]), st.integers(1, 10**6))
def test_a_larger_model_never_needs_less(shape: ModelShape, load: Workload, name: str, more: int) -> None:
    load = replace(load, sharing="DDP")
    larger = replace(shape, **{name: getattr(shape, name) + more})
    assert rank_memory(larger, load).total >= rank_memory(shape, load).total


@settings(max_examples=200, deadline=None)
@given(SHAPES, LOADS)
def test_each_stage_of_deepspeed_holds_less_at_rest(shape: ModelShape, load: Workload) -> None:
    held = []
    for stage in ("ZeRO-1", "ZeRO-2", "ZeRO-3"):
        found = rank_memory(shape, replace(load, sharing=stage))
        held.append(found.weights + found.gradients + found.optimizer)
    assert held == sorted(held, reverse=True)
