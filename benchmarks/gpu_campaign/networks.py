"""The small transformer whose training step judges the model, beside a ResNet-18 of ``cwmp.networks``."""

from __future__ import annotations

from torch import nn


def transformer(vocabulary: int, width: int = 512, layers: int = 4) -> nn.Module:
    """Encoder layers between an embedding and a table of words."""
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True, dropout=0.0)
    return nn.Sequential(
        nn.Embedding(vocabulary, width),
        nn.TransformerEncoder(layer, layers, enable_nested_tensor=False),
        nn.Linear(width, vocabulary),
    )
