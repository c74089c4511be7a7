"""Networks by name: ours, each with the samples that it takes, and ``module:factory`` for any other.

A module of the user is looked for in the working folder too, as ``python -m`` does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from calibration_data import UsageError
from cwmp.errors import in_one_line
from cwmp.networks.plain import cnn, fedavg_cnn, lenet, mlp
from cwmp.networks.resnet import resnet18, resnet18_bn

SampleShape = tuple[int, ...]

DIGITS_SHAPE: SampleShape = (64,)
"""One sample of the data set digits, which networks of no fixed shape take if nothing else is said."""

IMAGE_SHAPE: SampleShape = (3, 32, 32)
"""Channels, height and width of one sample of CIFAR-10."""

_SHAPED: Mapping[str, Callable[[SampleShape, int], nn.Module]] = MappingProxyType({"mlp": mlp, "cnn": cnn})
_OF_IMAGES: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {"lenet": lenet, "fedavg-cnn": fedavg_cnn, "resnet18": resnet18, "resnet18-bn": resnet18_bn}
)
NETWORK_NAMES = (*_SHAPED, *_OF_IMAGES)


def sample_shape_of(name: str) -> SampleShape | None:
    """Shape of one sample that a network takes by default; None for ``module:factory``, which does not say.

    Raises:
        UsageError: there is no such network.
    """
    if ":" in name:
        return None
    if name in _SHAPED:
        return DIGITS_SHAPE
    if name in _OF_IMAGES:
        return IMAGE_SHAPE
    raise UsageError(
        f"There is no network {name!r}.",
        next_step=f"Use {', '.join(NETWORK_NAMES)}, or module:factory of your own.",
    )


def build_network(
    name: str,
    *,
    sample_shape: SampleShape | None = None,
    classes: int = 10,
    smallest_batch: int = 2,
    seed: int = 0,
) -> nn.Module:
    """Build a network with seeded initial weights; the global random state is left alone.

    Args:
        name: one of ``NETWORK_NAMES``, or ``module:factory``, a callable without arguments that returns a
            ``torch.nn.Module``.
        sample_shape: of one sample of the data; None for what the network takes by default, and the digits
            for one that does not say.
        classes: number of outputs.
        smallest_batch: samples that it must take at once; batch normalisation takes no single one.
        seed: of the initial weights.

    Raises:
        UsageError: there is no such network, it does not fit the data, or it keeps state that is not a
            gradient coordinate (the running statistics of batch normalisation).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = load_network(name, sample_shape=sample_shape, classes=classes)
        # More than two samples would take longer and tell no more.
        shape = (min(smallest_batch, 2), *(sample_shape or sample_shape_of(name) or DIGITS_SHAPE))
        _check(network, name, shape, classes)
    return network


def load_network(name: str, *, sample_shape: SampleShape | None = None, classes: int = 10) -> nn.Module:
    """Any network by name, with whatever initial weights; it need not be one that can be trained here.

    Raises:
        UsageError: there is no such network, it does not take such samples, or its factory fails.
    """
    default = sample_shape_of(name)
    if default is None:
        return _from_factory(name)
    if name in _SHAPED:
        return _SHAPED[name](sample_shape or default, classes)
    if sample_shape not in (None, default):
        raise UsageError(
            f"The network {name} takes images of shape {default}, but a sample here has {sample_shape}.",
            next_step="Use the network mlp, or the data set cifar10.",
        )
    return _OF_IMAGES[name](classes)


def _from_factory(name: str) -> nn.Module:
    module_name, _, factory_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        network = factory()
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"The network {name!r} cannot be built ({in_one_line(error)}).",
            next_step="Name an importable module and a callable in it that needs no arguments.",
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name!r} returned a {type(network).__name__} instead of a torch.nn.Module.")
    return network


def _check(network: nn.Module, name: str, batch_shape: tuple[int, ...], classes: int) -> None:
    """A batch must pass through it and come out as one number per sample and class."""
    if any(True for _ in network.buffers()):
        raise UsageError(
            f"The network {name!r} keeps buffers, which are no gradient coordinates and have no price.",
            next_step="Use group normalisation, as is usual in federated training (Hsieh et al. 2020), or"
            " batch normalisation with track_running_stats=False.",
        )
    parameters = list(network.parameters())
    if not parameters or any(not p.requires_grad or p.dtype != torch.float32 for p in parameters):
        raise UsageError(f"The network {name!r} must have float32 parameters that all require gradients.")
    output, wanted = _output_of(network, name, batch_shape), (batch_shape[0], classes)
    if not isinstance(output, Tensor):
        raise UsageError(
            f"The network {name!r} returns a {type(output).__name__} instead of a tensor.",
            next_step="Let its forward return one number per class, and nothing else.",
        )
    if tuple(output.shape) != wanted:
        raise UsageError(
            f"The network {name!r} returns shape {tuple(output.shape)} for a batch of {batch_shape[0]}"
            f" instead of {wanted}."
        )


def _output_of(network: nn.Module, name: str, batch_shape: tuple[int, ...]) -> object:
    samples, *sample_shape = batch_shape
    try:
        with torch.no_grad():
            return network(torch.zeros(batch_shape))
    except Exception as error:  # whatever the user's code raises
        problem = f"The network {name!r} does not take samples of shape {tuple(sample_shape)}"
        if samples > 1:
            raise UsageError(f"{problem} ({in_one_line(error)}).") from error
        raise UsageError(
            f"{problem} one at a time ({in_one_line(error)}).",
            next_step="The last batch of a client, or of the test, is a single sample here: choose another"
            " batch_size or test_samples, or use group normalisation.",
        ) from error
