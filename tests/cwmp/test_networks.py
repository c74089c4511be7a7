import pytest
import torch
from torch import nn

from calibration_data import UsageError
from cwmp.networks import build_network


def tiny() -> nn.Module:
    return nn.Linear(64, 10)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))


def no_network() -> int:
    return 7


def double_precision() -> nn.Module:
    return nn.Linear(64, 10).double()


@pytest.mark.parametrize("name", ["mlp", "cnn", f"{__name__}:tiny"])
def test_network_gives_one_number_per_class(name: str) -> None:
    network = build_network(name)
    assert network(torch.zeros(3, 64)).shape == (3, 10)


def test_weights_depend_on_the_seed_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, again, other = (build_network("mlp", seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("resnet", "no network 'resnet'"),
        ("no_such_module_here:net", "cannot be built"),
        (f"{__name__}:missing", "cannot be built"),
        (f"{__name__}:no_network", "returned a int"),
        (f"{__name__}:normalised", "keeps buffers"),
        (f"{__name__}:double_precision", "float32 parameters"),
    ],
)
def test_bad_network_is_one_named_error(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        build_network(name)


def test_network_that_does_not_fit_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="square images"):
        build_network("cnn", features=16 * 3)
    with pytest.raises(UsageError, match="does not take samples of 16 numbers"):
        build_network(f"{__name__}:tiny", features=16)
    with pytest.raises(UsageError, match=r"shape \(1, 10\)"):
        build_network(f"{__name__}:tiny", classes=4)
