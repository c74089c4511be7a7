"""``calijoule predict``: what it prints, its JSON, and what it says to input that does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from fakes.known_costs import known_cost_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner, Result

from calibration_data import UsageError
from cost_models import save_cost_model
from cwmp.__main__ import app
from cwmp.prediction.training_step import TrainingStep

FACTORIES = """
import torch
from torch import nn

def image(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
def language(): return nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30))
def half(): return nn.Linear(6, 3).bfloat16()
def fixed(): return nn.ReLU()

class Wrong(nn.Module):
    def forward(self, x):
        return x.pixels


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
    def forward(self, x):
        return self.layer(x).abs().sum()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    (folder / "their_networks.py").write_text(FACTORIES)
    save_cost_model(folder / "model.json", known_cost_model(relative_u=0.01))
    save_cost_model(folder / "partial.json", known_cost_model(refused=frozenset({"launch"})))
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["predict", *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def test_the_tables_say_what_the_joules_are() -> None:
    text = run("model.json", "--network", "cnn", "--optimizer", "adam", "--batch-size", "8").stdout
    for words in ("Sequential.4", "Adam step", "aten::addmm", "simulated, of sim:server-cpu", "95 %", "adam"):
        assert words in text
    assert "Not covered" not in text
    assert "aten::relu (3)" in text


def test_json_is_complete_and_its_flop_are_torchs() -> None:
    answer = json.loads(run("model.json", "--network", "mlp", "--batch-size", "16", "--json").stdout)
    assert answer["schema"] == "calijoule/prediction"
    assert answer["provenance"] == "simulated"
    assert not answer["lower_limit"]
    assert sum(item["net_j"]["value"] for item in answer["layers"]) == pytest.approx(answer["net_j"]["value"])
    low, high = answer["net_j"]["ci95"]
    assert 0 < low < answer["net_j"]["value"] < high < answer["gross_j"]["value"]
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    with FlopCounterMode(display=False) as counter:
        network(torch.ones(16, 64)).sum().backward()
    assert answer["torch_flop"] == counter.get_total_flops()


@pytest.mark.parametrize("device", ["auto", "sim:server-cpu"])
def test_a_device_accounts_the_same_step(device: str) -> None:
    answer = json.loads(run("model.json", "--network", "cnn", "--device", device, "--json").stdout)
    account = answer["account"]
    assert account["provenance"] == "simulated"
    assert account["net_j"] == pytest.approx(answer["net_j"]["value"], rel=0.05)
    text = run("model.json", "--network", "mlp", "--device", device).stdout
    assert "The device itself accounts" in text
    assert "(simulated," in text


def test_what_is_not_covered_is_printed_and_may_be_assumed() -> None:
    text = run("partial.json", "--network", "mlp").stdout
    assert "at least" in text
    assert "Not covered: launch" in text
    assumed = run("partial.json", "--network", "mlp", "--assume", "launch=1e-6").stdout
    assert "Not covered" not in assumed
    half = run("model.json", "--network", "their_networks:half", "--input-shape", "6").stdout
    assert "Not covered: flop_bf16" in half


@pytest.mark.parametrize(
    "options",
    [
        ("their_networks:image", "--input-shape", "3,8,8"),
        ("their_networks:image", "--input-shape", "3,8,8", "--forward-only"),
        ("their_networks:language", "--input-shape", "7", "--vocabulary", "30"),
        ("their_networks:Loss", "--input-shape", "4", "--optimizer", "momentum"),
        ("their_networks:fixed", "--input-shape", "4", "--forward-only"),
        ("mlp", "--depth", "1"),
    ],
)
def test_networks_of_ones_own(options: tuple[str, ...]) -> None:
    answer = json.loads(run("model.json", "--network", *options, "--json").stdout)
    assert answer["net_j"]["value"] > 0
    names = " ".join(item["name"] for item in answer["operators"])
    assert ("backward" in names or "aten::mm" in names) != ("--forward-only" in options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("their_networks:image",), "not known what"),
        (("their_networks:image", "--input-shape", "4"), "does not run on real numbers"),
        (("their_networks:language", "--input-shape", "7"), "--vocabulary"),
        (("their_networks:language", "--input-shape", "7", "--vocabulary", "90"), "integers below 90"),
        (("their_networks:fixed", "--input-shape", "4"), "no trainable parameter"),
        (("mlp", "--input-shape", "a,b"), "cannot be read"),
        (("mlp", "--input-shape", "0"), "positive"),
        (("mlp", "--batch-size", "100000000000"), "allocate"),
        (("their_networks:Wrong", "--input-shape", "4"), "AttributeError: 'Tensor' object has no attribute"),
        (("their_networks:missing", "--input-shape", "4"), "cannot be built"),
        (("resnet",), "no network"),
    ],
)
def test_input_that_does_not_fit_is_one_clear_sentence(options: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        run("model.json", "--network", *options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_counted_step_is_one_of_many() -> None:
    """The states of the optimiser exist by then; making them is no part of a step."""
    step = TrainingStep(nn.Linear(4, 3), input_shape=(4,), batch_size=2, optimizer="adam")
    memory = known_cost_model().document.device
    assert memory is not None
    first, second = step.counted(memory.memory), step.counted(memory.memory)
    assert first.work == second.work
    assert "cross-entropy" in step.description


@pytest.mark.parametrize(
    ("network", "multiply_adds"),
    [
        ("lenet", 28**2 * 6 * 3 * 25 + 10**2 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10),
        ("fedavg-cnn", 28**2 * 32 * 3 * 25 + 10**2 * 64 * 32 * 25 + 1600 * 512 + 512 * 10),
    ],
)
def test_a_network_of_images_needs_no_input_shape(network: str, multiply_adds: int) -> None:
    """Each weight is used once at each of its places."""
    arguments = ("--network", network, "--batch-size", "1", "--forward-only", "--json")
    assert json.loads(run("model.json", *arguments).stdout)["torch_flop"] == 2 * multiply_adds


def test_prices_of_a_network_of_images_can_be_exported() -> None:
    arguments = ["export", "model.json", "--network", "fedavg-cnn", "--out", "costs.json", "--json"]
    tensors = json.loads(CliRunner().invoke(app, arguments).stdout)["tensors"]
    assert sum(math.prod(tensor["shape"]) for tensor in tensors) == 878_538
