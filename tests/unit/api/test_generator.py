"""The generated schema is structural, described, bounded and small; drift is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass.api import crdgen
from windlass.api.kinds import KINDS
from windlass.api.nodes import read

KIND = KINDS["FineTuneJob"]
CRD = crdgen.custom_resource_definition(KIND)
SCHEMA = crdgen.schema(KIND)
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


SPEC = list(nodes(SCHEMA["properties"]["spec"], "spec"))
ALL = [*SPEC, *nodes(SCHEMA["properties"]["status"], "status")]


def test_every_node_is_structural() -> None:
    for path, node in ALL:
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert set(node) <= ALLOWED, path
        assert not set(node) & FORBIDDEN, path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_status_alone_is_one_value() -> None:
    """The operator writes all of it; of a spec, several appliers may own a field each."""
    assert [path for path, node in ALL if "x-kubernetes-map-type" in node] == ["status"]
    assert SCHEMA["properties"]["status"]["x-kubernetes-map-type"] == "atomic"


FROZEN = {
    *("spec.model", "spec.data", "spec.method", "spec.adapter", "spec.custom", "spec.training"),
    *("spec.parallelism", "spec.resources.nodes", "spec.resources.ranksPerNode", "spec.checkpoint.store"),
    "spec.scheduling.queue",
}
OPTIONAL = {f"spec.{name}" for name in ("model", "data", "adapter", "custom", "training", "scheduling.queue")}


def test_what_may_not_change_is_judged_where_it_is() -> None:
    """From above, the server would copy the schemas of all neighbours at every status write."""
    changes = [
        (path, rule)
        for path, node in SPEC
        for rule in node.get("x-kubernetes-validations", [])
        if "oldSelf" in rule["rule"]
    ]
    here = {path: rule for path, rule in changes if rule["rule"] == "self == oldSelf"}
    assert set(here) == FROZEN
    (kept,) = [rule for path, rule in changes if path == "spec.resume.from"]
    changes.remove(("spec.resume.from", kept))
    assert kept["rule"] == "!self.startsWith('pvc://') || self == oldSelf"
    assert not any("fieldPath" in rule for rule in here.values())
    above = {path + rule["fieldPath"]: rule["rule"] for path, rule in changes if "fieldPath" in rule}
    assert above == {
        path: f"has(self.{name}) == has(oldSelf.{name})"
        for path in OPTIONAL
        for name in [path.rpartition(".")[2]]
    }
    assert len(changes) == len(here) + len(above)


def test_every_field_is_described() -> None:
    silent = [path for path, node in ALL if not path.endswith("[]") and not node.get("description")]
    assert silent == []


def test_every_field_of_the_spec_has_an_example() -> None:
    silent = [
        path for path, node in SPEC[1:] if not path.endswith("[]") and "Example: " not in node["description"]
    ]
    assert silent == []


def test_everything_in_the_spec_is_bounded() -> None:
    for path, node in SPEC:
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


def test_the_spec_holds_no_floats() -> None:
    assert [path for path, node in SPEC if node["type"] == "number"] == []


def test_status_has_neither_defaults_nor_rules() -> None:
    for path, node in nodes(SCHEMA["properties"]["status"], "status"):
        assert "default" not in node, path
        assert "x-kubernetes-validations" not in node, path


def test_lists_that_people_share_merge_by_key() -> None:
    found = {path: node.get("x-kubernetes-list-map-keys") for path, node in ALL if node["type"] == "array"}
    assert found["spec.pod.env"] == ["name"]
    assert found["spec.pod.volumes"] == ["name"]
    assert found["status.conditions"] == ["type"]
    assert found["spec.data.sources"] is None


def test_every_rule_says_what_is_allowed_and_the_next_step() -> None:
    rules = [rule for _, node in ALL for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) > 80
    for rule in rules:
        assert "; allowed: " in rule["message"], rule
        assert ". hint: " in rule["message"], rule
        assert "\n" not in rule["message"], rule
        assert (
            "(got %s" in rule.get("messageExpression", "(got %s") or "(got " in rule["messageExpression"]
        ), rule


def test_the_crd_is_small_enough_for_client_side_apply() -> None:
    # As kubectl keeps it in the annotation: without spaces.
    assert len(json.dumps(CRD, separators=(",", ":"))) <= 150_000


@pytest.mark.parametrize("value", ["2e-5", "1e-8", "1.0"])
def test_decimals_stay_strings_for_every_reader_of_yaml(value: str) -> None:
    text = crdgen.outputs()["crds/finetunejobs.windlass.dev.yaml"]
    assert f'default: "{value}"' in text or f"default: '{value}'" in text
    assert f"default: {value}\n" not in text


def test_committed_files_are_what_the_models_say() -> None:
    assert crdgen.stale(crdgen.ROOT) == []
    assert yaml.safe_load((crdgen.ROOT / "crds/finetunejobs.windlass.dev.yaml").read_text()) == CRD


def test_drift_is_reported_and_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main(["--check"], tmp_path) == 1
    assert (
        "crds/finetunejobs.windlass.dev.yaml: differs from the models. hint: run `make crds`"
        in capsys.readouterr().err
    )
    assert crdgen.main([], tmp_path) == 0
    assert crdgen.main(["--check"], tmp_path) == 0
    (tmp_path / "docs/reference/finetunejob.md").write_text("edited")
    assert crdgen.main(["--check"], tmp_path) == 1


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main(["--chek"]) == 2
    assert "unknown arguments (got --chek); allowed: --check or nothing" in capsys.readouterr().err


def test_a_type_without_a_place_in_the_api_is_refused() -> None:
    with pytest.raises(TypeError, match="type has no place in the API"):
        read(bytes)


def test_the_reference_page_names_every_field() -> None:
    page = (crdgen.ROOT / "docs/reference/finetunejob.md").read_text()
    for path, _ in ALL[1:]:
        if not path.endswith("[]") and path != "status":
            assert f"`{path}`" in page or f"`{path}*`" in page, path
