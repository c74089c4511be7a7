"""Ascending coordinate numbers in few bits: Rice's codes of their gaps, with a parameter for each block.

    gap     g = number − the number before − 1; a negative gap has no code, so what can be read ascends
    code    g >> k zeros, a one, then the k low bits of g
    block   256 gaps share k, the one that takes the fewest bits of all: one byte each, before the codes

Where the kept coordinates lie at random, gaps are geometric and Rice's codes (Rice, JPL 79-22, 1979; those
of Golomb, IEEE Trans. Inf. Theory 12 (1966) 399, whose parameter is a power of two) are within 0.05 bits of
their entropy up to half of all kept. Blocks follow densities that differ from tensor to tensor. Bits fill
64-bit words from the lowest on, little endian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration_data import UsageError
from cwmp.op_counts import GAPS_PER_BLOCK
from cwmp.selection.compiled import compiled

MAX_PARAMETER = 62
WORD = 64

Numbers = NDArray[np.int64]


def encode_indices(indices: Numbers) -> bytes:
    """Code strictly ascending numbers, shape (kept,), the first ≥ 0.

    Raises:
        UsageError: they do not ascend.
    """
    gaps = _gaps(indices)
    if int(gaps.min(initial=0)) < 0:
        raise UsageError("Only numbers that ascend strictly can be coded by their gaps.")
    parameters = np.zeros(-(-gaps.size // GAPS_PER_BLOCK), dtype=np.uint8)
    bits = int(_choose(gaps, parameters))
    words = np.zeros(bits // WORD + 2, dtype=np.uint64)
    _write(gaps, parameters, words)
    return parameters.tobytes() + words.astype("<u8", copy=False).tobytes()[: -(-bits // 8)]


def coded_bytes(indices: Numbers) -> int:
    """Length of ``encode_indices`` without making it."""
    parameters = np.zeros(-(-indices.size // GAPS_PER_BLOCK), dtype=np.uint8)
    return parameters.size - (-int(_choose(_gaps(indices), parameters)) // 8)


def most_coded_bytes(coordinates: int) -> int:
    """No choice among so many coordinates takes more: at k = 0 all codes together have a bit for each."""
    return -(-coordinates // GAPS_PER_BLOCK) - (-coordinates // 8)


def decode_indices(data: bytes | memoryview, kept: int, coordinates: int) -> Numbers:
    """Read what ``encode_indices`` wrote, wherever it comes from.

    Args:
        data: the codes, nothing before and nothing after them.
        kept: how many numbers they are; the caller has checked that it is no more than it wants to hold.
        coordinates: every number must be below it.

    Returns:
        Strictly ascending numbers, shape (kept,).

    Raises:
        UsageError: the bytes are not the code of so many numbers below ``coordinates``.
    """
    blocks = -(-kept // GAPS_PER_BLOCK)
    parameters = np.frombuffer(data, dtype=np.uint8, count=min(blocks, len(data)))
    codes = np.frombuffer(data, dtype=np.uint8, offset=parameters.size) if len(data) > blocks else _NOTHING
    indices = np.empty(kept, dtype=np.int64)
    known = parameters.size == blocks and int(parameters.max(initial=0)) <= MAX_PARAMETER
    bits = int(_read(codes, parameters, indices, coordinates)) if known else -1
    # Bits after the last code would be a second way to write the same message.
    if bits < 0 or -(-bits // 8) != codes.size or (bits % 8 and codes[-1] >> (bits % 8)):
        raise UsageError(f"These bytes are no code of {kept} numbers below {coordinates}.")
    return indices


_NOTHING = np.zeros(0, dtype=np.uint8)


def _gaps(indices: Numbers) -> Numbers:
    return np.diff(indices, prepend=-1) - 1


@compiled
def _choose(gaps: Numbers, parameters: NDArray[np.uint8]) -> np.int64:
    """Set the best parameter of each block; the bits of all codes."""
    total = np.int64(0)
    for block in range(parameters.size):
        first = block * GAPS_PER_BLOCK
        last = min(first + GAPS_PER_BLOCK, gaps.size)
        fewest = np.int64(last - first)
        for place in range(first, last):
            fewest += gaps[place]
        # Each step spares fewer bits than the one before, so the first that spares none ends the search.
        for parameter in range(1, MAX_PARAMETER + 1):
            bits = np.int64(last - first) * (parameter + 1)
            for place in range(first, last):
                bits += gaps[place] >> parameter
            if bits >= fewest:
                break
            fewest = bits
            parameters[block] = parameter
        total += fewest
    return total


@compiled
def _write(gaps: Numbers, parameters: NDArray[np.uint8], words: NDArray[np.uint64]) -> None:
    """Set the bits of all codes in words that are zero; one word more than they need."""
    position = np.int64(0)
    for place in range(gaps.size):
        parameter = np.int64(parameters[place // GAPS_PER_BLOCK])
        position += gaps[place] >> parameter
        words[position // WORD] |= np.uint64(1) << np.uint64(position % WORD)
        position += 1
        low = np.uint64(gaps[place]) & ((np.uint64(1) << np.uint64(parameter)) - np.uint64(1))
        shift = position % WORD
        words[position // WORD] |= low << np.uint64(shift)
        if shift + parameter > WORD:
            words[position // WORD + 1] |= low >> np.uint64(WORD - shift)
        position += parameter


@compiled
def _read(
    codes: NDArray[np.uint8], parameters: NDArray[np.uint8], indices: Numbers, coordinates: Any
) -> np.int64:
    """Read all numbers: the bits that they took; -1 if a code runs over the end or a number is too large."""
    bits = codes.size * 8
    position = np.int64(0)
    before = np.int64(-1)
    for place in range(indices.size):
        parameter = np.int64(parameters[place // GAPS_PER_BLOCK])
        largest = (np.int64(coordinates) - before - 2) >> parameter
        quotient = np.int64(0)
        while position < bits and not (codes[position // 8] >> (position % 8)) & 1:
            quotient += 1
            position += 1
        position += 1
        if quotient > largest or position + parameter > bits:
            return np.int64(-1)
        gap = quotient << parameter
        for bit in range(parameter):
            gap |= np.int64((codes[position // 8] >> (position % 8)) & 1) << bit
            position += 1
        before += gap + 1
        if before >= coordinates:
            return np.int64(-1)
        indices[place] = before
    return position
