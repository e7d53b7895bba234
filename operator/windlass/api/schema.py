"""Turns models into the structural OpenAPI v3 schema that a CustomResourceDefinition takes.

crdgen calls it. Spec blocks carry defaults and rules; status blocks carry neither, since the operator
alone writes them. The result holds no $ref, anyOf, title or exclusive bound: the API server refuses them.
"""

from typing import Any

from pydantic import BaseModel

from windlass.api.describe import fields, model_text
from windlass.api.nodes import Kind, Member, Node, members
from windlass.api.rules import KeysAndValues, Rule

Schema = dict[str, Any]


def of_model(model: type[BaseModel], description: str, *, spec: bool) -> Schema:
    """The schema of a block: properties in order, what is required, rules across its fields."""
    texts = fields(model)
    shown = members(model)
    schema: Schema = {"type": "object", "description": description or model_text(model)}
    required = [one.name for one in shown if one.required]
    if required:
        schema["required"] = required
    schema["properties"] = {one.name: _member(one, texts.get(one.attribute, ""), spec=spec) for one in shown}
    return schema


def _member(one: Member, text: str, *, spec: bool) -> Schema:
    node = one.node
    own = text or (model_text(node.model) if node.model is not None else "")
    if spec and one.default not in (None, []) and node.kind not in (Kind.OBJECT, Kind.MAP):
        own += f" Default: {_written(one.default)}."
    schema = of_node(node, own, spec=spec)
    if spec and one.default is not None and one.default != [] and node.kind is not Kind.MAP:
        schema["default"] = one.default
    return schema


def _written(default: Any) -> str:
    if isinstance(default, list):
        return f"[{', '.join(str(one) for one in default)}]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def of_node(node: Node, description: str, *, spec: bool) -> Schema:
    """The schema of one type with its bounds, list type and rules."""
    if node.model is not None:
        schema = of_model(node.model, description, spec=spec)
    else:
        schema = {"description": description} if description else {}
        schema |= _typed(node, spec=spec)
    for rule in (*node.rules, *_entry_rules(node.entries)) if spec else ():
        if rule.frozen:
            _freeze(schema, rule)
        else:
            _add(schema, rule)
    return schema


def _add(schema: Schema, rule: Rule) -> None:
    schema.setdefault("x-kubernetes-validations", []).append(rule.to_kubernetes())


def _freeze(schema: Schema, rule: Rule) -> None:
    """Write a rule about a block that may not change at that block, and above it that it neither comes nor goes.

    The server judges all rules at every status write, and copies the schemas of all neighbours for each field
    that an expression names: a rule above all blocks copies the most.
    """
    *way, name = rule.path.split(".")
    holder = schema
    for part in way:
        holder = holder["properties"][part]
    block = holder["properties"][name]
    _add(block, rule.seen_from(rule.path, rule.at_block))
    if "default" not in block and name not in holder.get("required", ()):
        _add(holder, rule.seen_from(".".join(way), f"has(self.{name}) == has(oldSelf.{name})"))


def _typed(node: Node, *, spec: bool) -> Schema:
    bounds = node.bounds
    match node.kind:
        case Kind.ARRAY if node.item is not None:
            return _sized(
                {"type": "array", "items": of_node(node.item, "", spec=spec), **_list_type(node)},
                {"minItems": bounds.min_length, "maxItems": bounds.max_length},
            )
        case Kind.MAP if node.item is not None:
            values = of_node(node.item, "", spec=spec)
            if node.entries is not None:
                values["maxLength"] = node.entries.value_length
            return _sized(
                {"type": "object", "additionalProperties": values},
                {"minProperties": bounds.min_length, "maxProperties": bounds.max_length},
            )
        case Kind.INTEGER:
            return _sized(
                {"type": "integer", "format": "int64"},
                {"minimum": bounds.at_least, "maximum": bounds.at_most},
            )
        case Kind.TIME:
            return {"type": "string", "format": "date-time"}
        case Kind.STRING if node.choices:
            return {"type": "string", "enum": list(node.choices)}
        case Kind.STRING:
            return _sized(
                {"type": "string"},
                {
                    "minLength": bounds.min_length,
                    "maxLength": bounds.max_length,
                    # Rules say in words what the pattern allows; the server's own text would be the pattern.
                    "pattern": None if node.rules and spec else bounds.pattern,
                },
            )
        case _:
            return {"type": str(node.kind)}


def _sized(schema: Schema, bounds: dict[str, int | str | None]) -> Schema:
    return schema | {name: bound for name, bound in bounds.items() if bound is not None}


def _list_type(node: Node) -> Schema:
    if node.key is None:
        return {"x-kubernetes-list-type": "atomic"}
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [node.key]}


def _entry_rules(entries: KeysAndValues | None) -> tuple[Rule, ...]:
    return () if entries is None else entries.rules()
