"""Bits of a mask: coordinate i is bit i % 64 of word i // 64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection.compiled import compiled
from cwmp.selection.lanes import WORD, lowest_bit

Words = NDArray[np.uint64]


@compiled
def set_bits(words: Words, coordinates: NDArray[np.int64]) -> None:
    """Set the bits of some coordinates."""
    for index in range(coordinates.size):
        coordinate = coordinates[index]
        words[coordinate // WORD] |= np.uint64(1) << np.uint64(coordinate % WORD)


@compiled
def _fill(words: Words, coordinates: Any) -> None:
    place = 0
    for number in range(words.size):
        word = words[number]
        while word:
            coordinates[place] = number * WORD + lowest_bit(word)
            place += 1
            word &= word - np.uint64(1)


@compiled
def groups_with_bits(words: Words, group: Any) -> int:
    """Number of groups of so many neighbours in which a bit is set."""
    groups, place = 0, np.int64(0)
    while place < words.size * WORD:
        word = words[place // WORD] >> np.uint64(place % WORD)
        if word:
            groups += 1
            place = ((place + lowest_bit(word)) // group + 1) * group
        else:
            place += WORD - place % WORD
    return groups


def coordinates_of(words: Words, kept: int) -> NDArray[np.int64]:
    """The coordinates whose bits are set, ascending, shape (kept,)."""
    coordinates = np.empty(kept, dtype=np.int64)
    _fill(words, coordinates)
    return coordinates


def all_bits(numel: int) -> Words:
    """A mask of everything."""
    words = np.full(-(-numel // WORD), np.iinfo(np.uint64).max, dtype=np.uint64)
    if numel % WORD:
        words[-1] = np.uint64((1 << (numel % WORD)) - 1)
    return words


def expanded(words: Words, shape: torch.Size) -> Tensor:
    """A mask as booleans, one byte per coordinate."""
    flat = np.unpackbits(words.view(np.uint8), count=shape.numel(), bitorder="little")
    return torch.from_numpy(flat.view(np.bool_)).reshape(shape)


def unpacked(words: Tensor, numel: int) -> Tensor:
    """The same where the words live, which are of torch; shape (numel,)."""
    bits = torch.arange(8, dtype=torch.uint8, device=words.device)
    return ((words.view(torch.uint8)[:, None] >> bits) & 1).reshape(-1)[:numel].to(torch.bool)


def packed_bits(mask: NDArray[np.bool_]) -> Words:
    """A mask of booleans, shape (numel,), as words."""
    bits = np.packbits(mask, bitorder="little")
    words = np.zeros(-(-mask.size // WORD), dtype=np.uint64)
    words.view(np.uint8)[: bits.size] = bits
    return words
