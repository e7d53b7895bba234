"""What the sizes of a model add to a plan: numbers, and doubts with the field to change."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.core.builders import SPEC
from unit.core.test_memory import ADAPTED, FULL
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.meta import FailureClass
from windlass.api.status import Failure, JobStatus, Plan, PlannedMemory
from windlass.core.plan import arithmetic_plan
from windlass.core.planning.estimate import (
    bytes_text,
    host_bytes,
    in_status,
    length_warnings,
    memory_advice,
    sized,
    with_memory_advice,
)
from windlass.core.planning.memory import rank_memory, workload_of


def job(memory: str = "64Gi", **changes: Any) -> FineTuneJobSpec:
    resources = {"perNode": {"memory": memory}, **changes.pop("resources", {})}
    return FineTuneJobSpec.model_validate(SPEC | {"resources": resources} | changes)


def test_the_plan_gets_what_the_model_tells_and_keeps_what_it_knew() -> None:
    plan = sized(Plan(total_steps=7, warnings=["known"]), job(), ADAPTED, half=False)
    memory = plan.memory_per_rank
    assert memory is not None
    assert (plan.total_steps, plan.warnings) == (7, ["known"])
    assert (plan.parameters, plan.trainable_parameters) == (20_500_000, 500_000)
    assert plan.checkpoint_bytes == 12 * 500_000
    assert memory.total == sum(
        (
            *(memory.weights, memory.gradients, memory.optimizer),
            *(memory.activations, memory.logits, memory.gathered, memory.process),
        )
    )


def test_counted_parameters_are_not_overwritten() -> None:
    plan = sized(Plan(parameters=5, trainable_parameters=4), job(), FULL, half=False)
    assert (plan.parameters, plan.trainable_parameters) == (5, 4)


@pytest.mark.parametrize(("memory", "warned"), [("256Mi", True), ("64Gi", False)])
def test_a_pod_that_cannot_hold_its_ranks_is_warned_of(memory: str, warned: bool) -> None:
    said = sized(Plan(), job(memory), FULL, half=False).warnings
    assert bool(said) == warned
    if warned:
        assert said[0].startswith(
            "resources.perNode.memory: less than the ranks of a pod will need (got 256Mi; "
        )
        assert "hint: set resources.perNode.memory above " in said[0]


def test_following_the_advice_silences_the_warning() -> None:
    said = sized(Plan(), job("256Mi"), FULL, half=False).warnings[0]
    found = re.search(r"perNode.memory above ([0-9.]+) (MiB|GiB)", said)
    assert found is not None
    above = float(found[1]) * (1024 if found[2] == "GiB" else 1) + 1024
    assert sized(Plan(), job(f"{int(above)}Mi"), FULL, half=False).warnings == []


def test_an_accelerators_ranks_need_only_the_copy_in_the_pod() -> None:
    spec = job(resources={"accelerator": {"count": 2}, "ranksPerNode": 2})
    found = in_status(rank_memory(FULL, workload_of(spec, half=True)))
    assert host_bytes(spec, found) == 2 * found.checkpoint_copy


def planned(spec: FineTuneJobSpec) -> PlannedMemory:
    return in_status(rank_memory(FULL, workload_of(spec, half=False)))


def after_failure(spec: FineTuneJobSpec, kind: FailureClass, **fields: Any) -> JobStatus:
    failure = Failure(reason=kind, failure_class=kind, hint="as it was", **fields)
    plan = Plan(memory_per_rank=planned(spec))
    return with_memory_advice(JobStatus(last_failure=failure, plan=plan), spec)


def hint_of(status: JobStatus) -> str:
    assert status.last_failure is not None
    return status.last_failure.hint


def test_running_out_of_memory_tells_the_plans_numbers() -> None:
    spec = job("256Mi", training={**TRAINING, "microBatchSize": 4})
    hint = hint_of(after_failure(spec, FailureClass.OUT_OF_MEMORY, signal=9))
    needed = bytes_text(host_bytes(spec, planned(spec)))
    assert hint.startswith(f"planned {needed} for the ranks of a pod, of resources.perNode.memory 256Mi: ")
    assert f"set resources.perNode.memory above {needed}" in hint
    assert "training.microBatchSize: 2 (about " in hint


@pytest.mark.parametrize(
    ("fields", "in_pod"), [({"exit_code": 1}, False), ({"signal": 9}, True), ({"exit_code": 137}, True)]
)
def test_a_devices_memory_is_told_from_the_pods(fields: dict[str, int], in_pod: bool) -> None:
    spec = job(resources={"accelerator": {"count": 1}})
    hint = hint_of(after_failure(spec, FailureClass.OUT_OF_MEMORY, **fields))
    assert ("of resources.perNode.memory 64Gi" in hint) == in_pod
    assert ("of the device" in hint) != in_pod
    assert ("activationCheckpointing" in hint) != in_pod


def test_advice_is_the_same_however_often_it_is_given() -> None:
    spec = job("256Mi")
    once = after_failure(spec, FailureClass.OUT_OF_MEMORY, signal=9)
    assert with_memory_advice(once, spec) == once


@pytest.mark.parametrize("kind", [kind for kind in FailureClass if kind != FailureClass.OUT_OF_MEMORY])
def test_other_failures_keep_their_hint(kind: FailureClass) -> None:
    assert hint_of(after_failure(job(), kind)) == "as it was"


def test_without_a_plan_the_hint_stays_general() -> None:
    failure = Failure(reason="OutOfMemory", failure_class=FailureClass.OUT_OF_MEMORY, hint="as it was")
    status = JobStatus(last_failure=failure)
    assert with_memory_advice(status, job()) == status


TRAINING = {"globalBatchSize": 16, "maxSteps": 10}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"activationCheckpointing"}),
        ({"training": {**TRAINING, "activationCheckpointing": True}}, set()),
        ({"training": {**TRAINING, "microBatchSize": 8}}, {"microBatchSize", "activationCheckpointing"}),
        ({"resources": {"nodes": 2}}, {"activationCheckpointing", "strategy"}),
        ({"resources": {"nodes": 2}, "parallelism": {"strategy": "FSDP"}}, {"activationCheckpointing"}),
        (
            {"resources": {"nodes": 4}, "parallelism": {"strategy": "FSDP", "shardGroupSize": 2}},
            {"activationCheckpointing", "shardGroupSize"},
        ),
        (
            {"resources": {"nodes": 2}, "parallelism": {"strategy": "FSDP", "shardGroupSize": 2}},
            {"activationCheckpointing"},
        ),
    ],
)
def test_advice_names_only_what_can_still_be_changed(changes: dict[str, Any], expected: set[str]) -> None:
    spec = job(**changes)
    text = memory_advice(spec, planned(spec))
    fields = {"microBatchSize", "activationCheckpointing", "strategy", "shardGroupSize"}
    assert {field for field in fields if field in text} == expected


def test_one_group_saves_what_the_advice_says() -> None:
    four = {"nodes": 4, "ranksPerNode": 2}
    groups = job(parallelism={"strategy": "FSDP", "shardGroupSize": 2}, resources=four)
    one, many = planned(job(parallelism={"strategy": "FSDP"}, resources=four)), planned(groups)
    saved = sum(getattr(many, name) - getattr(one, name) for name in ("weights", "gradients", "optimizer"))
    assert f"parallelism without shardGroupSize (about {bytes_text(saved)} less per rank)" in memory_advice(
        groups, many
    )


@pytest.mark.parametrize(
    ("longest", "packing", "warned"),
    [(None, False, False), (200, False, True), (256, False, True), (257, False, False), (10, True, False)],
)
def test_rows_far_longer_than_any_sample_are_told(longest: int | None, packing: bool, warned: bool) -> None:
    spec = job(data={**SPEC["data"], "sequenceLength": 1024, "packing": packing})
    said = length_warnings(spec, longest)
    assert bool(said) == warned
    if warned:
        assert f"(got 1024, {longest} tokens)" in said[0] and "hint: " in said[0]


@pytest.mark.parametrize(
    ("steps", "hint"),
    [(None, None), (20, None), (21, None), (19, "set it to 4 or less"), (1, "set it to 1 or less")],
)
def test_a_run_of_epochs_too_short_for_a_checkpoint_is_told(steps: int | None, hint: str | None) -> None:
    spec = job(training={"globalBatchSize": 16, "epochs": 2})
    said = sized(Plan(total_steps=steps), spec, FULL, half=False).warnings
    assert [hint in text for text in said] == ([True] if hint else [])
    if hint:
        assert said[0].startswith(
            f"checkpoint.everySteps: more than the {steps} steps of training.epochs 2 (got 20)"
        )


def test_steps_that_the_spec_itself_gives_are_judged_once() -> None:
    spec = job(training={"globalBatchSize": 16, "maxSteps": 10})
    first = arithmetic_plan(spec)
    assert len(first.warnings) == 1
    assert sized(first, spec, FULL, half=False).warnings == first.warnings


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_bytes_are_told_in_powers_of_1024(count: int, text: str) -> None:
    assert bytes_text(count) == text


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=40))
def test_warnings_fit_into_status(warnings: list[str]) -> None:
    said = sized(Plan.model_construct(warnings=warnings), job("1Mi"), FULL, half=False).warnings
    assert len(said) <= 32 and len(set(said)) == len(said)
