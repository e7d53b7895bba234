"""A state as a few long tensors: all tensors of one kind and dtype laid end to end, with an index of names.

torch's checkpoints cost about half a millisecond per tensor, saved or loaded, and an adapter with its optimizer has
thousands of them: most of a restart. Made by state.ReplicatedState, copied by Staging, read by reader. Must never
lay out what differs between ranks: a shard's place in the whole would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

Path = tuple[str, ...]
FLAT: Final = "flat"
INDEX: Final = "index"
PREFIX: Final = f"state.{FLAT}."
"""What the long tensors are called in torch's metadata, before the name of their group."""


class EndToEnd:
    """Tensors of one dtype and device that are saved one after another as one."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self.size = 0

    def add(self, tensor: torch.Tensor) -> int:
        """Appends a tensor; returns the place of its first element."""
        place = self.size
        self.tensors.append(tensor.detach())
        self.size += tensor.numel()
        return place

    def copy_into(self, buffer: torch.Tensor) -> torch.Tensor:
        """Fills a buffer of `size` elements."""
        place = 0
        for tensor in self.tensors:
            part = buffer[place : place + tensor.numel()].view(tensor.shape)
            part.copy_(tensor, non_blocking=tensor.is_cuda)
            place += tensor.numel()
        return buffer

    def joined(self) -> torch.Tensor:
        """One new tensor where these are."""
        first = self.tensors[0]
        return self.copy_into(torch.empty(self.size, dtype=first.dtype, device=first.device))


def join(value: Any) -> Any:
    """The same nested dictionary with every EndToEnd made one tensor; other values stay as they are."""
    if isinstance(value, EndToEnd):
        return value.joined()
    if isinstance(value, dict):
        return {key: join(each) for key, each in value.items()}
    return value


def lay_out(named: Mapping[Path, torch.Tensor]) -> dict[str, Any]:
    """`flat` by group (last part of an optimizer's path, or `model`, and dtype) and `index` as JSON text.

    Names that share one memory (tied weights) share one place.
    """
    groups: dict[str, EndToEnd] = {}
    places: dict[tuple[str, int, torch.Size], int] = {}
    rows: list[list[Any]] = []
    for path, tensor in named.items():
        kind = path[0] if path[0] == "model" else path[-1]
        group = f"{kind}.{str(tensor.dtype).removeprefix('torch.')}"
        same = (group, tensor.data_ptr(), tensor.shape)
        if same not in places or tensor.numel() == 0:
            places[same] = groups.setdefault(group, EndToEnd()).add(tensor)
        rows.append([list(path), group, places[same], list(tensor.shape)])
    return {FLAT: dict(groups), INDEX: json.dumps(rows)}


def is_flat(stored: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with this metadata (by flattened name) was saved in this form."""
    return f"state.{INDEX}" in stored


def buffers(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What such a checkpoint is loaded into."""
    flat = {
        name.removeprefix(PREFIX): torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in stored.items()
        if name.startswith(PREFIX)
    }
    return {FLAT: flat, INDEX: "", "plain": ""}


def views(state: Mapping[str, Any]) -> dict[Path, torch.Tensor]:
    """Every tensor by its path, as part of the long ones. Raises ValueError for an index that does not fit."""
    found: dict[Path, torch.Tensor] = {}
    for path, group, place, shape in json.loads(state[INDEX]):
        size = torch.Size(shape).numel()
        whole = state[FLAT].get(group)
        if whole is None or not 0 <= place <= whole.numel() - size:
            raise ValueError(
                f"index of the checkpoint: {'.'.join(path)} is not in it (got {group} at {place})"
            )
        found[tuple(path)] = whole[place : place + size].view(shape)
    return found


def require_same(saved: Mapping[Path, torch.Tensor], live: Mapping[Path, torch.Tensor]) -> None:
    """Raises ValueError unless both have the same names and shapes."""
    for path in sorted({*saved, *live}):
        name = ".".join(path[1:])
        if path not in saved:
            raise ValueError(f"{name}: is in the model and not in the checkpoint")
        if path not in live:
            raise ValueError(f"{name}: is in the checkpoint and not in the model")
        if saved[path].shape != live[path].shape:
            shapes = (list(saved[path].shape), list(live[path].shape))
            raise ValueError(f"{name}: has shape {shapes[0]} in the checkpoint and {shapes[1]} in the model")


def put(value: torch.Tensor, into: torch.Tensor) -> None:
    """Copies a whole tensor, of which a sharded one takes its part."""
    if value.shape != into.shape:
        raise ValueError(f"shape {list(value.shape)} in the checkpoint and {list(into.shape)} in the model")
    if isinstance(into, DTensor):
        part = distribute_tensor(value.to(into.device), into.device_mesh, into.placements, src_data_rank=None)
        into.to_local().copy_(part.to_local())
    else:
        into.copy_(value)
