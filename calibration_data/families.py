"""Families of microbenchmarks that are measured and never used to fit a model."""

from __future__ import annotations

HELD_OUT_FAMILIES = (
    "softmax",
    "layernorm",
    "convolution",
    "attention",
    "adam",
    "training-step",
    "matmul",
    "sparse-update",
    "compaction",
)
"""Work as networks and the phase after backprop do it. A fit that never saw it predicts it; the error of
these predictions is the error of the model on work that is no microbenchmark."""

TOGGLE_FAMILY = "toggle"
"""The same kernels on zeros: how much less they draw is a band of all costs, which hold for random data."""

ZEROS_SUFFIX = "-zeros"
"""A configuration of that family is named like the one on random data, with this behind it."""

NEVER_FITTED_FAMILIES = (*HELD_OUT_FAMILIES, TOGGLE_FAMILY)
