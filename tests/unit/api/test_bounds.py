"""Bounds of lists, maps and strings, and what holds of every rule of the spec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from contract.crd.specs import ABSENT, VALID, change
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.jobs import ROOT_RULES
from windlass.api.nodes import Node, members, read
from windlass.api.pretrain import PretrainJobSpec
from windlass.api.rules import PLACEHOLDER, Rule
from windlass.api.validation import validate


def told(path: str, value: Any, base: dict[str, Any] = VALID) -> list[str]:
    return [str(problem) for problem in validate(change(f"spec.{path}", value, base))]


# --- sizes -----------------------------------------------------------------------------------------

SIZES: list[tuple[str, int, Any]] = [
    ("data.sources", 64, [{"uri": f"pvc://data/{n}.jsonl"} for n in range(65)]),
    ("pod.env", 64, [{"name": f"A{n}"} for n in range(65)]),
    ("pod.volumes", 16, [{"name": f"v{n}", "mountPath": f"/v{n}", "secret": "s"} for n in range(17)]),
    ("pod.tolerations", 16, [{"key": f"k{n}"} for n in range(17)]),
    ("pod.imagePullSecrets", 8, [f"s{n}" for n in range(9)]),
    ("pod.labels", 32, {f"k{n}": "v" for n in range(33)}),
    ("pod.annotations", 32, {f"k{n}": "v" for n in range(33)}),
    ("pod.nodeSelector", 32, {f"k{n}": "v" for n in range(33)}),
    ("adapter.targetModules", 64, [f"m{n}" for n in range(65)]),
]


@pytest.mark.bad_input("B22")
@pytest.mark.bad_input("B23")
@pytest.mark.parametrize(("path", "most", "items"), SIZES, ids=[row[0] for row in SIZES])
def test_lists_and_maps_are_bounded(path: str, most: int, items: Any) -> None:
    base = change("spec.adapter", {"type": "LoRA"})
    kept = items[:most] if isinstance(items, list) else dict(list(items.items())[:most])
    assert told(path, kept, base) == []
    low = 1 if path in ("data.sources", "adapter.targetModules") else 0
    assert told(path, items, base)[0] == (
        f"spec.{path}: has the wrong size (got {most + 1} entries); allowed: {low} to {most} entries. hint: "
        f"remove some"
    )


LENGTHS = [
    ("model.uri", 1024, "pvc://a/"),
    ("checkpoint.store", 1024, "pvc://a/"),
    ("pod.image", 512, "a"),
    ("scheduling.schedulerName", 253, "a"),
    ("tracking.mlflow.experiment", 250, "a"),
]


@pytest.mark.bad_input("B21")
@pytest.mark.parametrize(("path", "most", "start"), LENGTHS, ids=[row[0] for row in LENGTHS])
def test_strings_are_bounded(path: str, most: int, start: str) -> None:
    base = change("spec.tracking", {"mlflow": {"uri": "http://m:5000"}})
    longest = start + "x" * (most - len(start))
    assert told(path, longest, base) == []
    (found, *_) = told(path, longest + "x" * 1_000_000, base)
    assert found == (
        f"spec.{path}: is too long (got {most + 1_000_000} characters); allowed: up to {most} characters. hint: "
        f"shorten it"
    )


# --- rules as such ---------------------------------------------------------------------------------


def all_rules(node: Node) -> Iterator[Rule]:
    yield from node.rules
    if node.entries is not None:
        yield from node.entries.rules()
    if node.item is not None:
        yield from all_rules(node.item)
    if node.model is not None:
        for one in members(node.model):
            yield from all_rules(one.node)


EVERY_RULE = [*ROOT_RULES, *all_rules(read(FineTuneJobSpec)), *all_rules(read(PretrainJobSpec))]


def test_every_rule_becomes_cel_with_the_same_words() -> None:
    for rule in EVERY_RULE:
        wire = rule.to_kubernetes()
        assert wire["rule"] == rule.cel and wire["message"] == rule.static
        assert not PLACEHOLDER.search(rule.static), rule.static
        shown = PLACEHOLDER.findall(rule.template)
        assert ("messageExpression" in wire) is bool(shown)
        if shown:
            assert wire["messageExpression"].count("%s") == len(shown)
        assert wire["reason"] == ("FieldValueForbidden" if rule.forbidden else "FieldValueInvalid")


def test_what_a_message_shows_is_a_field_or_computed() -> None:
    for rule in EVERY_RULE:
        for name in PLACEHOLDER.findall(rule.template):
            assert name in rule.computed or name.split(".")[0] in ("self", "old"), rule.template
        assert set(rule.computed) <= set(PLACEHOLDER.findall(rule.template)), rule.template


def test_cel_has_no_regular_expression_that_python_reads_differently() -> None:
    """RE2 has no look-around and no back-references; Python would accept both."""
    for rule in EVERY_RULE:
        for pattern in re.findall(r'matches\("((?:[^"\\]|\\.)*)"\)', rule.cel):
            assert "(?" not in pattern and not re.search(r"\\\\[1-9]", pattern), pattern


def test_absent_is_shown_as_nothing() -> None:
    assert told("training", {"globalBatchSize": 4})[0].startswith(
        "spec.training: exactly one of epochs and maxSteps must be set (got epochs=nothing, maxSteps=nothing)"
    )
    assert told("training.globalBatchSize", ABSENT)[0] == (
        "spec.training.globalBatchSize: required value is missing (got nothing); allowed: a whole number from 1 to "
        "1048576. hint: write for example globalBatchSize: 16"
    )
