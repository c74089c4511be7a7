"""What networks do, as kernels with exact counts: the families that judge a model and never enter a fit.

Each kernel walks over items that are independent of each other, so that a working set of any size is whole
items and one loop is one pass over them. What an item uses again and again fits in the first level:

    softmax         a row of 1024 numbers, into another row          three passes over it
    layernorm       a row of 1024 numbers, into another row          three passes over it
    convolution     an image, 4 channels of 18 × 18, into 4 of 16 × 16     weights 4 × 4 × 3 × 3
    attention       a head, 32 positions of 16 numbers               softmax(q·kᵀ)·v
    adam            1024 weights with two moments and gradients
    training-step   a network 16 → 32 → 16 on 16 samples             forward, backward, Adam
    matmul          a product of two matrices, 32 × 32               four rows of one at a time

A library's matrix product packs and blocks as it likes, so its bytes cannot be counted; ``matmul`` is a
batch of products of the size to which libraries cut larger ones. All of it is single precision. Counted are
the operations and accesses of the program as written in ``profiler.workloads.cpu_network``; a comparison, a
square root and a division are one FLOP each.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

NetworkKernel = Literal["softmax", "layernorm", "convolution", "attention", "adam", "training-step", "matmul"]

NETWORK_KERNELS: tuple[NetworkKernel, ...] = get_args(NetworkKernel)

FLOAT_BYTES = 4

ROW = 1024
"""Numbers in a row of ``softmax`` and ``layernorm``, and weights of an item of ``adam``."""

CHANNELS, IMAGE, KERNEL = 4, 18, 3
OUT = IMAGE - KERNEL + 1

POSITIONS, HEAD = 32, 16

SAMPLES, INPUTS, HIDDEN = 16, 16, 32

SIDE, ROWS_AT_A_TIME = 32, 4
"""Of a matrix of ``matmul``, and its rows that are added to a row of the product in one pass over it."""

WEIGHTS = 2 * INPUTS * HIDDEN
"""Weights of the network of ``training-step``: one matrix into the hidden layer, one out of it."""

EXP_FLOP = 21
"""exp(t) as a polynomial of degree 6 of t/256, squared eight times: 1 + 2·6 + 8."""

SOFTMAX_FLOP = 1 + 1 + EXP_FLOP + 1 + 1
"""For each number: compared, less the largest, exponential, added up, scaled. A row adds one division."""

LAYERNORM_FLOP = 1 + 3 + 2
"""For each number: added up, squared deviation added up, centred and scaled. A row adds five."""

ADAM_FLOP = 1 + 3 + 4 + 5
"""For each weight: sign, first moment, second moment, step (Kingma and Ba 2015, without bias correction)."""


@dataclass(frozen=True, kw_only=True)
class ItemWork:
    """Work on one item.

    Attributes:
        flop: single-precision operations.
        element_bytes: bytes that the core loads and stores.
        read_bytes: what is read from where the item lives, lines that will be overwritten included.
        written_bytes: what goes back there.
        size_bytes: of the item; a whole number of 64-byte lines.
    """

    flop: int
    element_bytes: int
    read_bytes: int
    written_bytes: int
    size_bytes: int


def _item(*, flop: int, accesses: int, read: int, written: int, size: int) -> ItemWork:
    return ItemWork(
        flop=flop,
        element_bytes=FLOAT_BYTES * accesses,
        read_bytes=FLOAT_BYTES * read,
        written_bytes=FLOAT_BYTES * written,
        size_bytes=FLOAT_BYTES * size,
    )


def _convolution() -> ItemWork:
    weights = CHANNELS * CHANNELS * KERNEL * KERNEL
    outputs = CHANNELS * OUT * OUT
    steps = weights * OUT * OUT
    size = CHANNELS * IMAGE * IMAGE + outputs
    # Outputs are cleared; each step loads an input and an output and stores the output.
    return _item(
        flop=2 * steps, accesses=outputs + weights + 3 * steps, read=size, written=outputs, size=size
    )


def _attention() -> ItemWork:
    scores, numbers = POSITIONS * POSITIONS, POSITIONS * HEAD
    steps = POSITIONS * POSITIONS * HEAD
    return _item(
        flop=4 * steps + numbers + SOFTMAX_FLOP * scores + POSITIONS,
        accesses=scores + numbers + 3 * steps + 5 * scores + numbers + scores + 3 * steps,
        read=4 * numbers,
        written=numbers,
        size=4 * numbers,
    )


def _training_step() -> ItemWork:
    steps = SAMPLES * INPUTS * HIDDEN
    hidden, outputs = SAMPLES * HIDDEN, SAMPLES * INPUTS
    # Four products add to rows in memory and one, through the transposed weights, to a register.
    added = 4 * 3 * steps + hidden + outputs + WEIGHTS + 2 * hidden + 2 * outputs
    transposed = 2 * steps + 2 * hidden
    return _item(
        flop=5 * 2 * steps + hidden + 2 * outputs + hidden + ADAM_FLOP * WEIGHTS,
        accesses=added + transposed + 2 * hidden + 3 * outputs + 7 * WEIGHTS,
        read=3 * WEIGHTS + 2 * outputs,
        written=3 * WEIGHTS,
        size=3 * WEIGHTS + 2 * outputs,
    )


def _matmul() -> ItemWork:
    square = SIDE * SIDE
    # The product is cleared; a pass loads a factor for each of its rows, them and the product, and stores it.
    passes = square // ROWS_AT_A_TIME
    accesses = square + passes * (ROWS_AT_A_TIME + SIDE * (ROWS_AT_A_TIME + 2))
    return _item(flop=2 * SIDE**3, accesses=accesses, read=3 * square, written=square, size=3 * square)


ITEMS: MappingProxyType[str, ItemWork] = MappingProxyType(
    {
        "softmax": _item(
            flop=SOFTMAX_FLOP * ROW + 1, accesses=5 * ROW, read=2 * ROW, written=ROW, size=2 * ROW
        ),
        "layernorm": _item(
            flop=LAYERNORM_FLOP * ROW + 5, accesses=4 * ROW, read=2 * ROW, written=ROW, size=2 * ROW
        ),
        "convolution": _convolution(),
        "attention": _attention(),
        "adam": _item(flop=ADAM_FLOP * ROW, accesses=7 * ROW, read=4 * ROW, written=3 * ROW, size=4 * ROW),
        "training-step": _training_step(),
        "matmul": _matmul(),
    }
)
"""Work on one item by kernel."""
