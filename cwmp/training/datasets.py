"""Data sets that fit in memory as tensors, with their training and test samples.

``digits`` and ``synthetic`` are split once, by class; ``cifar10`` has a test set of its own. Fewer samples
are drawn evenly by class. All of it depends on the seed alone, so rules see the same samples at one seed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration_data import UsageError
from cwmp.seeding import derived_seed
from cwmp.training.cifar10 import CLASSES, open_cifar10

DATASET_NAMES = ("digits", "cifar10", "synthetic")

TEST_FRACTION = 0.2

SYNTHETIC_SAMPLES = 600
SYNTHETIC_FEATURES = 16
SYNTHETIC_CLASSES = 4

Samples = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples and labels.

    Attributes:
        name: as in the config.
        train_x: shape (n_train, *sample_shape), float32.
        train_y: class of each training sample, shape (n_train,), int64.
        test_x: shape (n_test, *sample_shape), float32.
        test_y: shape (n_test,), int64.
        classes: number of classes.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @cached_property
    def sha256(self) -> str:
        """Digest of shapes, samples and labels: two decoders of JPEG may differ in a bit of a pixel."""
        digest = hashlib.sha256()
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (64,) for digits, (3, 32, 32) for CIFAR-10."""
        return tuple(self.train_x.shape[1:])


def load_dataset(
    name: str,
    seed: int,
    *,
    data_dir: Path | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
) -> Dataset:
    """Load a data set: its own test samples, or 20 % of it split off by class.

    Args:
        name: one of ``DATASET_NAMES``.
        seed: of the split, of the choice of fewer samples, and of the samples of ``synthetic``.
        data_dir: where ``cifar10`` is, see ``cwmp.training.cifar10``.
        train_samples: most training samples to use, evenly by class; None for all.
        test_samples: most test samples to use, evenly by class; None for all.

    Raises:
        UsageError: there is no such data set, or it is not where it is said to be.
        InvalidFileError: a file of the data set is broken.
    """
    counts = (train_samples, test_samples)
    if name == "cifar10":
        return _cifar10(data_dir, seed, counts)
    if name == "digits":
        return _split(name, *_digits(), seed, counts)
    if name == "synthetic":
        return _split(name, *_synthetic(seed), seed, counts)
    raise UsageError(f"There is no data set {name!r}.", next_step=f"Use one of: {', '.join(DATASET_NAMES)}.")


def even_choice(labels: NDArray[np.int64], count: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending indices of ``count`` random samples, of every class as many as of the others if it has them.

    The choice of a smaller count is part of that of a larger one.

    Args:
        labels: class of each sample, shape (n,).
        count: how many to choose; all if there are no more, or for None.
        rng: draws as often whatever ``count`` is.
    """
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        rank[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, rank))[:count])


def _digits() -> Samples:
    """1797 images of 8x8 pixels, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.data / 16.0).astype(np.float32), bunch.target.astype(np.int64)


def _synthetic(seed: int) -> Samples:
    """One Gaussian blob of unit variance per class, around centres of standard deviation 2."""
    rng = np.random.default_rng(derived_seed(seed, "samples"))
    centres = 2 * rng.standard_normal((SYNTHETIC_CLASSES, SYNTHETIC_FEATURES))
    y = np.arange(SYNTHETIC_SAMPLES) % SYNTHETIC_CLASSES
    x = centres[y] + rng.standard_normal((SYNTHETIC_SAMPLES, SYNTHETIC_FEATURES))
    return x.astype(np.float32), y.astype(np.int64)


def _split(
    name: str,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    seed: int,
    counts: tuple[int | None, int | None],
) -> Dataset:
    from sklearn.model_selection import train_test_split

    parts = train_test_split(
        np.arange(len(y)), test_size=TEST_FRACTION, stratify=y, random_state=derived_seed(seed, "split")
    )
    train, test = (
        part[even_choice(y[part], count, rng)]
        for part, count, rng in zip(parts, counts, _generators(seed), strict=True)
    )
    return _dataset(name, (x[train], y[train]), (x[test], y[test]), int(y.max()) + 1)


def _cifar10(folder: Path | None, seed: int, counts: tuple[int | None, int | None]) -> Dataset:
    """Only the chosen images are decoded; every channel has zero mean and unit variance over the training."""
    (train, train_chosen), (test, test_chosen) = (
        (images, even_choice(images.labels, count, rng))
        for images, count, rng in zip(open_cifar10(folder), counts, _generators(seed), strict=True)
    )
    train_pixels = train.read(train_chosen)
    values = _standardised_values(train_pixels)
    return _dataset(
        "cifar10",
        (_looked_up(values, train_pixels), train.labels[train_chosen]),
        (_looked_up(values, test.read(test_chosen)), test.labels[test_chosen]),
        len(CLASSES),
    )


def _standardised_values(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What each byte becomes in each channel, shape (3, 256).

    The sums of bytes and of their squares are exact integers, so the numbers are the same on every machine.
    """
    byte = np.arange(256)
    table = np.empty((pixels.shape[1], 256), np.float32)
    for channel in range(len(table)):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        n, total, squares = (int((counts * byte**power).sum()) for power in range(3))
        deviation = math.sqrt(n * squares - total**2) / n
        table[channel] = (byte - total / n) / (deviation or 1.0)
    return table


def _looked_up(values: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    x = np.empty(pixels.shape, np.float32)
    for channel in range(len(values)):
        x[:, channel] = values[channel][pixels[:, channel]]
    return x


def _generators(seed: int) -> list[np.random.Generator]:
    """One for the training samples, one for the test samples."""
    return np.random.default_rng(derived_seed(seed, "split")).spawn(2)


def _dataset(name: str, train: Samples, test: Samples, classes: int) -> Dataset:
    return Dataset(
        name=name,
        train_x=torch.from_numpy(train[0]),
        train_y=torch.from_numpy(train[1]),
        test_x=torch.from_numpy(test[0]),
        test_y=torch.from_numpy(test[1]),
        classes=classes,
    )
