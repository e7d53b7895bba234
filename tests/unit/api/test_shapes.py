"""From models to nodes to schema, and messages between versions: what is kept, what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from contract.crd.specs import VALID
from windlass.api import contract, describe, meta
from windlass.api.base import Model, StatusModel
from windlass.api.contract import (
    BudgetUse,
    Conversion,
    Incarnation,
    Manifest,
    Orders,
    RankContext,
    RankEvent,
    Report,
    RunConfig,
    RunIdentity,
    Verdict,
)
from windlass.api.crdgen import JOB_COLUMNS, Column
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.meta import ExitCode, FailureClass, Reason, Rung
from windlass.api.nodes import Kind, Node, defaults, members, read
from windlass.api.reference import fields as reference_fields
from windlass.api.rules import Between, Bounds, Hint, KeysAndValues, ListMap, Rule, immutable
from windlass.api.schema import of_model, of_node
from windlass.api.status import JobStatus


class Colour(StrEnum):
    RED = "Red"
    BLUE = "Blue"


class Inner(Model):
    """An inner block."""

    size: Annotated[int, Field(ge=1, le=9), Hint("small")] = 3
    """How big. Example: 4."""


class Sample(Model):
    """A block with one field of each type."""

    name: Annotated[
        str, Field(min_length=1, max_length=8, pattern="^[a-z]+$"), Hint("abc", allowed="letters")
    ]
    """A name. Example: abc."""
    colour: Colour = Colour.RED
    """A colour. Example: Blue."""
    choice: Literal["A", "B"] = "A"
    """A choice. Example: B."""
    flag: bool = False
    """A flag. Example: true."""
    inner: Inner = Field(default_factory=Inner)
    """A block. Example: {size: 4}."""
    maybe: Inner | None = None
    """A block or none. Example: {size: 4}."""
    many: Annotated[list[Inner], Field(max_length=2)] = []
    """Blocks. Example: [{size: 4}]."""
    keyed: Annotated[list[Inner], Field(max_length=2), ListMap("size")] = []
    """Blocks by size. Example: [{size: 4}]."""
    labels: Annotated[dict[str, str], Field(max_length=3), KeysAndValues(value_length=5)] = {}
    """Labels. Example: {a: b}."""


NODES: list[tuple[str, Any, Kind, dict[str, Any]]] = [
    ("text", str, Kind.STRING, {}),
    ("flag", bool, Kind.BOOLEAN, {}),
    ("number", int, Kind.INTEGER, {}),
    ("fraction", float, Kind.NUMBER, {}),
    ("time", datetime, Kind.TIME, {}),
    ("or none", int | None, Kind.INTEGER, {}),
    ("choices", Literal["A", "B"], Kind.STRING, {"choices": ("A", "B")}),
    ("enum", Colour, Kind.STRING, {"choices": ("Red", "Blue")}),
    ("bounded", Annotated[int, Field(ge=1, le=5)], Kind.INTEGER, {"bounds": Bounds(at_least=1, at_most=5)}),
    (
        "bounded twice",
        Annotated[Annotated[str, Field(max_length=9)], Field(pattern="^a")],
        Kind.STRING,
        {"bounds": Bounds(max_length=9, pattern="^a")},
    ),
    ("list", list[int], Kind.ARRAY, {"item": Node(Kind.INTEGER)}),
    ("map", dict[str, str], Kind.MAP, {"item": Node(Kind.STRING)}),
    ("block", Inner, Kind.OBJECT, {"model": Inner}),
]


@pytest.mark.parametrize(("name", "annotation", "kind", "parts"), NODES, ids=[row[0] for row in NODES])
def test_types_become_nodes(name: str, annotation: Any, kind: Kind, parts: dict[str, Any]) -> None:
    node = read(annotation)
    assert node.kind is kind, name
    assert {key: getattr(node, key) for key in parts} == parts


@pytest.mark.parametrize("annotation", [bytes, set, complex, object, tuple], ids=str)
def test_other_types_have_no_place(annotation: Any) -> None:
    with pytest.raises(TypeError, match=r"windlass\.api: type has no place in the API"):
        read(annotation)


def test_union_of_two_things_is_refused() -> None:
    with pytest.raises(ValueError, match="too many values"):
        read(int | str)


def test_fields_are_in_order_with_wire_names_and_defaults() -> None:
    found = {one.name: (one.required, one.default) for one in members(Sample)}
    assert list(found) == ["name", "colour", "choice", "flag", "inner", "maybe", "many", "keyed", "labels"]
    assert found["name"] == (True, None)
    assert found["colour"] == (False, "Red")
    assert found["inner"] == (False, {"size": 3})
    assert found["maybe"] == (False, None)
    assert defaults(Sample) == {"colour": "Red", "choice": "A", "flag": False, "inner": {"size": 3}}


def test_schema_of_a_block_of_everything() -> None:
    schema = of_model(Sample, "", spec=True)
    assert schema["description"] == "A block with one field of each type."
    assert schema["required"] == ["name"]
    made = schema["properties"]
    assert made["colour"] == {
        "description": "A colour. Example: Blue. Default: Red.",
        "type": "string",
        "enum": ["Red", "Blue"],
        "default": "Red",
    }
    assert made["flag"]["default"] is False and made["flag"]["description"].endswith("Default: false.")
    assert made["inner"]["default"] == {"size": 3}
    assert "default" not in made["maybe"]
    assert made["many"]["x-kubernetes-list-type"] == "atomic" and made["many"]["maxItems"] == 2
    assert made["keyed"]["x-kubernetes-list-map-keys"] == ["size"]
    assert made["labels"]["additionalProperties"] == {"type": "string", "maxLength": 5}
    assert len(made["labels"]["x-kubernetes-validations"]) == 2
    assert (
        made["inner"]["properties"]["size"]["x-kubernetes-validations"][0]["rule"] == "self >= 1 && self <= 9"
    )


def test_pattern_is_said_in_words_in_the_spec_and_as_it_is_in_status() -> None:
    spec, status = (of_model(Sample, "", spec=spec)["properties"]["name"] for spec in (True, False))
    assert "pattern" not in spec and spec["x-kubernetes-validations"][0]["rule"] == 'self.matches("^[a-z]+$")'
    assert status["pattern"] == "^[a-z]+$" and "x-kubernetes-validations" not in status


@pytest.mark.parametrize(
    ("node", "schema"),
    [
        (Node(Kind.BOOLEAN), {"type": "boolean"}),
        (Node(Kind.NUMBER), {"type": "number"}),
        (Node(Kind.TIME), {"type": "string", "format": "date-time"}),
        (Node(Kind.INTEGER, Bounds(at_least=0)), {"type": "integer", "format": "int64", "minimum": 0}),
        (Node(Kind.STRING, Bounds(max_length=3)), {"type": "string", "maxLength": 3}),
        (
            Node(Kind.MAP, Bounds(max_length=3), item=Node(Kind.INTEGER)),
            {
                "type": "object",
                "additionalProperties": {"type": "integer", "format": "int64"},
                "maxProperties": 3,
            },
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_schema_of_a_node(node: Node, schema: dict[str, Any]) -> None:
    assert of_node(node, "", spec=True) == schema
    assert of_node(node, "What.", spec=True) == {"description": "What."} | schema


def test_reference_names_types_and_ranges() -> None:
    rows = {name: kind for name, kind, _ in reference_fields(of_model(Sample, "", spec=True), "spec")}
    assert rows["spec.name*"] == "string"
    assert rows["spec.colour"] == "Red \\| Blue"
    assert rows["spec.inner.size"] == "integer, 1 to 9"
    assert rows["spec.many"] == "list of object, 0 to 2"
    assert rows["spec.many[].size"] == "integer, 1 to 9"
    assert rows["spec.labels"] == "map of strings, 0 to 3"


def test_reference_of_a_map_of_numbers_says_so() -> None:
    rows = {name: kind for name, kind, _ in reference_fields(of_model(JobStatus, "", spec=False), "status")}
    assert rows["status.charges.used"] == "map of integers"
    assert rows["status.finishedAt"] == "time"


def test_descriptions_come_from_the_strings_below_fields() -> None:
    found = describe.fields(JobStatus)
    assert found["charges"] == "Lost pods charged to recovery.budgets so far."
    assert describe.fields(Sample)["colour"] == "A colour. Example: Blue."
    assert describe.model_text(Inner) == "An inner block."


@pytest.mark.parametrize(
    ("column", "wire"),
    [
        (
            Column("A", "string", ".a", "What."),
            {"name": "A", "type": "string", "jsonPath": ".a", "description": "What."},
        ),
        (
            Column("A", "string", ".a", "What.", wide=True),
            {"name": "A", "type": "string", "jsonPath": ".a", "description": "What.", "priority": 1},
        ),
    ],
)
def test_columns_as_kubernetes_takes_them(column: Column, wire: dict[str, Any]) -> None:
    assert column.to_kubernetes() == wire


def test_columns_are_those_that_users_were_promised() -> None:
    narrow = [column.name for column in JOB_COLUMNS if not column.wide]
    assert narrow == ["Ready", "Reason", "Step", "Loss", "Restarts", "Goodput", "Age"]


# --- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "cel", "allowed", "inside", "outside"),
    [
        (Between(above="0", hint="h"), "double(self) > 0.0", "> 0", ["0.1"], ["0"]),
        (
            Between(at_least="0", below="1", hint="h"),
            "double(self) >= 0.0 && double(self) < 1.0",
            ">= 0 and < 1",
            ["0"],
            ["1"],
        ),
        (
            Between(above="0", at_most="0.5", hint="h"),
            "double(self) > 0.0 && double(self) <= 0.5",
            "> 0 and <= 0.5",
            ["0.5"],
            ["0.6"],
        ),
        (Between(at_most="1e3", hint="h"), "double(self) <= 1e3", "<= 1e3", ["1000"], ["1001"]),
    ],
    ids=str,
)
def test_decimal_bounds_in_both_languages(
    between: Between, cel: str, allowed: str, inside: list[str], outside: list[str]
) -> None:
    rule = between.rule("^[0-9.]+$")
    assert rule.cel == f'!self.matches("^[0-9.]+$") || ({cel})'
    assert rule.allowed == allowed
    assert all(rule.holds(value, None) for value in [*inside, "no decimal"])
    assert not any(rule.holds(value, None) for value in outside)


MOVED = Rule(
    cel="whole",
    holds=lambda *_: False,
    wrong="moved",
    got="{self.a.b}, was {old.a.b}",
    allowed="x",
    hint="y",
    path="a.b",
    transition=True,
)


def test_a_rule_may_show_old_and_new() -> None:
    assert MOVED.text({"a": {"b": 2}}, {"a": {"b": 1}}) == "moved (got 2, was 1); allowed: x. hint: y"
    assert MOVED.text({}, {}) == "moved (got nothing, was nothing); allowed: x. hint: y"
    wire = MOVED.to_kubernetes()
    assert wire["fieldPath"] == ".a.b"
    assert 'has(oldSelf.a.b) ? string(oldSelf.a.b) : "nothing"' in wire["messageExpression"]
    assert wire["message"] == "moved; allowed: x"


@pytest.mark.parametrize(
    ("block", "got", "path"),
    [
        ("", "{self.a.b}, was {old.a.b}", "a.b"),
        ("a", "{self.b}, was {old.b}", "b"),
        ("a.b", "{self}, was {old}", ""),
        # Another block, whose name begins alike.
        ("ab", "{self.a.b}, was {old.a.b}", "a.b"),
    ],
)
def test_a_rule_seen_from_a_block(block: str, got: str, path: str) -> None:
    near = MOVED.seen_from(block, "near")
    assert (near.cel, near.got, near.path) == ("near", got, path)
    assert (near.wrong, near.allowed, near.hint, near.transition) == ("moved", "x", "y", True)
    assert MOVED.cel == "whole", "the rule itself stays"


def test_a_whole_block_is_shown_as_a_scalar() -> None:
    near = immutable("a.b", shown="a.b").seen_from("a.b", "self == oldSelf").to_kubernetes()
    assert near["rule"] == "self == oldSelf" and "fieldPath" not in near
    assert near["messageExpression"].endswith(".format([string(self), string(oldSelf)])")


# --- words of one meaning --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [Reason, FailureClass, Rung, meta.Phase, meta.ConditionType])
def test_words_are_camel_case_and_distinct(words: type[StrEnum]) -> None:
    values = [str(each) for each in words]
    assert len(values) == len(set(values))
    assert all(value.isalnum() and value[0].isupper() and len(value) <= 64 for value in values)


def test_exit_codes_leave_room_for_shells_and_signals() -> None:
    codes = [int(code) for code in ExitCode if code]
    assert all(2 < code < 64 for code in codes) and len(codes) == len(set(codes))


def test_mounts_do_not_lie_in_each_other() -> None:
    mounts = [meta.RUN_CONFIG_MOUNT, meta.CA_MOUNT, meta.TOKEN_MOUNT, meta.STORE_MOUNT, meta.VOLUME_ROOT]
    mounts += [meta.SECRET_ROOT, meta.SCRATCH_MOUNT]
    assert not [(a, b) for a in mounts for b in mounts if a != b and f"{a}/".startswith(f"{b}/")]


# --- messages between versions ---------------------------------------------------------------------

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
RUN = RunIdentity(kind="FineTuneJob", namespace="team", name="ft", uid="u")
CONFIG = RunConfig(
    run=RUN,
    attempt=1,
    spec=FineTuneJobSpec.model_validate(VALID["spec"]),
    leader_host="ft-0.ft.team.svc",
    store_path="/windlass/store/team/ft/u",
)
MESSAGES: list[BaseModel] = [
    CONFIG,
    Report(run=RUN, pod="p", pod_uid="u", attempt=1, ticket=1, sequence=1, sent_at=AT),
    Orders(action="SaveAndExit", reason="Suspended"),
    Verdict(result="Preempted", step=3),
    RankEvent(type="Step", at=1.0, step=3, loss=1.5),
    RankContext(task="train", config=CONFIG, incarnation=2),
    Incarnation(
        incarnation=2,
        attempt=1,
        ticket=3,
        owner_pod_uid="u",
        owner_pod="p",
        created_at=AT,
        budgets=BudgetUse(used={FailureClass.CRASH: 2}, since_step=20),
    ),
    Manifest(
        run_uid="u",
        step=20,
        incarnation=1,
        world_size=2,
        strategy="FSDP",
        format="DCP",
        files=[],
        files_digest="d",
        created_at=AT,
    ),
    Conversion(source="step-00000020.i1", source_digest="d", files=[], files_digest="e", created_at=AT),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_messages_come_back_as_they_were_sent(message: BaseModel) -> None:
    text = message.model_dump_json(by_alias=True, exclude_none=True)
    assert type(message).model_validate_json(text) == message
    assert "_" not in "".join(json.loads(text))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_reports_of_another_version_are_read_and_configurations_are_not(message: BaseModel) -> None:
    """What goes up may come from a newer agent; what goes down or stays in the store must be understood whole."""
    wire = json.loads(message.model_dump_json(by_alias=True)) | {"fromTheFuture": 1}
    if isinstance(message, StatusModel):
        assert type(message).model_validate(wire) == message
    else:
        with pytest.raises(ValidationError, match="fromTheFuture"):
            type(message).model_validate(wire)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_messages_are_values(message: BaseModel) -> None:
    name = next(iter(type(message).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(message, name, None)


def test_every_message_with_a_version_has_the_same_one() -> None:
    versioned = [
        model
        for model in vars(contract).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and "version" in model.model_fields
    ]
    assert {model.model_fields["version"].default for model in versioned} == {meta.CONTRACT_VERSION}
    assert len(versioned) == 6


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        BudgetUse,
        used=st.dictionaries(st.sampled_from(list(FailureClass)), st.integers(0, 9)),
        since_step=st.integers(0, 99),
        signature=st.none() | st.text(max_size=9),
        signature_count=st.integers(0, 9),
    )
)
def test_counts_keep_their_classes_over_json(use: BudgetUse) -> None:
    again = BudgetUse.model_validate_json(use.model_dump_json(by_alias=True))
    assert again == use and all(isinstance(kind, FailureClass) for kind in again.used)


def test_status_leaves_out_what_is_not_known() -> None:
    wire = JobStatus().to_wire()
    assert not {"startedAt", "output", "charges", "lastFailure"} & set(wire)
    assert JobStatus.model_validate(wire) == JobStatus()
