"""Offline validation: verdict, path and text for documents, and the rules' Python twins."""

from __future__ import annotations

from typing import Any

import pytest

from contract.crd.specs import ABSENT, VALID, change
from windlass.api.quantities import parse
from windlass.api.rules import Between, Bounds, Hint, Rule, matches
from windlass.api.validation import validate


def told(document: Any, previous: dict[str, Any] | None = None) -> list[str]:
    return [str(one) for one in validate(document, previous)]


def test_a_good_document_has_no_problem() -> None:
    assert validate(VALID) == []


GOOD = [
    ("spec.model.uri", "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main"),
    ("spec.model.uri", "mlflow://models:/support-bot@candidate"),
    ("spec.model.uri", "mlflow://models:/support-bot/3"),
    ("spec.model.uri", "pvc://models/a..b/c"),
    ("spec.adapter", {"type": "LoRA", "rank": 16, "alpha": 32, "dropout": "0"}),
    ("spec.adapter", {"type": "IA3"}),
    ("spec.parallelism", {"strategy": "DeepSpeed", "zeroStage": 3}),
    ("spec.training.learningRate", "1"),
    ("spec.training.scheduler", {"warmup": "100%"}),
    ("spec.data.validation", {"fraction": "0.5"}),
    ("spec.data.validation", {"uri": "pvc://data/held-out.jsonl"}),
    ("spec.pod.env", [{"name": "RANKING", "value": "$(RANK); rm -rf /"}]),
    ("spec.pod.volumes", [{"name": "a", "mountPath": "/usrdata", "emptyDir": True}]),
    ("spec.pod.tolerations", [{"key": "gpu", "operator": "Exists"}]),
    ("spec.pod.labels", {"example.com/team": "support"}),
    ("spec.adapter", None),
    ("spec.resources", None),
    ("metadata.name", "a" * 40),
    ("metadata", {"generateName": "bot-"}),
    ("status", {"anything": 1}),
]


@pytest.mark.parametrize(("path", "value"), GOOD)
def test_good_values_are_accepted(path: str, value: Any) -> None:
    assert told(change(path, value)) == []


BAD = [
    (
        "spec.data.sources",
        [],
        "spec.data.sources: has the wrong size (got 0 entries); allowed: 1 to 64 entries",
    ),
    ("spec.data.sources.0.uri", "mlflow://models:/m@a", "data cannot come from a model registry"),
    ("spec.data.sources.0.weight", "0", "spec.data.sources[0].weight: is out of range (got 0); allowed: > 0"),
    (
        "spec.data.validation",
        {"fraction": "0.51"},
        "spec.data.validation.fraction: is out of range (got 0.51)",
    ),
    ("spec.training.validateEverySteps", 5, "without data.validation"),
    (
        "spec.training",
        {"globalBatchSize": 4, "maxSteps": 5, "scheduler": {"warmup": "6"}},
        "got 6 steps of 5",
    ),
    (
        "spec.training.epochs",
        ABSENT,
        "spec.training: exactly one of epochs and maxSteps must be set (got",
    ),
    ("spec.checkpoint.mergeAdapter", True, "there is no LoRA adapter to merge"),
    (
        "spec.tracking",
        {"mlflow": {"uri": "http://m", "alias": "a"}},
        "alias needs a registered model (got alias=a",
    ),
    ("spec.tracking", {"mlflow": {"uri": "http://u:p@m"}}, "without credentials"),
    ("spec.recovery.ladder", ["InPlace", "InPlace"], "a rung is named twice (got InPlace)"),
    (
        "spec.pod.tolerations",
        [{"operator": "Exists"}],
        "spec.pod.tolerations[0].key: required value is missing",
    ),
    (
        "spec.pod.tolerations",
        [{"key": "a", "operator": "Exists", "value": "b"}],
        "Exists takes no value (got b)",
    ),
    ("spec.pod.tolerations", [{"key": "a", "tolerationSeconds": 5}], "got 5 with effect nothing"),
    ("spec.pod.labels", {"windlass.dev/run": "x"}, "keys with the prefix windlass.dev/ are the operator's"),
    ("spec.pod.annotations", {"windlass.dev/run": "x"}, "got windlass.dev/run"),
    ("spec.pod.labels", {"a": "b c"}, "a value is not a label value (got b c)"),
    ("spec.pod.annotations", {"a": "x" * 1025}, "spec.pod.annotations.a: is too long (got 1025 characters)"),
    (
        "spec.pod.volumes",
        [{"name": "a", "mountPath": "/data"}],
        "exactly one source must be set (got claim=nothing",
    ),
    ("spec.resources", {"accelerator": {"count": 1}, "ranksPerNode": 2}, "more ranks than accelerators"),
    ("spec.training.global_batch_size", 4, "unknown field (got global_batch_size)"),
    ("spec.training.learnigRate", "1", "did you mean learningRate?"),
    ("spec.pod.env", {"A": "1"}, "spec.pod.env: has the wrong type"),
    ("spec.suspend", None, ""),
    ("spec", ABSENT, "spec: required value is missing"),
    (
        "kind",
        "FineTunejob",
        'kind: no matches for this kind (got "FineTunejob"); allowed: FineTuneJob, PretrainJob',
    ),
    ("specs", {}, "specs: unknown field (got specs)"),
    ("metadata", None, "metadata: has the wrong type (got null)"),
    ("metadata.name", 5, "metadata.name: required value is missing (got 5)"),
]


@pytest.mark.parametrize(("path", "value", "text"), BAD)
def test_bad_values_are_explained(path: str, value: Any, text: str) -> None:
    found = told(change(path, value))
    if not text:
        assert found == []
        return
    assert any(text in one for one in found), found
    assert all("; allowed: " in one and ". hint: " in one for one in found), found


@pytest.mark.parametrize(
    "mount", ["/", "/etc", "/var", "/tmp/x", "/a/../usr", "/a//b", "/a/", "/dev", "/windlass/x"]
)
def test_reserved_mount_paths_are_refused(mount: str) -> None:
    volume = {"name": "a", "claim": "c", "mountPath": mount}
    assert [one.path for one in validate(change("spec.pod.volumes", [volume]))] == [
        "spec.pod.volumes[0].mountPath"
    ]


def test_two_volumes_cannot_share_a_path() -> None:
    volumes = [{"name": name, "claim": "c", "mountPath": "/data"} for name in ("a", "b")]
    (problem,) = validate(change("spec.pod.volumes", volumes))
    assert "two volumes have the same mountPath (got /data)" in problem.message


def test_all_problems_are_told_at_once() -> None:
    document = change("spec.worker", 1, change("spec.resources.nodes", 0, change("metadata.name", "a.b")))
    assert {one.path for one in validate(document)} == {
        "spec.worker",
        "spec.resources.nodes",
        "metadata.name",
    }


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_what_is_no_object_is_refused(document: Any) -> None:
    (problem,) = validate(document)
    assert problem.path == "document"
    assert "is not an object" in problem.message


def test_an_update_is_judged_against_what_was() -> None:
    assert told(change("spec.resources.nodes", 2), VALID) == [
        "spec.resources.nodes: cannot change after creation (got 2, was 1); allowed: what the job was created with. "
        "hint: create a new job with another name, and delete this one if it is no longer wanted"
    ]


QUANTITIES = [
    ("1", 1),
    ("500m", 0.5),
    ("1.5", 1.5),
    ("2k", 2000),
    ("1Ki", 1024),
    ("4Gi", 4 * 1024**3),
    ("0m", 0),
]


@pytest.mark.parametrize(("text", "number"), QUANTITIES)
def test_quantities_are_read(text: str, number: float) -> None:
    assert parse(text) == number


def test_a_pattern_ends_where_the_text_ends() -> None:
    assert matches("^a$", "a")
    assert not matches("^a$", "a\n")


def test_a_hint_needs_something_to_hint_at() -> None:
    with pytest.raises(TypeError, match="needs a pattern, or both bounds"):
        Hint("").rules(Bounds(at_least=1))


def test_messages_keep_percent_signs_and_quotes() -> None:
    rule = Rule(cel="true", holds=lambda *_: True, wrong='100% "bad"', got="{self}", allowed="a", hint="b")
    assert (
        rule.message_expression() == '"100%% \\"bad\\" (got %s); allowed: a. hint: b".format([string(self)])'
    )
    assert rule.text("x") == '100% "bad" (got x); allowed: a. hint: b'


@pytest.mark.parametrize(("value", "inside"), [("0", False), ("1e-9", True), ("1", True), ("1.0001", False)])
def test_decimals_are_compared_as_numbers(value: str, inside: bool) -> None:
    rule = Between(above="0", at_most="1", hint="").rule(r"^[0-9.e-]+$")
    assert rule.holds(value, None) is inside
