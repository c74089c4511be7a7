"""Shared memory through which the server and one worker pass what is large: messages and residuals.

    pickle of the rest ─▶ pipe            a few kB
    tensors, messages  ─▶ tray            copied in by one side and out by the other

Both sides put things into the tray in turns: a worker answers after it has read its task, and gets another
task after its answer has been read. What finds no room in the tray goes through the pipe.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.training.client_round import ClientResult
from cwmp.training.round_record import ClientReport

ALIGNMENT = 64


class Tray:
    """Room for what one task or answer holds.

    Args:
        size_bytes: of the room.
    """

    def __init__(self, size_bytes: int) -> None:
        self._memory = shared(torch.zeros(size_bytes, dtype=torch.uint8))

    def dumps(self, content: object) -> bytes:
        """Bytes of an object whose tensors and messages are in the tray."""
        places: list[tuple[int, int]] = []
        pickled = io.BytesIO()
        _Pickler(pickled, pickle.HIGHEST_PROTOCOL, buffer_callback=lambda part: self._put(part, places)).dump(
            content
        )
        return pickle.dumps((places, pickled.getvalue()))

    def loads(self, data: bytes) -> Any:
        """The object; nothing of it stays in the tray."""
        places, pickled = pickle.loads(data)
        memory = self._memory.numpy()
        return pickle.loads(pickled, buffers=[memory[first:last] for first, last in places])

    def _put(self, part: pickle.PickleBuffer, places: list[tuple[int, int]]) -> bool:
        """Copy a part behind those before it; whether it must go with the others, for want of room."""
        content = np.frombuffer(part.raw(), dtype=np.uint8)
        first = -(-places[-1][1] // ALIGNMENT) * ALIGNMENT if places else 0
        last = first + content.size
        if last > self._memory.numel():
            return True
        self._memory.numpy()[first:last] = content
        places.append((first, last))
        return False


class _Pickler(pickle.Pickler):
    """Hands over tensors and messages as buffers."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Tensor):
            return _tensor, (value.detach().contiguous().numpy(),)
        if isinstance(value, ClientResult):
            return _result, (pickle.PickleBuffer(value.message), value.report, value.residual)
        return NotImplemented


def _tensor(content: NDArray[Any]) -> Tensor:
    return torch.from_numpy(content.copy())


def _result(message: Any, report: ClientReport, residual: Mapping[str, Tensor]) -> ClientResult:
    return ClientResult(message=bytes(message), report=report, residual=residual)


def shared(tensor: Tensor) -> Tensor:
    """Move a tensor into shared memory, where it is."""
    moved: Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return moved
