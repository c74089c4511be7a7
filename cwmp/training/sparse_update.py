"""What a client sends: the kept coordinates of its update as indices and values.

Indices run through the tensors in the order of the network's parameters, each in row-major order: int32
where every index fits, else int64 (a float32 index would be wrong from 2²⁴ on). A full update needs no
indices. Whatever arrives is checked before it is used, for a node can send anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration_data import UsageError

INT32_COORDINATES = 2**31


@dataclass(frozen=True, kw_only=True)
class SparseUpdate:
    """Kept coordinates of one client's update.

    Attributes:
        indices: ascending coordinate numbers, int32 or int64, shape (kept,); None if all are sent.
        values: their values, float32, shape (kept,).
        coordinates: number of coordinates of the network.
    """

    indices: Tensor | None
    values: Tensor
    coordinates: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of indices and values, without framing."""
        index_bytes = 0 if self.indices is None else self.indices.numel() * self.indices.element_size()
        return index_bytes + self.values.numel() * self.values.element_size()


def pack(update: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> SparseUpdate:
    """Gather the kept coordinates of an update.

    Args:
        update: float32 tensor by parameter name, in the order of the network's parameters.
        masks: True where the coordinate is kept; same names and shapes.
    """
    flat = flatten(update)
    kept = torch.cat([masks[name].reshape(-1) for name in update])
    if bool(kept.all()):
        return SparseUpdate(indices=None, values=flat, coordinates=flat.numel())
    index_type = torch.int32 if flat.numel() <= INT32_COORDINATES else torch.int64
    indices = kept.nonzero().squeeze(1)
    return SparseUpdate(indices=indices.to(index_type), values=flat[indices], coordinates=flat.numel())


def add_to(accumulator: Tensor, message: SparseUpdate, weight: float) -> None:
    """Add a weighted message to an accumulator, in place; a coordinate that was not sent adds zero.

    Args:
        accumulator: floating point, shape (coordinates,).
        message: from ``pack``, or from anywhere.
        weight: share of the client in the average.

    Raises:
        UsageError: the message is not a valid update of that many coordinates.
    """
    _check(message, accumulator.numel())
    values = message.values.to(accumulator.dtype) * weight
    if message.indices is None:
        accumulator.add_(values)
    else:
        accumulator.index_add_(0, message.indices.long(), values)


class MeanUpdate:
    """Σ n_k·u_k / Σ n_k of the clients' updates u_k, weighted by their samples n_k: added up one by one.

    A coordinate that a client did not send counts as zero: the mean is over all clients of the round, not
    over those that sent it (averaging over the senders would enlarge the server's step where few send). The
    sum is float64 and depends on the order of the clients; no message is held.

    Args:
        coordinates: number of coordinates of the network.
    """

    def __init__(self, coordinates: int) -> None:
        self._sum = torch.zeros(coordinates, dtype=torch.float64)
        self._samples = 0

    def add(self, message: SparseUpdate, samples: int) -> None:
        """Add one client's update.

        Raises:
            UsageError: the message is not a valid update of that many coordinates.
        """
        add_to(self._sum, message, samples)
        self._samples += samples

    @property
    def value(self) -> Tensor:
        """The mean of what was added, float64, shape (coordinates,); zero of nothing."""
        return self._sum / max(self._samples, 1)


def average(messages: Sequence[SparseUpdate], samples: Sequence[int], coordinates: int) -> Tensor:
    """Mean of the clients' updates as ``MeanUpdate`` makes it, in the order given.

    Args:
        messages: one per client.
        samples: each client's weight n_k.
        coordinates: number of coordinates of the network.

    Returns:
        Σ n_k·u_k / Σ n_k, float64, shape (coordinates,).
    """
    mean = MeanUpdate(coordinates)
    for message, count in zip(messages, samples, strict=True):
        mean.add(message, count)
    return mean.value


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """All coordinates of some tensors in their order, shape (coordinates,)."""
    return torch.cat([value.reshape(-1) for value in tensors.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut a flat tensor of shape (coordinates,) into the shapes of some tensors by name."""
    parts = torch.split(flat, [value.numel() for value in like.values()])
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}


def _check(message: SparseUpdate, coordinates: int) -> None:
    indices, values = message.indices, message.values
    sent = coordinates if indices is None else indices.numel()
    problem = None
    if message.coordinates != coordinates or values.shape != (sent,):
        problem = "its size is not that of the network"
    elif not bool(torch.isfinite(values).all()):
        problem = "a value is not finite"
    elif indices is not None and sent:
        if indices.is_floating_point() or int(indices.min()) < 0 or int(indices.max()) >= coordinates:
            problem = "an index is out of range"
        elif not bool((indices[1:] > indices[:-1]).all()):
            problem = "its indices are not strictly ascending"
    if problem:
        raise UsageError(f"A client's message is not valid: {problem}.", next_step="Its client was not used.")
