"""Small networks of every kind of layer, with samples that they take."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ResidualInPlace(nn.Module):
    """In-place operators, a custom forward, a parameter of its own, complex indexing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.second = nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu_()
        hidden = hidden + self.second(hidden).mul_(self.scale).add_(1.0)
        mask = torch.arange(16) % 3 == 0
        picked = hidden[:, mask] @ hidden[:, mask].mT
        rows = torch.tensor([0, 0, 1])
        return picked[rows, :2].t().contiguous()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Shared(nn.Module):
    """One layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(6, 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, x)


def tokens() -> Tensor:
    return torch.arange(24).reshape(4, 6) % 50


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        lambda: torch.randn(3, 7, 16),
    ),
    "attention": (Attention, lambda: torch.randn(3, 7, 16)),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1), lambda: torch.randn(2, 8, 9, 9)),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU6(inplace=True)),
        lambda: torch.randn(2, 3, 9, 9),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.GELU()), lambda: torch.randn(2, 3, 11)),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.MaxPool3d(2)),
        lambda: torch.randn(2, 2, 6, 6, 6),
    ),
    "lstm": (lambda: nn.LSTM(5, 8, num_layers=2, batch_first=True), lambda: torch.randn(3, 4, 5)),
    "gru": (
        lambda: nn.GRU(5, 8, bidirectional=True, batch_first=True),
        lambda: torch.randn(3, 4, 5),
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(50, 8), nn.LayerNorm(8), nn.Linear(8, 5)),
        tokens,
    ),
    "sparse embedding": (
        lambda: nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Linear(8, 5)),
        tokens,
    ),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 5)), tokens),
    "norms": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LocalResponseNorm(2)
        ),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "pools": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(3), nn.PixelShuffle(2), nn.Flatten()
        ),
        lambda: torch.randn(2, 1, 12, 12),
    ),
    "upsampling": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.PReLU()),
        lambda: torch.randn(2, 1, 6, 6),
    ),
    "in place": (ResidualInPlace, lambda: torch.randn(4, 12)),
    "shared": (Shared, lambda: torch.randn(4, 8)),
    "bilinear": (Bilinear, lambda: torch.randn(4, 6)),
    "double": (lambda: nn.Linear(8, 4).double(), lambda: torch.randn(3, 8, dtype=torch.float64)),
    "bfloat": (lambda: nn.Linear(8, 4).bfloat16(), lambda: torch.randn(3, 8, dtype=torch.bfloat16)),
}
"""By name: what makes the network, and what makes a batch."""


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
