"""Copies a state dictionary into CPU buffers that are kept from save to save.

Used by the writer; this copy is all that an asynchronous save costs training. Must never hand out a
buffer while a write still reads it: the writer has at most one save in flight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from windlass_workloads.checkpoint.flat import EndToEnd


class Staging:
    """Buffers by the path of their value in the state dictionary."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[object, ...], torch.Tensor] = {}

    def copy(self, state: dict[str, Any]) -> dict[str, Any]:
        """The same dictionary with every tensor on the CPU and independent of training."""
        with torch.no_grad():
            copied: dict[str, Any] = self._copy(state, ())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return copied

    def _copy(self, value: Any, path: tuple[object, ...]) -> Any:
        if isinstance(value, DTensor):
            local = self._copy_tensor(value.to_local(), path)
            return DTensor(local, value._spec, requires_grad=False)
        if isinstance(value, EndToEnd):
            return value.copy_into(self._buffer(path, torch.Size([value.size]), value.tensors[0]))
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value, path)
        if isinstance(value, dict):
            return {key: self._copy(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self._copy(each, (*path, index)) for index, each in enumerate(value)])
        return value

    def _copy_tensor(self, tensor: torch.Tensor, path: tuple[object, ...]) -> torch.Tensor:
        buffer = self._buffer(path, tensor.shape, tensor)
        return buffer.copy_(tensor.detach(), non_blocking=tensor.is_cuda)

    def _buffer(self, path: tuple[object, ...], shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != shape or buffer.dtype != like.dtype:
            buffer = torch.empty(shape, dtype=like.dtype, device="cpu", pin_memory=like.is_cuda)
            self._buffers[path] = buffer
        return buffer
