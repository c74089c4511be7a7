import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calibration_data import UsageError
from cwmp.networks import NETWORK_NAMES, build_network, load_network, sample_shape_of


def tiny() -> nn.Module:
    return nn.Linear(64, 10)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))


def no_network() -> int:
    return 7


def double_precision() -> nn.Module:
    return nn.Linear(64, 10).double()


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10, track_running_stats=False))


def out_of_memory() -> nn.Module:
    raise RuntimeError("no memory\nand a second line")


def a_missing_key() -> nn.Module:
    layers: dict[str, nn.Module] = {}
    return layers["first"]


def an_assertion() -> nn.Module:
    raise AssertionError


class BadForward(nn.Linear):
    """A layer that takes an index, an attribute or its output wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__(64, 10)
        self._fault = fault

    def forward(self, x: Tensor) -> Tensor:
        if self._fault == "index":
            return super().forward(x[:, :, 0])
        if self._fault == "attribute":
            return super().forward(x.pixels)  # type: ignore[attr-defined]
        return super().forward(x), x  # type: ignore[return-value]


def bad_index() -> nn.Module:
    return BadForward("index")


def bad_attribute() -> nn.Module:
    return BadForward("attribute")


def two_outputs() -> nn.Module:
    return BadForward("outputs")


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
        ("resnet", "no network 'resnet'.*lenet, fedavg-cnn, resnet18, resnet18-bn, or module:factory"),
        ("no_such_module_here:net", "cannot be built"),
        (f"{__name__}:missing", "cannot be built"),
        (f"{__name__}:no_network", "returned a int"),
        (f"{__name__}:normalised", "keeps buffers"),
        (f"{__name__}:double_precision", "float32 parameters"),
        (f"{__name__}:out_of_memory", r"cannot be built \(RuntimeError: no memory\)"),
        (f"{__name__}:a_missing_key", r"cannot be built \(KeyError: 'first'\)"),
        (f"{__name__}:an_assertion", r"cannot be built \(AssertionError\)"),
        (f"{__name__}:bad_index", r"does not take samples of shape \(64,\).*\(IndexError: "),
        (f"{__name__}:bad_attribute", r"does not take samples of shape \(64,\).*\(AttributeError: "),
        (f"{__name__}:two_outputs", "returns a tuple instead of a tensor.*one number per class"),
    ],
)
def test_bad_network_is_one_named_error(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        build_network(name)


def test_a_module_that_cannot_be_imported_is_one_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for module, code, problem in (
        ("their_typo", "def net(:", "SyntaxError"),
        ("their_import", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("their_name", "net = nowhere", "NameError"),
    ):
        (tmp_path / f"{module}.py").write_text(code)
        with pytest.raises(UsageError, match=f"cannot be built .{problem}"):
            load_network(f"{module}:net")


def test_batch_normalisation_without_statistics_is_taken_in_batches_of_more_than_one() -> None:
    """What the refusal of running statistics advises."""
    name = f"{__name__}:without_statistics"
    assert build_network(name)(torch.zeros(2, 64)).shape == (2, 10)
    with pytest.raises(UsageError, match=r"one at a time \(ValueError: .*single sample here.*batch_size"):
        build_network(name, smallest_batch=1)


def test_network_that_does_not_fit_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="flat square images"):
        build_network("cnn", sample_shape=(16 * 3,))
    with pytest.raises(UsageError, match=r"flat square images.*\(1, 8, 8\)"):
        build_network("cnn", sample_shape=(1, 8, 8))
    with pytest.raises(UsageError, match=r"lenet takes images of shape \(3, 32, 32\), but .* \(64,\)"):
        build_network("lenet", sample_shape=(64,))
    with pytest.raises(UsageError, match=r"does not take samples of shape \(16,\)"):
        build_network(f"{__name__}:tiny", sample_shape=(16,))
    with pytest.raises(UsageError, match=r"shape \(2, 10\)"):
        build_network(f"{__name__}:tiny", classes=4)


def convolution(inputs: int, outputs: int, side: int) -> int:
    return outputs * inputs * side**2


RESNET18 = (
    # The first convolution, then every width: four 3x3 convolutions and, but for the first, a shortcut.
    convolution(3, 64, 3)
    + 4 * convolution(64, 64, 3)
    + sum(
        convolution(width // 2, width, 3)
        + 3 * convolution(width, width, 3)
        + convolution(width // 2, width, 1)
        for width in (128, 256, 512)
    )
    # Scale and shift after each: 1 + 4 of 64 channels, 5 of each other width; and the classes.
    + 2 * (5 * 64 + 5 * (128 + 256 + 512))
    + 512 * 10
    + 10
)

PARAMETERS = {
    "mlp": 64 * 128 + 128 + 128 * 10 + 10,
    "cnn": (9 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 2 * 2 * 64 + 64) + (64 * 10 + 10),
    "lenet": 62_006,  # NIID-Bench
    "fedavg-cnn": 878_538,
    "resnet18": RESNET18,
    "resnet18-bn": RESNET18,
}


def test_resnet18_has_the_size_that_everyone_reports() -> None:
    assert round(RESNET18 / 1e6, 2) == 11.17


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_network_has_the_parameters_counted_by_hand(name: str) -> None:
    network = build_network(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    shape = sample_shape_of(name)
    assert shape is not None
    assert network(torch.zeros(2, *shape)).shape == (2, 10)


def test_the_perceptron_takes_images_too() -> None:
    network = build_network("mlp", sample_shape=(3, 32, 32), classes=4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 3072 * 128 + 128 + 128 * 4 + 4


def test_resnet18_halves_the_image_three_times() -> None:
    network = load_network("resnet18").eval()
    sides = []
    x = torch.zeros(1, 3, 32, 32)
    for layer in list(network.children())[:-3]:
        x = layer(x)
        sides.append(x.shape[2])
    assert sides == [32] * 5 + [16, 16, 8, 8, 4, 4]
    assert x.shape == (1, 512, 4, 4)


def test_group_norm_looks_at_one_sample_and_batch_norm_at_the_batch() -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, alone in (("resnet18", True), ("resnet18-bn", False)):
        network = build_network(name).eval()
        with torch.no_grad():
            together, first = network(x)[:1], network(x[:1])
        assert torch.allclose(together, first, atol=1e-4) is alone
        assert not list(network.buffers())


def test_the_shape_of_a_factory_is_not_known() -> None:
    assert sample_shape_of(f"{__name__}:tiny") is None
    with pytest.raises(UsageError, match="no network 'vgg'"):
        sample_shape_of("vgg")
