"""Networks that are a plain sequence of layers: a perceptron and three convolutional ones."""

from __future__ import annotations

import math

from torch import nn

from calibration_data import UsageError

MLP_HIDDEN = 128
CNN_CHANNELS = (16, 32)
CNN_HIDDEN = 64


def mlp(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A perceptron with one hidden layer of 128 (McMahan et al. 2017 use the like for MNIST)."""
    flatten = [nn.Flatten()] if len(sample_shape) > 1 else []
    hidden = nn.Linear(math.prod(sample_shape), MLP_HIDDEN)
    return nn.Sequential(*flatten, hidden, nn.ReLU(), nn.Linear(MLP_HIDDEN, classes))


def cnn(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two 3x3 convolutions with pooling on flat one-channel square images, and one hidden layer.

    Raises:
        UsageError: a sample is no flat square image whose side is a multiple of 4.
    """
    numbers = math.prod(sample_shape)
    side = math.isqrt(numbers)
    if len(sample_shape) != 1 or side * side != numbers or side % 4:
        raise UsageError(
            f"The network cnn needs flat square images, and a sample here has shape {sample_shape}.",
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


def lenet(classes: int) -> nn.Module:
    """The ``simple-cnn`` of NIID-Bench on 3x32x32 images: 62,006 parameters with 10 classes.

    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022, after LeNet-5 (LeCun et al. 1998).
    """
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def fedavg_cnn(classes: int) -> nn.Module:
    """The CNN of federated averaging on 3x32x32 images: 878,538 parameters with 10 classes.

    McMahan et al., AISTATS 2017, section 3: two 5x5 convolutions of 32 and 64 channels, each followed by 2x2
    pooling, and 512 hidden units. Theirs is for 28x28 images; here the convolutions are not padded.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 5 * 5, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
