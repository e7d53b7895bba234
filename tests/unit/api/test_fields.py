"""Every field of the spec: values that are taken, and values that are refused with their words."""

from __future__ import annotations

from typing import Any

import pytest

from contract.crd.specs import VALID, change
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.nodes import Kind, Node, members, read
from windlass.api.validation import validate


def told(path: str, value: Any, *more: tuple[str, Any]) -> list[str]:
    document = change(f"spec.{path}", value)
    for other, wanted in more:
        document = change(f"spec.{other}", wanted, document)
    return [str(problem) for problem in validate(document)]


# --- numbers: (field, smallest, largest, hint, other fields that make the edges valid) ---------------

STEPS = ("training", {"globalBatchSize": 16, "maxSteps": 5})
BATCH_OF_64 = ("training", {"globalBatchSize": 64, "epochs": 1})
NUMBERS: list[tuple[str, int, int, str, tuple[tuple[str, Any], ...]]] = [
    ("data.sequenceLength", 8, 1_048_576, "use a length the model supports (max_position_embeddings", ()),
    ("training.globalBatchSize", 1, 1_048_576, "use a multiple of nodes x ranksPerNode x microBatchSize", ()),
    (
        "training.microBatchSize",
        1,
        65_536,
        "begin with 1 and double it while memory lasts",
        (("training", {"globalBatchSize": 65_536, "epochs": 1}),),
    ),
    ("training.epochs", 1, 10_000, "1 to 3 is usual for fine-tuning", ()),
    ("training.maxSteps", 1, 100_000_000, "set spec.suspend: true to pause a run", (STEPS,)),
    (
        "training.validateEverySteps",
        1,
        1_000_000,
        "leave it out to validate at the end only",
        (("data.validation", {"fraction": "0.05"}),),
    ),
    ("training.seed", 0, 2_147_483_647, "any number in that range will do", ()),
    (
        "resources.nodes",
        1,
        4096,
        "set spec.suspend: true to pause a run",
        (("training", {"globalBatchSize": 4096, "epochs": 1}),),
    ),
    ("resources.ranksPerNode", 1, 16, "one per accelerator is usual, and 1 or 2 on the CPU", ()),
    ("resources.accelerator.count", 0, 16, "whole devices only; 0 trains on the CPU", ()),
    ("checkpoint.everySteps", 1, 1_000_000, "a run loses at most the steps since the last checkpoint", ()),
    ("checkpoint.keepLast", 2, 1000, "at least 2, since the newest may turn out to be damaged", ()),
    ("recovery.budgets.crash", 0, 1000, "0 fails the job at once, 5 is usual", ()),
    ("recovery.budgets.infrastructure", 0, 1000, "0 fails the job at once, 5 is usual", ()),
    ("recovery.budgets.outOfMemory", 0, 1000, "0 fails the job at once, 5 is usual", ()),
    ("recovery.budgets.storage", 0, 1000, "0 fails the job at once, 5 is usual", ()),
    ("recovery.budgets.stall", 0, 1000, "0 fails the job at once, 5 is usual", ()),
    ("guards.stall.limitSeconds", 5, 604_800, "write whole seconds, 300 is five minutes", ()),
    ("guards.stall.phaseLimitSeconds", 5, 604_800, "write whole seconds, 300 is five minutes", ()),
    (
        "recovery.elastic.minNodes",
        1,
        4096,
        "the first node's pod leads and is always among them",
        (("resources.nodes", 4096), ("training", {"globalBatchSize": 4096, "epochs": 1})),
    ),
    (
        "recovery.elastic.waitSeconds",
        0,
        86_400,
        "allow for a new pod's start and imports, 120 is usual",
        (("recovery.elastic.minNodes", 1),),
    ),
    ("recovery.budgets.numeric", 0, 1000, "0 fails the job at once, 5 is usual", ()),
    *(
        (
            f"guards.{guard}.checkpoints",
            1,
            100,
            "1 is the newest verified checkpoint",
            (("checkpoint.keepLast", 100),),
        )
        for guard in ("nonFinite", "lossSpike")
    ),
    *(
        (f"guards.{guard}.skipSteps", 0, 100_000, "0 trains on the same data again", ())
        for guard in ("nonFinite", "lossSpike")
    ),
    ("guards.lossSpike.windowSteps", 10, 10_000, "100 is usual; more for very noisy losses", ()),
    ("guards.lossSpike.patience", 1, 1000, "3 is usual; 1 acts on a single step", ()),
    ("recovery.backOffSeconds", 0, 3600, "it doubles with every failure in a row", ()),
    ("recovery.forceDeleteAfterSeconds", 0, 86_400, "leave it out unless stuck pods hold quota", ()),
    ("recovery.budgets.windowSeconds", 60, 2_592_000, "86400 is a day", ()),
    ("recovery.suspectNodeSeconds", 60, 2_592_000, "3600 is an hour", ()),
    ("recovery.terminationGracePeriodSeconds", 5, 86_400, "allow for one step and one checkpoint", ()),
    ("ttlSecondsAfterFinished", 0, 31_536_000, "leave it out to keep the job, 86400 is a day", ()),
    ("activeDeadlineSeconds", 60, 31_536_000, "write whole seconds, 3600 is an hour", ()),
    ("startDeadlineSeconds", 10, 31_536_000, "write whole seconds, 600 is ten minutes", ()),
    (
        "parallelism.zeroStage",
        1,
        3,
        "use strategy DDP for what is elsewhere stage 0",
        (("parallelism.strategy", "DeepSpeed"),),
    ),
    (
        "scheduling.gangStartSeconds",
        30,
        86_400,
        "allow for pulling the image, 600 is usual; leave it out to wait",
        (),
    ),
    (
        "parallelism.shardGroupSize",
        2,
        32_768,
        "use ranksPerNode, so that weights are gathered within a node",
        (("parallelism.strategy", "FSDP"), ("resources.nodes", 2)),
    ),
    (
        "parallelism.tensor",
        2,
        64,
        "at most ranksPerNode: the ranks talk to each other in every layer",
        (("parallelism.strategy", "FSDP"), ("resources", {"nodes": 8, "ranksPerNode": 8}), BATCH_OF_64),
    ),
]


def judged(path: str, value: Any, more: tuple[tuple[str, Any], ...]) -> list[str]:
    """The field last, so that a block of `more` does not overwrite it."""
    document = VALID
    for other, wanted in (*more, (path, value)):
        document = change(f"spec.{other}", wanted, document)
    return [str(problem) for problem in validate(document)]


@pytest.mark.parametrize(("path", "low", "high", "hint", "more"), NUMBERS, ids=[row[0] for row in NUMBERS])
def test_numbers_are_taken_up_to_their_edges(
    path: str, low: int, high: int, hint: str, more: tuple[tuple[str, Any], ...]
) -> None:
    for value in (low, high):
        assert [one for one in judged(path, value, more) if one.startswith(f"spec.{path}: is out")] == [], (
            hint
        )
    assert judged(path, low, more) == []


@pytest.mark.bad_input("B1")
@pytest.mark.bad_input("B3")
@pytest.mark.bad_input("B8")
@pytest.mark.bad_input("B10")
@pytest.mark.parametrize(("path", "low", "high", "hint", "more"), NUMBERS, ids=[row[0] for row in NUMBERS])
def test_numbers_beyond_their_edges_are_refused_with_range_and_hint(
    path: str, low: int, high: int, hint: str, more: tuple[tuple[str, Any], ...]
) -> None:
    for value in (low - 1, high + 1, -(2**63), 2**63):
        found = [one for one in judged(path, value, more) if one.startswith(f"spec.{path}: ")]
        said = f"spec.{path}: is out of range (got {value}); allowed: {low} to {high}. hint: {hint}"
        assert any(one.startswith(said) for one in found), found


@pytest.mark.parametrize("value", ["1", 1.5, True, [1], {}, "1e3"], ids=str)
@pytest.mark.parametrize(("path", "low", "high", "hint", "more"), NUMBERS, ids=[row[0] for row in NUMBERS])
def test_only_whole_numbers_are_numbers(
    path: str, low: int, high: int, hint: str, more: tuple[tuple[str, Any], ...], value: Any
) -> None:
    (first, *_) = [one for one in judged(path, value, more) if one.startswith(f"spec.{path}: ")]
    assert first.startswith(f"spec.{path}: has the wrong type (got "), hint
    assert f"; allowed: a whole number from {low} to {high}. hint: write whole digits" in first


# --- decimals in quotes ----------------------------------------------------------------------------

DECIMALS = [
    (
        "training.learningRate",
        ["1e-9", "2e-5", "0.5", "1", "1.0", "1E-5"],
        ["0", "0.0", "1.0001", "5", "0e-5"],
    ),
    ("training.gradientClip", ["0.1", "1.0", "1000000"], ["0", "1000001"]),
    ("training.optimizer.weightDecay", ["0", "0.01", "1"], ["1.5", "2"]),
    ("guards.lossSpike.deviations", ["1", "2.5", "1000"], ["0", "0.9", "1001"]),
    ("training.optimizer.beta1", ["0", "0.9", "0.999999"], ["1", "1.0"]),
    ("training.optimizer.beta2", ["0", "0.95"], ["1", "2"]),
    ("training.optimizer.epsilon", ["1e-8", "0.1"], ["0", "0.2"]),
    (
        "data.validation",
        [{"fraction": "0.05"}, {"fraction": "0.5"}],
        [{"fraction": "0"}, {"fraction": "0.51"}],
    ),
    ("data.sources.0.weight", ["0.001", "1", "1000"], ["0", "1000.1"]),
]


@pytest.mark.bad_input("B60")
@pytest.mark.parametrize(("path", "good", "bad"), DECIMALS, ids=[row[0] for row in DECIMALS])
def test_decimals_are_taken_inside_their_range_only(path: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert told(path, value) == [], value
    for value in bad:
        found = told(path, value)
        assert len(found) == 1 and ": is out of range (got " in found[0], (value, found)
        assert "; allowed: " in found[0] and ". hint: " in found[0]


NO_DECIMALS = [
    "",
    "abc",
    "-1",
    "+1",
    ".5",
    "5.",
    "01",
    "1,5",
    "1e",
    "1e+5",
    "0x1",
    "1 ",
    "٣",
    "1e-999",
    "inf",
    "nan",
]


@pytest.mark.parametrize("value", NO_DECIMALS, ids=repr)
def test_what_is_no_decimal_says_how_one_looks(value: str) -> None:
    found = told("training.learningRate", value)
    assert found
    assert found[0].startswith("spec.training.learningRate: is ")
    if value:
        assert found[0].endswith(
            'allowed: a decimal such as "0.1" or "2e-5". hint: write a plain or scientific decimal in quotes'
        )


@pytest.mark.parametrize("value", [0.5, 1, 2e-5], ids=str)
def test_numbers_without_quotes_are_refused_before_they_round(value: float) -> None:
    (found,) = told("training.learningRate", value)
    assert "has the wrong type" in found and found.endswith("hint: put the value in quotes")


# --- choices ---------------------------------------------------------------------------------------

CHOICES = [
    ("data.sources.0.format", ["Chat", "Instruction", "Text"]),
    ("data.lossOn", ["Completion", "All"]),
    ("training.precision", ["Auto", "BF16", "FP32"]),
    ("training.scheduler.type", ["Cosine", "Linear", "Constant", "WSD"]),
    ("training.optimizer.type", ["AdamW"]),
    ("method.objective", ["SupervisedFineTuning"]),
    ("checkpoint.export", ["HuggingFace", "None"]),
    ("guards.stall.action", ["Restart", "Notify", "Off"]),
    ("guards.nonFinite.action", ["Rollback", "Pause", "Fail"]),
    ("guards.lossSpike.action", ["Off", "Notify", "Rollback", "Pause", "Fail"]),
    ("parallelism.strategy", ["DDP", "FSDP"]),
    ("scheduling.queue.kind", ["Kueue"]),
]
BESIDE: dict[str, tuple[str, Any]] = {"scheduling.queue.kind": ("scheduling.queue.name", "team-a")}
"""What a choice needs beside itself."""


def node_at(path: str) -> Node:
    """The node of a field by its dotted path."""
    node = read(FineTuneJobSpec)
    for part in path.split("."):
        if part.isdigit():
            assert node.item is not None
            node = node.item
        else:
            assert node.model is not None
            node = next(one.node for one in members(node.model) if one.name == part)
    return node


@pytest.mark.parametrize(("path", "values"), CHOICES, ids=[row[0] for row in CHOICES])
def test_choices_are_taken_as_they_are_written(path: str, values: list[str]) -> None:
    beside = [BESIDE[path]] if path in BESIDE else []
    known = list(node_at(path).choices)
    assert set(values) <= set(known)
    for value in values:
        assert told(path, value, *beside) == []
    for wrong in (values[0].lower(), values[0].upper() + "x", "", "lοra"):
        (found,) = told(path, wrong, *beside)
        assert "is not supported (got " in found and f"allowed: {', '.join(known)}. hint: " in found
    (found,) = told(path, values[0][:-1], *beside)
    assert "did you mean" in found


# --- names -----------------------------------------------------------------------------------------

NAMED = [
    ("pod.serviceAccountName", "trainer"),
    ("pod.imagePullSecrets", ["pull"]),
    ("model.secretRef", {"name": "hub-token"}),
    ("pod.volumes", [{"name": "words", "mountPath": "/words", "configMap": "words"}]),
]
BAD_NAMES = ["Hub", "hub_token", "-hub", "hub-", "hub.token", "a b", "hüb", "x" * 64, ""]


def with_name(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return name
    if isinstance(value, list):
        return [with_name(one, name) for one in value]
    return value | {"name": name}


@pytest.mark.parametrize(("path", "value"), NAMED, ids=[row[0] for row in NAMED])
@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_names_of_objects_are_labels(path: str, value: Any, name: str) -> None:
    assert told(path, value) == []
    found = told(path, with_name(value, name))
    assert found and found[0].startswith(f"spec.{path}"), found
    assert ". hint: " in found[0]


# --- quantities ------------------------------------------------------------------------------------

GOOD_QUANTITIES = [
    "1",
    "500m",
    "0.5",
    "4",
    "64Gi",
    "4096Mi",
    "1e"[:1],
    "1Ti",
    "2P",
    "999999999999",
    "1.123456",
]
BAD_QUANTITIES = ["", "-1", "10GBB", "1e3", "0x10", "4 Gi", "Gi", "1KB", "1gi", "1.1234567", "half", "1E"]


@pytest.mark.bad_input("B12")
@pytest.mark.bad_input("B13")
@pytest.mark.parametrize("field", ["cpu", "memory"])
def test_quantities_are_those_of_a_pod(field: str) -> None:
    for value in GOOD_QUANTITIES:
        assert told("resources.perNode", {field: value}) == [], value
    for value in BAD_QUANTITIES:
        found = told("resources.perNode", {field: value})
        assert found and found[0].startswith(f"spec.resources.perNode.{field}: "), value
    for value in ("0", "0m", "0.000", "0Gi"):
        (found_one,) = told("resources.perNode", {field: value})
        assert found_one.startswith(
            f"spec.resources.perNode.{field}: must be more than nothing (got {value}); allowed: a quantity above 0. "
        )


def test_every_field_of_the_spec_has_a_case_here_or_in_the_other_tables() -> None:
    """A field that is added must come with the values that it takes and refuses."""
    named = {row[0] for row in (*NUMBERS, *CHOICES)}
    missing = []

    def walk(node: Node, path: str) -> None:
        assert node.model is not None
        for one in members(node.model):
            here = f"{path}.{one.name}".lstrip(".")
            kind, inner = one.node.kind, one.node
            if kind is Kind.OBJECT:
                walk(inner, here)
            elif kind is Kind.ARRAY and inner.item is not None and inner.item.kind is Kind.OBJECT:
                walk(inner.item, f"{here}.0")
            elif (kind is Kind.INTEGER or inner.choices) and here not in named:
                missing.append(here)

    walk(read(FineTuneJobSpec), "")
    # Told elsewhere: adapters and tolerations have tables of their own in test_blocks, pipeline is for PretrainJob.
    elsewhere = ("adapter.", "pod.tolerations.", "parallelism.pipeline")
    assert {path for path in missing if not path.startswith(elsewhere)} == set()
