"""Reads the pydantic models into a tree of plain nodes: types, bounds, defaults, rules.

crdgen, the reference page and offline validation all walk this tree, so that they cannot disagree
about what a field is. It knows the few types that the API uses and refuses every other.
"""

import types
import typing
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, StrEnum
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from windlass.api.rules import Between, Bounds, Hint, KeysAndValues, ListMap, Rule


class Kind(StrEnum):
    """The JSON types, with time apart since it has a format, and map apart from object."""

    OBJECT = "object"
    MAP = "map"
    ARRAY = "array"
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIME = "time"


UNBOUNDED = Bounds()
SCALARS = {
    str: Kind.STRING,
    bool: Kind.BOOLEAN,
    int: Kind.INTEGER,
    float: Kind.NUMBER,
    datetime: Kind.TIME,
}


@dataclass(frozen=True, slots=True)
class Node:
    """One type as the API sees it."""

    kind: Kind
    bounds: Bounds = UNBOUNDED
    choices: tuple[str, ...] = ()
    model: type[BaseModel] | None = None
    item: "Node | None" = None
    key: str | None = None
    entries: KeysAndValues | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a model, by its wire name."""

    name: str
    attribute: str
    node: Node
    required: bool
    default: Any


def read(annotation: Any, metadata: tuple[Any, ...] = ()) -> Node:
    """The node of a type annotation and what stands beside it in `Annotated`."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        inner, *extra = typing.get_args(annotation)
        return read(inner, (*extra, *metadata))
    if origin in (typing.Union, types.UnionType):
        (inner,) = (one for one in typing.get_args(annotation) if one is not type(None))
        return read(inner, metadata)
    return _decorate(_bare(annotation, origin), _flat(metadata))


def _bare(annotation: Any, origin: Any) -> Node:
    if origin is Literal:
        return Node(Kind.STRING, choices=tuple(typing.get_args(annotation)))
    if origin is list:
        return Node(Kind.ARRAY, item=read(typing.get_args(annotation)[0]))
    if origin is dict:
        return Node(Kind.MAP, item=read(typing.get_args(annotation)[1]))
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return Node(Kind.OBJECT, model=annotation, rules=getattr(annotation, "rules", ()))
        if issubclass(annotation, Enum):
            return Node(Kind.STRING, choices=tuple(str(one.value) for one in annotation))
        if annotation in SCALARS:
            return Node(SCALARS[annotation])
    raise TypeError(
        f"windlass.api: type has no place in the API (got {annotation!r}); allowed: see nodes.Kind"
    )


def _flat(metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        inner
        for one in metadata
        for inner in (_flat(tuple(one.metadata)) if isinstance(one, FieldInfo) else (one,))
    )


def _decorate(node: Node, metadata: tuple[Any, ...]) -> Node:
    bounds = node.bounds
    for one in metadata:
        bounds = _bound(bounds, one)
    node = replace(node, bounds=bounds)
    for one in metadata:
        if isinstance(one, Rule):
            node = replace(node, rules=(*node.rules, one))
        elif isinstance(one, Hint):
            node = replace(node, rules=(*node.rules, *one.rules(bounds)))
        elif isinstance(one, Between):
            node = replace(node, rules=(*node.rules, one.rule(bounds.pattern or "")))
        elif isinstance(one, ListMap):
            node = replace(node, key=one.key)
        elif isinstance(one, KeysAndValues):
            node = replace(node, entries=one)
    return node


def _bound(bounds: Bounds, one: Any) -> Bounds:
    if isinstance(one, Ge):
        return replace(bounds, at_least=typing.cast("int", one.ge))
    if isinstance(one, Le):
        return replace(bounds, at_most=typing.cast("int", one.le))
    if isinstance(one, MinLen):
        return replace(bounds, min_length=one.min_length)
    if isinstance(one, MaxLen):
        return replace(bounds, max_length=one.max_length)
    pattern = getattr(one, "pattern", None)
    return bounds if pattern is None else replace(bounds, pattern=pattern)


@cache
def members(model: type[BaseModel]) -> tuple[Member, ...]:
    """The fields of a model in the order they are written."""
    found = []
    for attribute, info in model.model_fields.items():
        node = read(info.annotation, tuple(info.metadata))
        default = None if info.default is PydanticUndefined else info.default
        if info.default_factory is not None and node.model is not None:
            # The server judges a default by the rules before it fills in what is below: write it in full.
            default = defaults(node.model)
        found.append(
            Member(
                name=info.alias or attribute,
                attribute=attribute,
                node=node,
                required=info.is_required(),
                default=_wire(default),
            )
        )
    return tuple(found)


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """A block of which nothing was written: every field that has a default."""
    return {
        one.name: one.default
        for one in members(model)
        if one.default not in (None, []) and one.node.kind is not Kind.MAP
    }


def _wire(default: Any) -> Any:
    if isinstance(default, list):
        return [_wire(one) for one in default]
    return default.value if isinstance(default, Enum) else default
