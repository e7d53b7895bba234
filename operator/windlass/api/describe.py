"""Descriptions of models and fields, read from the source: class docstrings, strings below fields.

Only crdgen and the reference page call this. Reading the source here rather than when the models are
made keeps descriptions out of the start-up time of operator and agents.
"""

import ast
import inspect
import sys
from functools import cache

from pydantic import BaseModel


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _strings_below_fields(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = _one_line(below.value.value)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())


@cache
def fields(model: type[BaseModel]) -> dict[str, str]:
    """Description of every field of `model`, inherited ones included, by attribute name."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base is not BaseModel and issubclass(base, BaseModel):
            node = _classes(base.__module__).get(base.__name__)
            found |= _strings_below_fields(node) if node else {}
    for name, info in model.model_fields.items():
        if info.description and name not in found:
            found[name] = _one_line(info.description)
    return found


def model_text(model: type[BaseModel]) -> str:
    """What a block is: the docstring of its model."""
    return _one_line(model.__doc__ or "")
