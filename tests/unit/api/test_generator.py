"""The generated schema is structural, described, bounded and small; drift is noticed."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass.api import crdgen
from windlass.api.kinds import KINDS, Kind, KindName
from windlass.api.nodes import read

FORBIDDEN = {
    "$ref",
    "$defs",
    "anyOf",
    "allOf",
    "oneOf",
    "title",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "const",
}
ALLOWED = {
    *(
        "type",
        "description",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "enum",
        "default",
        "format",
    ),
    *("minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems", "minProperties"),
    *("maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations"),
    "x-kubernetes-map-type",
}


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


@dataclass(frozen=True)
class Generated:
    """What is made of one kind: (path, node) of its spec, and of its status as well."""

    kind: Kind

    @cached_property
    def schema(self) -> dict[str, Any]:
        return crdgen.schema(self.kind)

    @cached_property
    def spec(self) -> list[tuple[str, dict[str, Any]]]:
        return list(nodes(self.schema["properties"]["spec"], "spec"))

    @cached_property
    def all(self) -> list[tuple[str, dict[str, Any]]]:
        return [*self.spec, *nodes(self.schema["properties"]["status"], "status")]


GENERATED = {name: Generated(kind) for name, kind in KINDS.items()}
EACH = pytest.mark.parametrize("made", GENERATED.values(), ids=GENERATED)


def test_kinds_are_those_of_the_type_and_each_has_columns() -> None:
    assert list(KINDS) == list(typing.get_args(KindName))
    assert set(crdgen.COLUMNS) == set(KINDS)
    assert all(kind.name == name for name, kind in KINDS.items())
    for names in ("name", "plural", "short"):
        assert len({getattr(kind, names) for kind in KINDS.values()}) == len(KINDS), names


@EACH
def test_columns_show_what_status_or_spec_holds(made: Generated) -> None:
    known = {f".{path}" for path, _ in made.all}
    for column in crdgen.COLUMNS[made.kind.name]:
        path = column.path.split("[")[0]
        assert path in known or path.startswith(".metadata."), column.path
        assert column.description.endswith(".") and column.to_kubernetes()["jsonPath"] == column.path


@EACH
def test_every_node_is_structural(made: Generated) -> None:
    for path, node in made.all:
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert set(node) <= ALLOWED, path
        assert not set(node) & FORBIDDEN, path
        assert not ("properties" in node and "additionalProperties" in node), path


@EACH
def test_status_alone_is_one_value(made: Generated) -> None:
    """The operator writes all of it; of a spec, several appliers may own a field each."""
    assert [path for path, node in made.all if "x-kubernetes-map-type" in node] == ["status"]
    assert made.schema["properties"]["status"]["x-kubernetes-map-type"] == "atomic"


SHARED = ("parallelism", "resources.nodes", "resources.ranksPerNode", "checkpoint.store")
FROZEN = {
    "FineTuneJob": (
        ("method", *SHARED),
        ("model", "data", "adapter", "custom", "training", "scheduling.queue"),
    ),
    "PretrainJob": (
        ("objective", "corpus", "training", *SHARED),
        ("maskedShare", "model", "architecture", "tokenizer", "scheduling.queue"),
    ),
}
"""By kind, what may not change: what is always there, and what may be left out and then neither comes nor goes."""


@EACH
def test_what_may_not_change_is_judged_where_it_is(made: Generated) -> None:
    """From above, the server would copy the schemas of all neighbours at every status write."""
    changes = [
        (path, rule)
        for path, node in made.spec
        for rule in node.get("x-kubernetes-validations", [])
        if "oldSelf" in rule["rule"]
    ]
    always, optional = FROZEN[made.kind.name]
    here = {path: rule for path, rule in changes if rule["rule"] == "self == oldSelf"}
    assert set(here) == {f"spec.{name}" for name in (*always, *optional)}
    (kept,) = [rule for path, rule in changes if path == "spec.resume.from"]
    changes.remove(("spec.resume.from", kept))
    assert kept["rule"] == "!self.startsWith('pvc://') || self == oldSelf"
    assert not any("fieldPath" in rule for rule in here.values())
    above = {path + rule["fieldPath"]: rule["rule"] for path, rule in changes if "fieldPath" in rule}
    assert above == {
        f"spec.{path}": f"has(self.{name}) == has(oldSelf.{name})"
        for path in optional
        for name in [path.rpartition(".")[2]]
    }
    assert len(changes) == len(here) + len(above)


@EACH
def test_every_field_is_described(made: Generated) -> None:
    silent = [path for path, node in made.all if not path.endswith("[]") and not node.get("description")]
    assert silent == []


@EACH
def test_every_field_of_the_spec_has_an_example(made: Generated) -> None:
    silent = [
        path
        for path, node in made.spec[1:]
        if not path.endswith("[]") and "Example: " not in node["description"]
    ]
    assert silent == []


@EACH
def test_everything_in_the_spec_is_bounded(made: Generated) -> None:
    for path, node in made.spec:
        match node["type"]:
            case "integer":
                assert {"minimum", "maximum"} <= set(node), path
            case "string":
                assert "enum" in node or "maxLength" in node, path
            case "array":
                assert "maxItems" in node, path
                assert node["x-kubernetes-list-type"] in {"atomic", "map"}, path
            case "object":
                assert "properties" in node or "maxProperties" in node, path
            case kind:
                assert kind == "boolean", path


@EACH
def test_the_spec_holds_no_floats(made: Generated) -> None:
    assert [path for path, node in made.spec if node["type"] == "number"] == []


@EACH
def test_status_has_neither_defaults_nor_rules(made: Generated) -> None:
    for path, node in nodes(made.schema["properties"]["status"], "status"):
        assert "default" not in node, path
        assert "x-kubernetes-validations" not in node, path


@pytest.mark.parametrize(
    ("kind", "whole"), [("FineTuneJob", "data.sources"), ("PretrainJob", "corpus.sources")]
)
def test_lists_that_people_share_merge_by_key(kind: str, whole: str) -> None:
    arrays = [(path, node) for path, node in GENERATED[kind].all if node["type"] == "array"]
    found = {path: node.get("x-kubernetes-list-map-keys") for path, node in arrays}
    assert found["spec.pod.env"] == ["name"]
    assert found["spec.pod.volumes"] == ["name"]
    assert found["status.conditions"] == ["type"]
    assert found[f"spec.{whole}"] is None


@EACH
def test_every_rule_says_what_is_allowed_and_the_next_step(made: Generated) -> None:
    rules = [rule for _, node in made.all for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) > 80
    for rule in rules:
        assert "; allowed: " in rule["message"], rule
        # With values, the text without them is a short one for the server's emergencies.
        assert ". hint: " in rule.get("messageExpression", rule["message"]), rule
        assert "\n" not in rule["message"], rule
        assert (
            "(got %s" in rule.get("messageExpression", "(got %s") or "(got " in rule["messageExpression"]
        ), rule


@EACH
def test_the_crd_is_small_enough_for_client_side_apply(made: Generated) -> None:
    # As kubectl keeps it in the annotation: without spaces.
    crd = crdgen.custom_resource_definition(made.kind)
    assert len(json.dumps(crd, separators=(",", ":"))) <= 150_000


@pytest.mark.parametrize(
    ("plural", "value"),
    [*(("finetunejobs", value) for value in ("2e-5", "1e-8", "1.0")), ("pretrainjobs", "0.01")],
)
def test_decimals_stay_strings_for_every_reader_of_yaml(plural: str, value: str) -> None:
    text = crdgen.outputs()[f"crds/{plural}.windlass.dev.yaml"]
    assert f'default: "{value}"' in text or f"default: '{value}'" in text
    assert f"default: {value}\n" not in text


@EACH
def test_committed_files_are_what_the_models_say(made: Generated) -> None:
    assert crdgen.stale(crdgen.ROOT) == []
    crd = crdgen.custom_resource_definition(made.kind)
    assert yaml.safe_load((crdgen.ROOT / f"crds/{made.kind.plural}.windlass.dev.yaml").read_text()) == crd


def test_drift_is_reported_and_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main(["--check"], tmp_path) == 1
    told = capsys.readouterr().err
    for kind in KINDS.values():
        said = f"crds/{kind.plural}.windlass.dev.yaml: differs from the models. hint: run `make crds`"
        assert said in told
    assert crdgen.main([], tmp_path) == 0
    assert crdgen.main(["--check"], tmp_path) == 0
    for kind in KINDS.values():
        page = tmp_path / f"docs/reference/{kind.name.lower()}.md"
        kept = page.read_text()
        page.write_text("edited")
        assert crdgen.main(["--check"], tmp_path) == 1
        page.write_text(kept)


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main(["--chek"]) == 2
    assert "unknown arguments (got --chek); allowed: --check or nothing" in capsys.readouterr().err


def test_a_type_without_a_place_in_the_api_is_refused() -> None:
    with pytest.raises(TypeError, match="type has no place in the API"):
        read(bytes)


@EACH
def test_the_reference_page_names_every_field(made: Generated) -> None:
    page = (crdgen.ROOT / f"docs/reference/{made.kind.name.lower()}.md").read_text()
    for path, _ in made.all[1:]:
        if not path.endswith("[]") and path != "status":
            assert f"`{path}`" in page or f"`{path}*`" in page, path
