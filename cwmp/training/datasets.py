"""Data sets that fit in memory as tensors, split once into training and test samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration_data import UsageError
from cwmp.seeding import derived_seed

TEST_FRACTION = 0.2

SYNTHETIC_SAMPLES = 600
SYNTHETIC_FEATURES = 16
SYNTHETIC_CLASSES = 4


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples and labels.

    Attributes:
        name: as in the config.
        train_x: shape (n_train, n_features), float32.
        train_y: class of each training sample, shape (n_train,), int64.
        test_x: shape (n_test, n_features), float32.
        test_y: shape (n_test,), int64.
        classes: number of classes.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def features(self) -> int:
        """Numbers in one sample."""
        return int(self.train_x.shape[1])


def load_dataset(name: str, seed: int) -> Dataset:
    """Load a data set and split it by class into 80 % training and 20 % test samples.

    Args:
        name: ``digits`` or ``synthetic``.
        seed: of the split, and of the samples of ``synthetic``.

    Raises:
        UsageError: there is no such data set.
    """
    loaders = {"digits": _digits, "synthetic": _synthetic}
    if name not in loaders:
        raise UsageError(f"There is no data set {name!r}.", next_step=f"Use one of: {', '.join(loaders)}.")
    return _split(name, *loaders[name](seed), seed)


def _digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """1797 images of 8x8 pixels, scaled to [0, 1]; the samples themselves are not random."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.data / 16.0).astype(np.float32), bunch.target.astype(np.int64)


def _synthetic(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One Gaussian blob of unit variance per class, around centres of standard deviation 2."""
    rng = np.random.default_rng(derived_seed(seed, "samples"))
    centres = 2 * rng.standard_normal((SYNTHETIC_CLASSES, SYNTHETIC_FEATURES))
    y = np.arange(SYNTHETIC_SAMPLES) % SYNTHETIC_CLASSES
    x = centres[y] + rng.standard_normal((SYNTHETIC_SAMPLES, SYNTHETIC_FEATURES))
    return x.astype(np.float32), y.astype(np.int64)


def _split(name: str, x: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> Dataset:
    from sklearn.model_selection import train_test_split

    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=TEST_FRACTION, stratify=y, random_state=derived_seed(seed, "split")
    )
    return Dataset(
        name=name,
        train_x=torch.from_numpy(train_x),
        train_y=torch.from_numpy(train_y),
        test_x=torch.from_numpy(test_x),
        test_y=torch.from_numpy(test_y),
        classes=int(y.max()) + 1,
    )
