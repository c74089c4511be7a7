"""What networks do, as torch operators on a GPU: the held-out families of ``profiler.network_work``.

All in single precision without TF32. Each operator reads its operands and writes its result where they live;
``cuda_work.NETWORK_NUMBERS`` counts them in the order in which they run here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from profiler.network_work import (
    CHANNELS,
    HEAD,
    HIDDEN,
    IMAGE,
    INPUTS,
    ITEMS,
    KERNEL,
    POSITIONS,
    ROW,
    SAMPLES,
)

LEARNING_RATE = 1e-6
"""So small that weights stay what they are over millions of steps."""


def network_step(kernel: str, size_bytes: int, *, where: str, seed: int = 0) -> Callable[[], object]:
    """One pass over as many items as fill a working set.

    Args:
        kernel: one of ``profiler.network_work.ITEMS``.
        size_bytes: of the items, a whole number of them.
        where: torch's name of the device.
        seed: of the operands.
    """
    count = size_bytes // ITEMS[kernel].size_bytes
    generator = torch.Generator(where).manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, device=where, generator=generator)

    match kernel:
        case "softmax":
            rows = numbers(count, ROW)
            return lambda: torch.softmax(rows, dim=1)
        case "layernorm":
            rows = numbers(count, ROW)
            return lambda: functional.layer_norm(rows, (ROW,))
        case "convolution":
            images, weights = (
                numbers(count, CHANNELS, IMAGE, IMAGE),
                numbers(CHANNELS, CHANNELS, KERNEL, KERNEL),
            )
            return lambda: _convolution(images, weights)
        case "attention":
            query, key, value = (numbers(count, 1, POSITIONS, HEAD) for _ in range(3))
            return lambda: functional.scaled_dot_product_attention(query, key, value)
        case "adam":
            return _adam([numbers(count, ROW)], [numbers(count, ROW)])
        case "training-step":
            return _training_step(
                numbers(count, SAMPLES, INPUTS),
                numbers(count, SAMPLES, INPUTS),
                [numbers(count, INPUTS, HIDDEN) / HIDDEN, numbers(count, HIDDEN, INPUTS) / HIDDEN],
            )
        case _:
            raise ValueError(f"{kernel} is no kernel of networks")


def _convolution(images: Tensor, weights: Tensor) -> Tensor:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return functional.conv2d(images, weights)


def _adam(weights: list[Tensor], gradients: list[Tensor]) -> Callable[[], object]:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    capturable = weights[0].is_cuda
    return torch.optim.Adam(weights, lr=LEARNING_RATE, fused=True, capturable=capturable).step


def _training_step(inputs: Tensor, targets: Tensor, weights: list[Tensor]) -> Callable[[], object]:
    """Forward and backward through x → h = max(x·W₁, 0) → y = h·W₂ with the error y − target, then Adam."""
    first, second = weights
    gradients = [torch.empty_like(weight) for weight in weights]
    adam = _adam(weights, gradients)

    @torch.no_grad()
    def step() -> None:
        hidden = torch.bmm(inputs, first)
        hidden.clamp_(min=0)
        error = torch.bmm(hidden, second)
        error.sub_(targets)
        torch.bmm(hidden.transpose(1, 2), error, out=gradients[1])
        back = torch.bmm(error, second.transpose(1, 2))
        back = torch.ops.aten.threshold_backward(back, hidden, 0)
        torch.bmm(inputs.transpose(1, 2), back, out=gradients[0])
        adam()

    return step
