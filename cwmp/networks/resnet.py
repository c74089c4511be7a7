"""ResNet-18 for 32x32 images.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016: basic blocks, with a 3x3 convolution of
stride 1 and no pooling in front, as is usual for CIFAR. Weights start as torch's layers start them.

The norm is group normalisation with two groups, as Reddi et al. ("Adaptive Federated Optimization", ICLR
2021) and Hsieh et al. ("The Non-IID Data Quagmire", ICML 2020) have it for clients whose data differ. Batch
normalisation keeps no running statistics here, which are no gradient coordinates and have no price: every
batch is normalised by itself in tests too (static batch normalisation without its last calibration, Diao et
al., "HeteroFL", ICLR 2021). What the network says of a sample then depends on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_WIDTH = 2
GROUPS = 2

Norm = Callable[[int], nn.Module]


def resnet18(classes: int) -> nn.Module:
    """With group normalisation; 11,173,962 parameters with 10 classes."""
    return _resnet(classes, lambda channels: nn.GroupNorm(GROUPS, channels))


def resnet18_bn(classes: int) -> nn.Module:
    """With batch normalisation by the statistics of each batch; as many parameters."""
    return _resnet(classes, lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def _resnet(classes: int, norm: Norm) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), norm(WIDTHS[0]), nn.ReLU()]
    inputs = WIDTHS[0]
    for width in WIDTHS:
        for _ in range(BLOCKS_PER_WIDTH):
            layers.append(ResidualBlock(inputs, width, 1 if width == inputs else 2, norm))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
