"""Networks by name: two small ones of our own, and ``module:factory`` for any other.

A module of the user is looked for in the working folder too, as ``python -m`` does.
"""

from __future__ import annotations

import importlib
import sys

import torch
from torch import nn

from calibration_data import UsageError

MLP_HIDDEN = 128
CNN_CHANNELS = (16, 32)
CNN_HIDDEN = 64


def build_network(name: str, *, features: int = 64, classes: int = 10, seed: int = 0) -> nn.Module:
    """Build a network with seeded initial weights; the global random state is left alone.

    Args:
        name: ``mlp`` (features → 128 → classes), ``cnn`` (two convolutions on square images), or
            ``module:factory``, a callable without arguments that returns a ``torch.nn.Module``.
        features: numbers in one sample.
        classes: number of outputs.
        seed: of the initial weights.

    Raises:
        UsageError: there is no such network, it does not fit the data, or it keeps state that is not a
            gradient coordinate (the running statistics of batch normalisation).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = load_network(name, features=features, classes=classes)
        _check(network, name, features, classes)
    return network


def load_network(name: str, *, features: int = 64, classes: int = 10) -> nn.Module:
    """Any network by name, with whatever initial weights; it need not be one that can be trained here.

    Raises:
        UsageError: there is no such network, or its factory fails.
    """
    if name == "mlp":
        return mlp(features, classes)
    if name == "cnn":
        return cnn(features, classes)
    if ":" in name:
        return _from_factory(name)
    raise UsageError(
        f"There is no network {name!r}.", next_step="Use mlp, cnn, or module:factory of your own."
    )


def mlp(features: int, classes: int) -> nn.Module:
    """A perceptron with one hidden layer of 128 (McMahan et al. 2017 use the like for MNIST)."""
    return nn.Sequential(nn.Linear(features, MLP_HIDDEN), nn.ReLU(), nn.Linear(MLP_HIDDEN, classes))


def cnn(features: int, classes: int) -> nn.Module:
    """Two 3x3 convolutions with pooling on one-channel square images, and one hidden layer.

    Raises:
        UsageError: a sample is no square image whose side is a multiple of 4.
    """
    side = round(features**0.5)
    if side * side != features or side % 4:
        raise UsageError(
            f"The network cnn needs square images, and a sample here has {features} numbers.",
            next_step="Use the network mlp, or the data set digits.",
        )
    first, second = CNN_CHANNELS
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (side // 4) ** 2, CNN_HIDDEN),
        nn.ReLU(),
        nn.Linear(CNN_HIDDEN, classes),
    )


def _from_factory(name: str) -> nn.Module:
    module_name, _, factory_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        network = factory()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"The network {name!r} cannot be built ({error}).",
            next_step="Name an importable module and a callable in it that needs no arguments.",
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name!r} returned a {type(network).__name__} instead of a torch.nn.Module.")
    return network


def _check(network: nn.Module, name: str, features: int, classes: int) -> None:
    """One sample must pass through it and come out as one number per class."""
    if any(True for _ in network.buffers()):
        raise UsageError(
            f"The network {name!r} keeps buffers, which are no gradient coordinates and have no price.",
            next_step="Use group normalisation instead of batch normalisation, as is usual in federated"
            " training (Hsieh et al. 2020).",
        )
    parameters = list(network.parameters())
    if not parameters or any(not p.requires_grad or p.dtype != torch.float32 for p in parameters):
        raise UsageError(f"The network {name!r} must have float32 parameters that all require gradients.")
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(1, features)).shape)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"The network {name!r} does not take samples of {features} numbers ({error})."
        ) from error
    if shape != (1, classes):
        raise UsageError(
            f"The network {name!r} returns shape {shape} for one sample instead of {(1, classes)}."
        )
