"""Judges a value by its node as the API server would: defaults, nulls, types, bounds, list keys, rules.

validation calls it for the spec. Verdicts must equal the server's, which a contract test proves on random
specs; texts are fuller than the server's, with what is allowed and the next step.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from windlass.api.describe import fields
from windlass.api.nodes import Kind, Member, Node, members
from windlass.api.rules import Rule, matches

SHOWN_LENGTH: Final = 64
WORDS: Final = {
    Kind.OBJECT: "a block of fields",
    Kind.MAP: "a map of strings",
    Kind.ARRAY: "a list",
    Kind.STRING: "a string",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.TIME: "a time",
}
TYPES: Final[dict[Kind, type]] = {
    Kind.OBJECT: dict,
    Kind.MAP: dict,
    Kind.ARRAY: list,
    Kind.STRING: str,
    Kind.INTEGER: int,
    Kind.BOOLEAN: bool,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document, at the path of the field that has to change."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def text(wrong: str, *, got: str, allowed: str, hint: str) -> str:
    """The one form of a message."""
    return f"{wrong} (got {got}); allowed: {allowed}. hint: {hint}"


def shown(value: Any) -> str:
    """A value as JSON, shortened."""
    written = json.dumps(value, ensure_ascii=False, default=str)
    return (
        written if len(written) <= SHOWN_LENGTH else f"{written[:SHOWN_LENGTH]}… ({len(written)} characters)"
    )


def closest(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint naming the known word that is most like `word`."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]}?" if near else otherwise


def example(model: type[BaseModel], attribute: str) -> str:
    """The example in a field's description."""
    found = re.search(r"Example: (.*)\.$", fields(model).get(attribute, ""))
    return found.group(1) if found else "the value you want"


class Judge:
    """Collects the problems of one document. `complete` returns the value with defaults filled in."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        """Note one problem."""
        self.problems.append(Problem(path, message))

    def complete(self, node: Node, value: Any, path: str, old: Any = None) -> Any:
        """Judge `value`, then the rules if all below it is well; `old` is what it was before an update."""
        before = len(self.problems)
        if not self._typed(node, value, path):
            return value
        by_kind: dict[Kind, Callable[[Node, Any, str], Any]] = {
            Kind.OBJECT: self._object,
            Kind.MAP: self._map,
            Kind.ARRAY: self._array,
            Kind.STRING: self._string,
            Kind.INTEGER: self._integer,
        }
        completed = by_kind[node.kind](node, value, path) if node.kind in by_kind else value
        if len(self.problems) == before:
            self._rules(node, completed, path, old)
        return completed

    def _typed(self, node: Node, value: Any, path: str) -> bool:
        wanted = TYPES[node.kind]
        if isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool):
            return True
        self.add(
            path,
            text(
                "has the wrong type",
                got=shown(value),
                allowed=self._words(node),
                hint=_type_hint(node, value),
            ),
        )
        return False

    @staticmethod
    def _words(node: Node) -> str:
        if node.choices:
            return ", ".join(node.choices)
        bounds = node.bounds
        if bounds.at_least is not None and bounds.at_most is not None:
            return f"{WORDS[node.kind]} from {bounds.at_least} to {bounds.at_most}"
        return WORDS[node.kind]

    def _rules(self, node: Node, value: Any, path: str, old: Any) -> None:
        rules = (*node.rules, *(node.entries.rules() if node.entries else ()))
        for rule in rules:
            self.apply(rule, value, path, old)

    def apply(self, rule: Rule, value: Any, path: str, old: Any = None) -> None:
        """Judge one rule about `value`."""
        if (rule.transition and old is None) or rule.holds(value, old):
            return
        self.add(".".join(part for part in (path, rule.path) if part), rule.text(value, old))

    def _object(self, node: Node, value: dict[str, Any], path: str) -> dict[str, Any]:
        model = node.model
        if model is None:
            return value
        known = {one.name: one for one in members(model)}
        for name in value:
            if name not in known:
                self._unknown(name, known, path)
        completed: dict[str, Any] = {}
        for name, one in known.items():
            given = value.get(name)
            given = one.default if given is None else given
            if given is not None:
                completed[name] = self.complete(one.node, given, f"{path}.{name}")
            elif one.required:
                self._missing(model, one, path)
        return completed

    def _unknown(self, name: str, known: Iterable[str], path: str) -> None:
        hint = closest(name.replace("_", ""), known, "remove it, or see `kubectl explain`")
        self.add(f"{path}.{name}", text("unknown field", got=name, allowed=", ".join(known), hint=hint))

    def _missing(self, model: type[BaseModel], one: Member, path: str) -> None:
        hint = f"write for example {one.name}: {example(model, one.attribute)}"
        self.add(
            f"{path}.{one.name}",
            text("required value is missing", got="nothing", allowed=self._words(one.node), hint=hint),
        )

    def _map(self, node: Node, value: dict[str, Any], path: str) -> dict[str, Any]:
        kept = {key: one for key, one in value.items() if one is not None}
        self._sized(node, len(kept), path, "entries")
        limit = node.entries.value_length if node.entries else None
        for key, one in kept.items():
            if node.item is None or not self._typed(node.item, one, f"{path}.{key}"):
                continue
            if limit is not None and len(one) > limit:
                self._too_long(f"{path}.{key}", one, limit)
        return kept

    def _array(self, node: Node, value: list[Any], path: str) -> list[Any]:
        self._sized(node, len(value), path, "entries")
        item = node.item
        if item is None:
            return value
        if node.bounds.max_length is not None:
            value = value[: node.bounds.max_length]
        completed = [self.complete(item, one, f"{path}[{index}]") for index, one in enumerate(value)]
        self._distinct(node, completed, path)
        return completed

    def _distinct(self, node: Node, items: list[Any], path: str) -> None:
        seen: set[str] = set()
        for index, one in enumerate(items):
            key = one.get(node.key) if node.key is not None and isinstance(one, dict) else None
            if not isinstance(key, str):
                continue
            if key in seen:
                self.add(
                    f"{path}[{index}]",
                    text(
                        "duplicate value",
                        got=f"{node.key}: {key}",
                        allowed=f"each {node.key} once",
                        hint="remove one of the two entries, or rename it",
                    ),
                )
            seen.add(key)

    def _sized(self, node: Node, size: int, path: str, unit: str) -> None:
        low, high = node.bounds.min_length or 0, node.bounds.max_length
        if size < low or (high is not None and size > high):
            hint = "remove some" if size > low else "add one, or leave the field out if it is optional"
            self.add(
                path,
                text(
                    "has the wrong size", got=f"{size} {unit}", allowed=f"{low} to {high} {unit}", hint=hint
                ),
            )

    def _too_long(self, path: str, value: str, limit: int) -> None:
        hint = "shorten it"
        self.add(
            path,
            text(
                "is too long", got=f"{len(value)} characters", allowed=f"up to {limit} characters", hint=hint
            ),
        )

    def _string(self, node: Node, value: str, path: str) -> str:
        bounds = node.bounds
        if node.choices:
            if value not in node.choices:
                hint = closest(value, node.choices, "choose one of the allowed values")
                self.add(
                    path,
                    text("is not supported", got=shown(value), allowed=", ".join(node.choices), hint=hint),
                )
        elif bounds.max_length is not None and len(value) > bounds.max_length:
            self._too_long(path, value, bounds.max_length)
        elif bounds.min_length is not None and len(value) < bounds.min_length:
            hint = "write a value, or leave the field out if it is optional"
            allowed = f"{bounds.min_length} to {bounds.max_length} characters"
            self.add(path, text("is too short", got=shown(value), allowed=allowed, hint=hint))
        elif bounds.pattern is not None and not node.rules and not matches(bounds.pattern, value):
            hint = "see `kubectl explain`"
            self.add(
                path,
                text("is not written as it must be", got=shown(value), allowed=bounds.pattern, hint=hint),
            )
        return value

    def _integer(self, node: Node, value: int, path: str) -> int:
        low, high = node.bounds.at_least, node.bounds.at_most
        inside = (low is None or value >= low) and (high is None or value <= high)
        if not inside and not node.rules:
            hint = "write a number in that range"
            self.add(path, text("is out of range", got=str(value), allowed=self._words(node), hint=hint))
        return value


def _type_hint(node: Node, value: Any) -> str:
    if node.kind is Kind.STRING and isinstance(value, bool):
        return "put the value in quotes; YAML reads on, off, yes and no as true or false"
    if node.kind is Kind.STRING and isinstance(value, int | float):
        return "put the value in quotes"
    if node.kind is Kind.INTEGER:
        return "write whole digits without quotes, point, underscore or unit"
    if node.kind is Kind.BOOLEAN:
        return "write true or false without quotes"
    if node.kind is Kind.ARRAY:
        return "begin each entry with '- '"
    return "check the indentation, and see `kubectl explain`"
