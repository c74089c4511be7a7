"""Families of microbenchmarks that judge a model and are never used to fit it."""

from __future__ import annotations

HELD_OUT_FAMILIES = ("softmax", "layernorm", "convolution", "attention", "adam", "training-step")
"""Work as networks do it, measured in every campaign. A fit that never saw it predicts it; the error of
these predictions is the error of the model on work that is no microbenchmark."""
