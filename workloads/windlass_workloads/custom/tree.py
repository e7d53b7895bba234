"""A state of any shape, as checkpoints hold it: tensors laid end to end, and the rest as JSON.

Used by `run`. What a script saves comes back without being told what it looks like, and nothing of it is ever
unpickled. Must never take what it cannot give back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

from windlass_workloads.checkpoint import flat

ALLOWED = "tensors, numbers, strings, True, False, None, and dicts (keys: strings, integers), lists and tuples of them"
GATHER = (
    "gather it first, for example by get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=False))"
)


class TreeState:
    """Implements StateAdapter for one nested state, the same on every rank."""

    strategy = "Custom"
    format: Literal["DCP", "DeepSpeed"] = "DCP"

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        """What is saved next, made by `pack`."""
        self.taken: Any = None
        """What was loaded; tensors are on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """What `pack` made; nothing is copied yet."""
        return self.saved

    def by_name(self) -> dict[str, Any]:
        """A checkpoint of another form is not this script's."""
        raise ValueError("it was not saved by windlass_workloads.custom")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Never called: `by_name` has refused."""
        raise ValueError("it was not saved by windlass_workloads.custom")

    def load_flat(self, state: dict[str, Any]) -> None:
        """Takes over a filled state."""
        self.taken = unpack(state)


def pack(tree: Any) -> dict[str, Any]:
    """The form for checkpoints. TypeError names the place and type of what cannot be saved."""
    tensors: dict[flat.Path, torch.Tensor] = {}
    plain = _plain(tree, "state", tensors)
    return {**flat.lay_out(tensors), "plain": json.dumps(plain)}


def shape_of(packed: Mapping[str, Any]) -> str:
    """All of a packed state but the numbers in its tensors, as one text."""
    return f"{packed[flat.INDEX]}\n{packed['plain']}"


def unpack(state: Mapping[str, Any]) -> Any:
    """What was packed. ValueError or KeyError for a form that does not fit."""
    tensors = {path[0]: tensor for path, tensor in flat.views(state).items()}
    return _tree(json.loads(state["plain"]), tensors)


def _plain(value: Any, place: str, tensors: dict[flat.Path, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensor = _dense(value, place)
        # Those of one device are laid together: the last part of a path says what goes with what.
        tensors[(name, tensor.device.type)] = tensor
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {
            "dict": [[_key(key, place), _plain(one, f"{place}.{key}", tensors)] for key, one in value.items()]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(one, f"{place}[{index}]", tensors) for index, one in enumerate(value)]}
    raise TypeError(
        f"{place}: cannot be saved (got {type(value).__name__}); allowed {ALLOWED}. "
        "hint: convert it, for example by torch.from_numpy or .item()"
    )


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise TypeError(
        f"{place}: a key cannot be saved (got {key!r} of type {type(key).__name__}); allowed strings and integers. "
        "hint: use its str()"
    )


def _dense(value: torch.Tensor, place: str) -> torch.Tensor:
    if isinstance(value, DTensor):
        raise TypeError(
            f"{place}: is a part of a tensor that is spread over ranks (got DTensor); allowed whole tensors, the same "
            f"on every rank. hint: {GATHER}"
        )
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise TypeError(
            f"{place}: cannot be saved (got a tensor of layout {value.layout} on {value.device}); allowed dense "
            "tensors with data. hint: use to_dense() or dequantize()"
        )
    return value.detach().contiguous()


def _tree(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "dict":
        return {key: _tree(one, tensors) for key, one in content}
    parts = [_tree(one, tensors) for one in content]
    return parts if kind == "list" else tuple(parts)
