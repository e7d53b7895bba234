"""spec.custom: what it stands in place of, what it rules out, and what code sees of a job that has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.crd.specs import VALID
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.validation import validate

COMMAND = {"command": ["python", "/scripts/train.py"]}
BLOCKS: dict[str, Any] = {name: VALID["spec"][name] for name in ("model", "data", "training")}
MLFLOW = {"mlflow": {"uri": "http://mlflow:5000"}}


def document(**spec: Any) -> dict[str, Any]:
    whole = {"checkpoint": {"store": "pvc://checkpoints"}, **spec}
    return {**VALID, "spec": {name: block for name, block in whole.items() if block is not None}}


def told(**spec: Any) -> list[str]:
    return [str(problem) for problem in validate(document(**spec))]


def parsed(**spec: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(document(**spec)["spec"])


REPLACED = (
    "spec.{0}: a command of your own replaces this block (got {0} with custom); allowed: {0}, or custom. hint: "
    "remove it, and give the script what it needs by custom.command, pod.env or pod.volumes"
)
SENTENCES: list[tuple[dict[str, Any], list[str]]] = [
    ({"custom": COMMAND}, []),
    ({"custom": {**COMMAND, "image": "registry.example/mine:1"}}, []),
    ({"custom": COMMAND, "pod": {"image": "registry.example/mine:1"}}, []),
    ({"custom": COMMAND, "recovery": {"elastic": {"minNodes": 1}}, "resources": {"nodes": 2}}, []),
    *(({"custom": COMMAND, name: block}, [REPLACED.format(name)]) for name, block in BLOCKS.items()),
    ({"custom": COMMAND, "adapter": {"rank": 8}}, [REPLACED.format("adapter")]),
    (
        {"custom": COMMAND, "tracking": MLFLOW},
        [
            "spec.tracking: a command of your own replaces this block (got tracking with custom); allowed: tracking, "
            "or custom. hint: remove it; a script speaks to its tracking server itself"
        ],
    ),
    (
        {"custom": COMMAND, "parallelism": {"strategy": "FSDP"}},
        [
            "spec.parallelism.strategy: a command of your own decides how its ranks share the work (got FSDP with "
            "custom); allowed: no parallelism with custom. hint: remove parallelism; the script may use FSDP or "
            "DeepSpeed by itself"
        ],
    ),
    (
        {"custom": {**COMMAND, "image": "one:1"}, "pod": {"image": "two:2"}},
        [
            "spec.custom.image: the image is named twice (got one:1 with pod.image=two:2); allowed: custom.image, or "
            "pod.image. hint: remove pod.image"
        ],
    ),
    (
        {**BLOCKS, "training": None},
        [
            "spec.training: required value is missing (got nothing); allowed: a block of fields. hint: write for "
            "example training: {globalBatchSize: 16, epochs: 2}; or custom with a command to run a script of your own"
        ],
    ),
]


@pytest.mark.parametrize(("spec", "expected"), SENTENCES, ids=[str(n) for n in range(len(SENTENCES))])
def test_each_rule_says_its_whole_sentence(spec: dict[str, Any], expected: list[str]) -> None:
    assert told(**spec) == expected


FORMS: list[tuple[Any, str, str]] = [
    ({}, "spec.custom.command", "required value is missing"),
    ({"command": []}, "spec.custom.command", "1 to 64"),
    ({"command": [""]}, "spec.custom.command[0]", "1 to 1024"),
    ({"command": "python train.py"}, "spec.custom.command", "has the wrong type"),
    ({"command": ["x" * 1025]}, "spec.custom.command[0]", "up to 1024"),
    ({"command": ["x"] * 65}, "spec.custom.command", "1 to 64"),
    ({"command": [1]}, "spec.custom.command[0]", "has the wrong type"),
    ({**COMMAND, "image": "two words"}, "spec.custom.image", "registry/name:tag"),
    ({**COMMAND, "shell": True}, "spec.custom.shell", "unknown field"),
]


@pytest.mark.parametrize(("custom", "path", "text"), FORMS, ids=[f"{n}" for n in range(len(FORMS))])
def test_a_command_is_a_list_of_words_and_no_shell_line(custom: Any, path: str, text: str) -> None:
    (problem,) = told(custom=custom)
    assert problem.startswith(f"{path}: ") and text in problem and "hint: " in problem


@given(st.sets(st.sampled_from(["custom", *BLOCKS])))
def test_a_job_has_a_command_or_all_of_model_data_and_training(named: set[str]) -> None:
    spec = {name: COMMAND if name == "custom" else BLOCKS[name] for name in named}
    whole = named == {"custom"} or named == set(BLOCKS)
    assert (told(**spec) == []) == whole


@pytest.mark.parametrize("name", list(BLOCKS))
def test_missing_blocks_are_named_each_by_itself(name: str) -> None:
    (problem,) = told(**{**BLOCKS, name: None})
    assert problem.startswith(f"spec.{name}: required value is missing")
    assert len(told()) == 3


@pytest.mark.parametrize("name", list(BLOCKS))
def test_code_that_asks_a_command_for_a_block_hears_which(name: str) -> None:
    spec = parsed(custom=COMMAND)
    with pytest.raises(ValueError, match=rf"spec\.{name}: is not there .* spec\.custom first"):
        getattr(spec, name)
    assert getattr(parsed(**BLOCKS), name) is not None


def test_what_is_written_comes_back_by_its_wire_names() -> None:
    ours = parsed(custom=COMMAND).to_wire()
    assert ours["custom"] == COMMAND and not {"model", "data", "training"} & set(ours)
    plain = parsed(**BLOCKS).to_wire()
    assert plain["model"] == BLOCKS["model"] and "custom" not in plain
    for wire in (ours, plain):
        assert FineTuneJobSpec.model_validate(wire).to_wire() == wire


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"custom": COMMAND}, None),
        ({"custom": {**COMMAND, "image": "mine:1"}}, "mine:1"),
        ({"custom": COMMAND, "pod": {"image": "pod:1"}}, "pod:1"),
        ({**BLOCKS, "pod": {"image": "pod:1"}}, "pod:1"),
        (BLOCKS, None),
    ],
)
def test_the_image_is_that_of_either_field(spec: dict[str, Any], expected: str | None) -> None:
    assert parsed(**spec).image == expected


def test_a_step_of_a_command_takes_one_batch() -> None:
    assert parsed(custom=COMMAND).units_per_step == 1
    assert parsed(**BLOCKS).units_per_step == 16


def test_the_command_cannot_change() -> None:
    before = document(custom=COMMAND)
    after = document(custom={"command": ["python", "/scripts/other.py"]})
    (problem,) = validate(after, previous=before)
    assert problem.path == "spec.custom" and "create a new job" in str(problem)
    gone = validate(document(**BLOCKS), previous=before)
    assert {one.path for one in gone} >= {"spec.custom", "spec.model"}
