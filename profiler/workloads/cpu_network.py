"""The kernels of ``profiler.network_work`` for one core.

Products are rows added to rows, ``out[i] += a[i, k] · b[k]``, so that the innermost loop is a vector loop
whose loads, multiply-adds and stores can be counted. Sizes are arguments, not constants: with constants
the compiler could keep rows in registers, and what is stored would no longer be what is counted.
Signs change from loop to loop, so that moments and weights keep moving and their bits keep toggling.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.workloads.compiled import compiled_fused

Floats = NDArray[np.float32]

ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)
EXP_SCALE = np.float32(1 / 256)
COEFFICIENTS = tuple(np.float32(1 / math.factorial(n)) for n in range(7))
C0, C1, C2, C3, C4, C5, C6 = COEFFICIENTS

BETA1, BETA2 = np.float32(0.9), np.float32(0.999)
KEEP1, KEEP2 = np.float32(0.1), np.float32(0.001)
RATE, EPSILON = np.float32(1e-3), np.float32(1e-8)


@compiled_fused
def exponential(t: Any) -> Any:
    """Exponential of t, to 1e-4 for −80 < t ≤ 0: a polynomial of t/256, squared eight times."""
    r = t * EXP_SCALE
    p = C6 * r + C5
    p = p * r + C4
    p = p * r + C3
    p = p * r + C2
    p = p * r + C1
    p = p * r + C0
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


@compiled_fused
def softmax_row(source: Floats, target: Floats) -> None:
    """Softmax of a row into another, which may be the same."""
    largest = LOWEST
    for index in range(source.size):
        largest = max(largest, source[index])
    total = ZERO
    for index in range(source.size):
        value = exponential(source[index] - largest)
        target[index] = value
        total += value
    factor = ONE / total
    for index in range(source.size):
        target[index] = target[index] * factor


@compiled_fused
def softmax(data: Floats, loops: int, size: int) -> None:
    """Softmax of every other row of ``size`` numbers into the row after it."""
    for _ in range(loops):
        for start in range(0, data.size, 2 * size):
            softmax_row(data[start : start + size], data[start + size : start + 2 * size])


@compiled_fused
def layernorm(data: Floats, loops: int, size: int) -> None:
    """Every other row of ``size`` numbers, less its mean, over its standard deviation, into the next row."""
    part = ONE / np.float32(size)
    for _ in range(loops):
        for start in range(0, data.size, 2 * size):
            source, target = data[start : start + size], data[start + size : start + 2 * size]
            total = ZERO
            for index in range(size):
                total += source[index]
            mean = total * part
            squares = ZERO
            for index in range(size):
                deviation = source[index] - mean
                squares += deviation * deviation
            factor = ONE / np.sqrt(squares * part + EPSILON)
            for index in range(size):
                target[index] = (source[index] - mean) * factor


@compiled_fused
def add_scaled(target: Floats, factor: Any, row: Floats) -> None:
    """``target += factor · row``: each element loads two numbers and stores one."""
    for index in range(target.size):
        target[index] += factor * row[index]


@compiled_fused
def add_product(left: Floats, right: Floats, out: Floats, inner: int, columns: int) -> None:
    """``out += left · right``: matrices of shape (rows, inner) and (inner, columns)."""
    for row in range(out.size // columns):
        target = out[row * columns : (row + 1) * columns]
        for k in range(inner):
            add_scaled(target, left[row * inner + k], right[k * columns : (k + 1) * columns])


@compiled_fused
def add_transposed_product(left: Floats, right: Floats, out: Floats, inner: int, columns: int) -> None:
    """``out += leftᵀ · right``: matrices of shape (rows, inner) and (rows, columns)."""
    for row in range(right.size // columns):
        source = right[row * columns : (row + 1) * columns]
        for k in range(inner):
            add_scaled(out[k * columns : (k + 1) * columns], left[row * inner + k], source)


@compiled_fused
def clear(data: Floats) -> None:
    """Write zeros."""
    for index in range(data.size):
        data[index] = ZERO


@compiled_fused
def convolution(data: Floats, weights: Floats, loops: int, channels: int, image: int, kernel: int) -> None:
    """Each image (channels, image, image) into the (channels, out, out) after it; no padding, stride 1."""
    out = image - kernel + 1
    source_size, target_size = channels * image * image, channels * out * out
    for _ in range(loops):
        for start in range(0, data.size, source_size + target_size):
            clear(data[start + source_size : start + source_size + target_size])
            for target in range(channels):
                for source in range(channels):
                    for y in range(kernel):
                        for x in range(kernel):
                            factor = weights[((target * channels + source) * kernel + y) * kernel + x]
                            for row in range(out):
                                to = start + source_size + (target * out + row) * out
                                read = start + (source * image + row + y) * image + x
                                add_scaled(data[to : to + out], factor, data[read : read + out])


@compiled_fused
def attention(data: Floats, scores: Floats, loops: int, positions: int, head: int) -> None:
    """Heads of q (positions, head), kᵀ (head, positions), v and the output (positions, head) in turn."""
    size = positions * head
    scale = ONE / np.sqrt(np.float32(head))
    for _ in range(loops):
        for start in range(0, data.size, 4 * size):
            query, key = data[start : start + size], data[start + size : start + 2 * size]
            value, out = data[start + 2 * size : start + 3 * size], data[start + 3 * size : start + 4 * size]
            clear(scores)
            for row in range(positions):
                own = scores[row * positions : (row + 1) * positions]
                for k in range(head):
                    add_scaled(own, query[row * head + k] * scale, key[k * positions : (k + 1) * positions])
                softmax_row(own, own)
            clear(out)
            add_product(scores, value, out, positions, head)


@compiled_fused
def adam_step(w: Any, m: Any, v: Any, gradient: Any) -> Any:
    """One weight and its moments after one step: 12 FLOP."""
    m = BETA1 * m + KEEP1 * gradient
    v = BETA2 * v + KEEP2 * (gradient * gradient)
    return w - RATE * (m / (np.sqrt(v) + EPSILON)), m, v


@compiled_fused
def adam_steps(w: Floats, m: Floats, v: Floats, gradient: Floats, sign: Any) -> None:
    """One step of each weight against ``sign`` times its gradient."""
    for index in range(w.size):
        w[index], m[index], v[index] = adam_step(w[index], m[index], v[index], sign * gradient[index])


@compiled_fused
def adam(data: Floats, loops: int, size: int) -> None:
    """Items of ``size`` weights, first moments, second moments and gradients."""
    sign = ONE
    for _ in range(loops):
        sign = -sign
        for start in range(0, data.size, 4 * size):
            adam_steps(
                data[start : start + size],
                data[start + size : start + 2 * size],
                data[start + 2 * size : start + 3 * size],
                data[start + 3 * size : start + 4 * size],
                sign,
            )


@compiled_fused
def matmul(data: Floats, loops: int, side: int) -> None:
    """Square matrices a and b and their product in turn; four rows of b are added to one of it at a time."""
    size = side * side
    for _ in range(loops):
        for start in range(0, data.size, 3 * size):
            clear(data[start + 2 * size : start + 3 * size])
            for row in range(side):
                factors = data[start + row * side : start + (row + 1) * side]
                target = data[start + 2 * size + row * side : start + 2 * size + (row + 1) * side]
                for k in range(0, side, 4):
                    rows = data[start + size + k * side : start + size + (k + 4) * side]
                    add_four_scaled(target, factors[k], factors[k + 1], factors[k + 2], factors[k + 3], rows)


@compiled_fused
def add_four_scaled(target: Floats, f0: Any, f1: Any, f2: Any, f3: Any, rows: Floats) -> None:
    """``target += f0·rows[0] + … + f3·rows[3]``: each element loads five numbers and stores one."""
    size = target.size
    second, third, fourth = rows[size : 2 * size], rows[2 * size : 3 * size], rows[3 * size : 4 * size]
    for index in range(size):
        total = target[index] + f0 * rows[index]
        total += f1 * second[index]
        total += f2 * third[index]
        target[index] = total + f3 * fourth[index]


@compiled_fused
def network_step(
    weights: Floats, x: Floats, target: Floats, scratch: Floats, inputs: int, hidden: int, sign: Any
) -> None:
    """Forward and backward through x → h = max(x·W₁, 0) → y = h·W₂ with the error y − target.

    Args:
        weights: W₁ (inputs, hidden) and W₂ (hidden, inputs).
        x: shape (samples, inputs).
        target: shape (samples, inputs).
        scratch: h, y, the gradient of h, and that of the weights, one behind the other.
        inputs: columns of x.
        hidden: columns of h.
        sign: of the target.
    """
    half, values = inputs * hidden, x.size
    across = values // inputs * hidden
    h, y = scratch[:across], scratch[across : across + values]
    back = scratch[across + values : 2 * across + values]
    slope = scratch[2 * across + values :]
    second = weights[half:]
    clear(h)
    add_product(x, weights[:half], h, inputs, hidden)
    for index in range(across):
        h[index] = max(h[index], ZERO)
    clear(y)
    add_product(h, second, y, hidden, inputs)
    for index in range(values):
        y[index] = y[index] - sign * target[index]
    clear(slope)
    add_transposed_product(h, y, slope[half:], hidden, inputs)
    for row in range(values // inputs):
        error = y[row * inputs : (row + 1) * inputs]
        for k in range(hidden):
            into = second[k * inputs : (k + 1) * inputs]
            total = ZERO
            for column in range(inputs):
                total += error[column] * into[column]
            back[row * hidden + k] = total if h[row * hidden + k] > ZERO else ZERO
    add_transposed_product(x, back, slope[:half], inputs, hidden)


@compiled_fused
def training_step(data: Floats, scratch: Floats, loops: int, samples: int, inputs: int, hidden: int) -> None:
    """Networks of two layers without bias: weights, two moments, inputs and targets of each item in turn."""
    size, values = 2 * inputs * hidden, samples * inputs
    slope = scratch[scratch.size - size :]
    sign = ONE
    for _ in range(loops):
        sign = -sign
        for start in range(0, data.size, 3 * size + 2 * values):
            w, m = data[start : start + size], data[start + size : start + 2 * size]
            v = data[start + 2 * size : start + 3 * size]
            x = data[start + 3 * size : start + 3 * size + values]
            target = data[start + 3 * size + values : start + 3 * size + 2 * values]
            network_step(w, x, target, scratch, inputs, hidden, sign)
            adam_steps(w, m, v, slope, ONE)
