"""Rules of the API beyond types: each is written once as CEL and once as its Python twin.

Models carry them next to the fields they judge: `Hint` and `Between` inside `Annotated`, `Rule` in
`Annotated` or in a model's `rules`. crdgen turns them into x-kubernetes-validations, validation runs
the twins offline. Both produce the same text. A rule must never look at the world, only at the object.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_.]*)\}")
ABSENT: Final = "nothing"

Value = Any
"""JSON-ready data with wire names and defaults filled in: what CEL calls `self`."""


def quote(text: str) -> str:
    """`text` as a CEL string literal."""
    return json.dumps(text, ensure_ascii=True)


def matches(pattern: str, text: str) -> bool:
    """What CEL's `matches` says: `$` means the end of the text, never before a last newline."""
    return re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None


def look_up(value: Value, path: str) -> Value:
    """The value at a dotted path of wire names; None where it is absent."""
    for part in path.split(".") if path else ():
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _bare(found: re.Match[str]) -> str:
    """The name of a value in its place."""
    return found.group(1).removeprefix("self.")


@dataclass(frozen=True, slots=True)
class Computed:
    """A value that a message shows and no field holds: as CEL of type string, and its twin."""

    cel: str
    twin: Callable[[Value], str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """One check of an object. The texts may hold {self.path}, {old.path} and names of `computed`.

    `holds` is called with (self, oldSelf); oldSelf is None unless `transition`. `forbidden` keeps the
    API server from printing the value, for what may hold a credential. `frozen` says that what is at `path`
    may not change; the schema judges that at the block itself, by `at_block`.
    """

    cel: str
    holds: Callable[[Value, Value], bool]
    wrong: str
    got: str
    allowed: str
    hint: str
    path: str = ""
    computed: Mapping[str, Computed] = field(default_factory=dict)
    transition: bool = False
    forbidden: bool = False
    frozen: bool = False
    at_block: str = "self == oldSelf"

    @property
    def template(self) -> str:
        """The message with its placeholders."""
        return f"{self.wrong} (got {self.got}); allowed: {self.allowed}. hint: {self.hint}"

    @property
    def static(self) -> str:
        """The message where no value can be shown: without the next step where values are of a kind that always can.

        The server shows it in place of one that would be cut by a line break in a text.
        """
        if not PLACEHOLDER.search(self.template):
            return self.template
        short = f"{self.wrong}; allowed: {self.allowed}"
        is_text = self.got == "{self}" and "self >=" not in self.cel
        return PLACEHOLDER.sub(_bare, f"{short}. hint: {self.hint}" if is_text else short)

    def text(self, value: Value, old: Value = None) -> str:
        """The message for this object, as the API server prints it."""

        def shown(found: re.Match[str]) -> str:
            name = found.group(1)
            if name in self.computed:
                return self.computed[name].twin(value)
            root, _, path = name.partition(".")
            item = look_up(value if root == "self" else old, path)
            return ABSENT if item is None else str(item)

        return PLACEHOLDER.sub(shown, self.template)

    def message_expression(self) -> str:
        """The message as a CEL expression."""
        # By `format`: adding strings of unknown size would break the cost budget.
        text = PLACEHOLDER.sub("%s", self.template.replace("%", "%%"))
        shown = [self._shown_in_cel(found.group(1)) for found in PLACEHOLDER.finditer(self.template)]
        return f"{quote(text)}.format([{', '.join(shown)}])"

    def _shown_in_cel(self, name: str) -> str:
        if name in self.computed:
            return self.computed[name].cel
        root, dot, path = name.partition(".")
        target = ("self" if root == "self" else "oldSelf") + dot + path
        return f"(has({target}) ? string({target}) : {quote(ABSENT)})" if path else f"string({target})"

    def seen_from(self, block: str, cel: str) -> "Rule":
        """The same rule for the server to judge at `block`, by an expression in which that is `self`."""

        def nearer(found: re.Match[str]) -> str:
            root, _, path = found.group(1).partition(".")
            inside = f"{path}.".startswith(f"{block}.") if block else True
            left = path[len(block) :].removeprefix(".") if inside else path
            return "{" + ".".join(part for part in (root, left) if part) + "}"

        path = self.path.removeprefix(block).removeprefix(".")
        return replace(self, cel=cel, got=PLACEHOLDER.sub(nearer, self.got), path=path)

    def to_kubernetes(self) -> dict[str, str]:
        """This rule as an entry of x-kubernetes-validations."""
        entry = {"rule": self.cel, "message": self.static}
        if PLACEHOLDER.search(self.template):
            entry["messageExpression"] = self.message_expression()
        if self.path:
            entry["fieldPath"] = f".{self.path}"
        entry["reason"] = "FieldValueForbidden" if self.forbidden else "FieldValueInvalid"
        return entry


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a node's type allows, as pydantic and the schema say it."""

    at_least: int | None = None
    at_most: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Hint:
    """The next step for whoever broke a bound or a pattern; `allowed` says a pattern in words."""

    hint: str
    allowed: str = ""

    def rules(self, bounds: Bounds) -> tuple[Rule, ...]:
        """The bounds of the node once more as rules, since the server's own texts hold no next step."""
        if bounds.pattern is not None:
            return (self._pattern(bounds.pattern),)
        if bounds.at_least is not None and bounds.at_most is not None:
            return (self._range(bounds.at_least, bounds.at_most),)
        raise TypeError("Hint: needs a pattern, or both bounds of a number, on the same node")

    def _pattern(self, pattern: str) -> Rule:
        return Rule(
            cel=f"self.matches({quote(pattern)})",
            holds=lambda value, _: matches(pattern, value),
            wrong="is not written as it must be",
            got="{self}",
            allowed=self.allowed,
            hint=self.hint,
        )

    def _range(self, low: int, high: int) -> Rule:
        return Rule(
            cel=f"self >= {low} && self <= {high}",
            holds=lambda value, _: low <= value <= high,
            wrong="is out of range",
            got="{self}",
            allowed=self.allowed or f"{low} to {high}",
            hint=self.hint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Bounds of a decimal that is written as a string; `above` and `below` exclude the bound itself."""

    hint: str
    above: str | None = None
    at_least: str | None = None
    below: str | None = None
    at_most: str | None = None

    def rule(self, pattern: str) -> Rule:
        """The rule; a string that is no decimal (by `pattern`) is left to the rule about its form."""
        limits = [
            (sign, limit)
            for sign, limit in (
                (">", self.above),
                (">=", self.at_least),
                ("<", self.below),
                ("<=", self.at_most),
            )
            if limit is not None
        ]
        compared = " && ".join(f"double(self) {sign} {_double(limit)}" for sign, limit in limits)
        return Rule(
            cel=f"!self.matches({quote(pattern)}) || ({compared})",
            holds=lambda value, _: not matches(pattern, value) or self._contains(float(value)),
            wrong="is out of range",
            got="{self}",
            allowed=" and ".join(f"{sign} {limit}" for sign, limit in limits),
            hint=self.hint,
        )

    def _contains(self, number: float) -> bool:
        return (
            (self.above is None or number > float(self.above))
            and (self.at_least is None or number >= float(self.at_least))
            and (self.below is None or number < float(self.below))
            and (self.at_most is None or number <= float(self.at_most))
        )


def _double(limit: str) -> str:
    """A decimal as a CEL double literal, which needs a point or an exponent."""
    return limit if "." in limit or "e" in limit else f"{limit}.0"


@dataclass(frozen=True, slots=True)
class ListMap:
    """The list is a map by this field of its items: no two may be equal, and appliers merge by it."""

    key: str


@dataclass(frozen=True, slots=True)
class KeysAndValues:
    """Keys of a map are qualified names (`team` or `example.com/team`), values are bounded."""

    value_length: int
    label_values: bool = True
    """Values must be label values too; annotations may hold any text."""

    def rules(self) -> tuple[Rule, ...]:
        """What the API server would later refuse on the pods, said at once; and our own prefix."""
        keys = Rule(
            cel=f"self.all(key, key.matches({quote(QUALIFIED_NAME)}))",
            holds=lambda value, _: all(matches(QUALIFIED_NAME, key) for key in value),
            wrong="a key is not a qualified name",
            got="{bad}",
            allowed="name or prefix/name of letters, digits, '-', '_' and '.', name at most 63 characters",
            hint="rename the key, for example to example.com/team",
            computed={
                "bad": Computed(
                    f"self.filter(key, !key.matches({quote(QUALIFIED_NAME)}))[0]",
                    lambda value: next(key for key in value if not matches(QUALIFIED_NAME, key)),
                )
            },
        )
        values = Rule(
            cel=f"self.all(key, self[key].matches({quote(LABEL_VALUE)}))",
            holds=lambda value, _: all(matches(LABEL_VALUE, one) for one in value.values()),
            wrong="a value is not a label value",
            got="{bad}",
            allowed="letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
            hint="shorten or rename the value; free text belongs into annotations",
            computed={
                "bad": Computed(
                    f"self.filter(key, !self[key].matches({quote(LABEL_VALUE)})).map(key, self[key])[0]",
                    lambda value: next(one for one in value.values() if not matches(LABEL_VALUE, one)),
                )
            },
        )
        return (keys, values) if self.label_values else (keys,)


QUALIFIED_NAME: Final = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
)
LABEL_VALUE: Final = r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"


def immutable(path: str, *, shown: str = "") -> Rule:
    """The block or scalar at `path` may not change, appear or vanish; messages tell `shown` of it."""
    new, old = f"self.{path}", f"oldSelf.{path}"

    def holds(value: Value, before: Value) -> bool:
        return before is None or bool(look_up(value, path) == look_up(before, path))

    return Rule(
        cel=f"has({new}) == has({old}) && (!has({new}) || {new} == {old})",
        holds=holds,
        wrong="cannot change after creation",
        got=f"{{self.{shown}}}, was {{old.{shown}}}" if shown else "another block",
        allowed="what the job was created with",
        hint="create a new job with another name, and delete this one if it is no longer wanted",
        path=path,
        transition=True,
        frozen=True,
    )
