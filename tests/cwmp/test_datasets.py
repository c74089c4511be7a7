import numpy as np
import pytest
import torch

from calibration_data import UsageError
from cwmp.training.datasets import load_dataset


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_split_is_80_20_and_keeps_the_share_of_every_class(name: str) -> None:
    data = load_dataset(name, seed=3)
    total = len(data.train_y) + len(data.test_y)
    assert abs(len(data.test_y) / total - 0.2) < 0.005
    for label in range(data.classes):
        train = (data.train_y == label).sum().item()
        test = (data.test_y == label).sum().item()
        assert abs(test / (train + test) - 0.2) < 0.01


def test_digits_are_the_images_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits", seed=0)
    ours = np.concatenate([data.train_x.numpy(), data.test_x.numpy()]) * 16
    theirs = load_digits().data
    assert sorted(map(tuple, ours.astype(int).tolist())) == sorted(map(tuple, theirs.astype(int).tolist()))
    assert data.features == 64
    assert data.classes == 10


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = (load_dataset("digits", seed) for seed in (5, 5, 6))
    assert torch.equal(first.train_x, again.train_x)
    assert not torch.equal(first.train_x, other.train_x)


def test_unknown_data_set_is_named() -> None:
    with pytest.raises(UsageError, match=r"no data set 'mnist'.*digits, synthetic"):
        load_dataset("mnist", seed=0)
