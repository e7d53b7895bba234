"""Offline validation of a document: `windlass validate` says what the API server would, and more.

The verdict (accepted or not) equals the server's for what is in the document; whether claims, secrets
and models exist only the cluster can say. It must never touch the network or the file system's data.
"""

from typing import Any, Final

from pydantic import ValidationError

from windlass.api.judging import Judge, Problem, closest, shown, text
from windlass.api.kinds import KINDS
from windlass.api.meta import API_VERSION
from windlass.api.nodes import read

TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")


def validate(document: Any, previous: dict[str, Any] | None = None) -> list[Problem]:
    """What is wrong with `document`; empty if the server would take it.

    `previous` is the object as it is in the cluster: with it, changes that are not allowed are problems.
    """
    judge = Judge()
    if not isinstance(document, dict):
        hint = "begin with apiVersion, kind, metadata and spec"
        judge.add(
            "document", text("is not an object", got=shown(document), allowed="a block of fields", hint=hint)
        )
        return judge.problems
    document = _as_json(document)
    kind = document.get("kind")
    if not _identified(judge, document) or not isinstance(kind, str):
        return judge.problems
    _metadata(judge, document)
    model, root_rules = KINDS[kind].spec, KINDS[kind].rules
    spec = document.get("spec")
    if spec is None:
        allowed, hint = "a block of fields", f"write what the {kind} shall do"
        judge.add("spec", text("required value is missing", got="nothing", allowed=allowed, hint=hint))
        return judge.problems
    node = read(model)
    old = None if previous is None else Judge().complete(node, _as_json(previous.get("spec", {})), "spec")
    completed = judge.complete(node, spec, "spec", old)
    if isinstance(document.get("metadata"), dict) and isinstance(document["metadata"].get("name"), str):
        for rule in root_rules:
            judge.apply(rule, document, "")
    if not judge.problems:
        _parses(judge, model, completed)
    return judge.problems


def _as_json(value: Any) -> Any:
    """The value with keys as kubectl sends them: YAML has other keys than strings, JSON has not."""
    if isinstance(value, dict):
        return {_key(key): _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, list) else value


def _key(key: Any) -> str:
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return str(key)


def _identified(judge: Judge, document: dict[str, Any]) -> bool:
    kind, version = document.get("kind"), document.get("apiVersion")
    known = isinstance(kind, str) and kind in KINDS
    if not known:
        hint = closest(str(kind), KINDS, "see `kubectl api-resources`")
        judge.add(
            "kind", text("no matches for this kind", got=shown(kind), allowed=", ".join(KINDS), hint=hint)
        )
    if version != API_VERSION:
        hint = f"write apiVersion: {API_VERSION}"
        judge.add("apiVersion", text("no such version", got=shown(version), allowed=API_VERSION, hint=hint))
    for name in document:
        if name not in TOP:
            hint = closest(str(name), TOP, "is its indentation right? Settings belong below spec")
            judge.add(str(name), text("unknown field", got=str(name), allowed=", ".join(TOP), hint=hint))
    return known and version == API_VERSION


def _metadata(judge: Judge, document: dict[str, Any]) -> None:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        allowed, hint = "a block of fields", "write metadata with a name"
        judge.add("metadata", text("has the wrong type", got=shown(metadata), allowed=allowed, hint=hint))
        return
    name = metadata.get("name")
    if name is None and isinstance(metadata.get("generateName"), str):
        return
    if not isinstance(name, str) or not name:
        allowed, hint = "a name", "write for example name: support-bot"
        judge.add(
            "metadata.name", text("required value is missing", got=shown(name), allowed=allowed, hint=hint)
        )


def _parses(judge: Judge, model: Any, completed: Any) -> None:
    # The operator parses with pydantic: what it could not read must not be accepted either.
    try:
        model.model_validate(completed, by_alias=True, by_name=False)
    except ValidationError as error:
        for one in error.errors():
            path = ".".join(str(part) for part in ("spec", *one["loc"]))
            got = shown(one["input"])
            judge.add(
                path, text(one["msg"], got=got, allowed="see `kubectl explain`", hint="correct the value")
            )
