"""What a client sends: the kept coordinates of its update, their values as they are and their numbers coded.

    header    24 bytes: magic, version, kind, digest of the network, number of kept coordinates
    values    float32, little endian, in ascending order of their coordinates
    indices   as ``cwmp.index_coding`` writes them; none where every coordinate is sent

Coordinates are numbered through the tensors in the order of the network's parameters, each in row-major
order. What is counted and paid for is the length of these bytes, whichever engine carries them. Whatever
arrives is checked before it is used, for a node can send anything: no memory is taken for what a message
merely declares, and a message that is not valid changes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calibration_data import UsageError
from cwmp.index_coding import decode_indices, encode_indices, most_coded_bytes
from cwmp.selection.result import Mask, as_bits

MAGIC = b"CJUP"
VERSION = 1
"""Of the bytes. 1: the first."""
ALL, SOME = 0, 1
"""Kinds of message: every coordinate, or those whose indices follow."""

INT32_COORDINATES = 2**31
VALUE_BYTES = 4

_HEADER = struct.Struct("<4sBBxx8sQ")


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
        """Bytes of indices and values as they are here, not coded."""
        index_bytes = 0 if self.indices is None else self.indices.numel() * self.indices.element_size()
        return index_bytes + self.values.numel() * self.values.element_size()


def pack(update: Mapping[str, Tensor], masks: Mapping[str, Mask]) -> SparseUpdate:
    """Gather the kept coordinates of an update.

    Args:
        update: float32 tensor by parameter name, in the order of the network's parameters.
        masks: which coordinates of each are kept; same names and shapes.
    """
    flat = [value.reshape(-1) for value in update.values()]
    coordinates = sum(value.numel() for value in flat)
    bits = [as_bits(masks[name]) for name in update]
    if sum(mask.kept for mask in bits) == coordinates:
        return SparseUpdate(indices=None, values=torch.cat(flat), coordinates=coordinates)
    index_type = torch.int32 if coordinates <= INT32_COORDINATES else torch.int64
    kept = [mask.indices() for mask in bits]
    before = itertools.accumulate((value.numel() for value in flat), initial=0)
    return SparseUpdate(
        indices=torch.cat([part + first for part, first in zip(kept, before, strict=False)]).to(index_type),
        values=torch.cat([value.index_select(0, part) for value, part in zip(flat, kept, strict=True)]),
        coordinates=coordinates,
    )


def encode(message: SparseUpdate, network: Mapping[str, Tensor]) -> bytes:
    """The bytes of a message.

    Args:
        message: from ``pack``.
        network: tensors by parameter name, whose names and shapes are the network's.

    Raises:
        UsageError: its indices are not strictly ascending.
    """
    kind = ALL if message.indices is None else SOME
    header = _HEADER.pack(MAGIC, VERSION, kind, _digest(network), message.values.numel())
    values = message.values.cpu().numpy().astype("<f4", copy=False).tobytes()
    indices = b"" if message.indices is None else encode_indices(message.indices.cpu().long().numpy())
    return header + values + indices


def decode(payload: bytes, network: Mapping[str, Tensor]) -> SparseUpdate:
    """Read the bytes of a message, wherever they come from.

    Args:
        payload: nothing before and nothing after the message.
        network: tensors by parameter name, whose names and shapes are the network's.

    Raises:
        UsageError: they are not a valid update of this network.
    """
    coordinates = sum(tensor.numel() for tensor in network.values())
    kind, kept = _read_header(payload, network, coordinates)
    end = _HEADER.size + kept * VALUE_BYTES
    values = np.frombuffer(payload, dtype="<f4", count=kept, offset=_HEADER.size).astype(np.float32)
    indices = None
    if kind == SOME:
        try:
            indices = torch.from_numpy(decode_indices(memoryview(payload)[end:], kept, coordinates))
        except UsageError as error:
            raise _invalid("its indices cannot be read") from error
    message = SparseUpdate(indices=indices, values=torch.from_numpy(values), coordinates=coordinates)
    _check(message, coordinates)
    return message


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
    if message.indices is None:
        accumulator.add_(message.values, alpha=weight)
    else:
        values = message.values.to(accumulator.dtype)
        accumulator.index_add_(0, message.indices.long(), values, alpha=weight)


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


def _read_header(payload: bytes, network: Mapping[str, Tensor], coordinates: int) -> tuple[int, int]:
    """Kind and number of values of a message whose length fits them."""
    most_bytes = _HEADER.size + coordinates * VALUE_BYTES + most_coded_bytes(coordinates)
    if len(payload) > most_bytes:
        raise _invalid(f"it has {len(payload)} bytes, and no update of this network more than {most_bytes}")
    if len(payload) < _HEADER.size:
        raise _invalid("it is shorter than a header")
    magic, version, kind, digest, kept = _HEADER.unpack_from(payload)
    if magic != MAGIC or kind not in (ALL, SOME) or payload[6:8] != bytes(2):
        raise _invalid("it does not begin as one")
    if version != VERSION:
        raise _invalid(f"it is of version {version}, not {VERSION}")
    if digest != _digest(network):
        raise _invalid("it belongs to another network")
    body_bytes = len(payload) - _HEADER.size
    fits = kept == coordinates and body_bytes == kept * VALUE_BYTES if kind == ALL else kept <= coordinates
    if not fits or kept * VALUE_BYTES > body_bytes:
        raise _invalid("its size is not that of the network")
    return kind, kept


def _digest(network: Mapping[str, Tensor]) -> bytes:
    """Eight bytes that tell networks apart whose parameters have other names, shapes or another order."""
    layout = [(name, tuple(tensor.shape)) for name, tensor in network.items()]
    return hashlib.sha256(repr(layout).encode()).digest()[:8]


def _check(message: SparseUpdate, coordinates: int) -> None:
    indices, values = message.indices, message.values
    sent = coordinates if indices is None else indices.numel()
    problem = None
    if message.coordinates != coordinates or values.shape != (sent,):
        problem = "its size is not that of the network"
    elif not np.isfinite(values.numpy()).all():  # torch.isfinite takes ten times as long
        problem = "a value is not finite"
    elif indices is not None and sent:
        numbers = indices.numpy()
        if indices.is_floating_point() or numbers.min() < 0 or numbers.max() >= coordinates:
            problem = "an index is out of range"
        elif not (numbers[1:] > numbers[:-1]).all():
            problem = "its indices are not strictly ascending"
    if problem:
        raise _invalid(problem)


def _invalid(problem: str) -> UsageError:
    return UsageError(f"A client's message is not valid: {problem}.", next_step="Its client was not used.")
