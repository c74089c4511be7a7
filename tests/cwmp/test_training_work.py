import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from calibration_data import MemoryHierarchy
from cwmp.networks import build_network
from cwmp.prediction.moved_bytes import level_of
from cwmp.training.local_training import LocalSettings, sgd_step, weights_of
from cwmp.training.training_work import TrainingWork, step_work

MEMORY = MemoryHierarchy(l1_bytes=32_768, l2_bytes=1_048_576, llc_bytes=33_554_432, line_bytes=64, cores=16)
HUGE_L1 = MemoryHierarchy(l1_bytes=2**40, l2_bytes=2**41, llc_bytes=None, line_bytes=64, cores=1)
SETTINGS = LocalSettings(epochs=2, batch_size=32, learning_rate=0.1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(-1, 4, 16)
        return self.head(self.attention(x, x, x, need_weights=False)[0].flatten(1))


@pytest.mark.parametrize("network", [build_network("mlp"), build_network("cnn"), Attention()])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_flop_of_a_step_are_those_of_torchs_counter(network: nn.Module, batch_size: int) -> None:
    counted = step_work(
        network, sample_shape=(64,), classes=10, batch_size=batch_size, settings=SETTINGS, memory=MEMORY
    )
    local = dict(network.named_parameters())
    x, y, batch = torch.zeros(batch_size, 64), torch.zeros(batch_size).long(), torch.arange(batch_size)
    with FlopCounterMode(display=False) as counter:
        sgd_step(network, local, [], x, y, batch, SETTINGS)
    assert counted.torch_flop == counter.get_total_flops()
    # torch's counter leaves attention out where it is one operator of a CPU
    beyond = sum(
        (item.work["flop_fp32"] - item.torch_flop) * item.calls
        for item in counted.calls
        if "attention" in item.operator
    )
    assert counted.work["flop_fp32"] == counter.get_total_flops() + beyond


def test_bytes_and_launches_of_a_linear_step_by_hand() -> None:
    """Softmax regression on a batch of B samples, F features, C classes; everything fits into L1."""
    b, f, c = 8, 64, 10
    work = step_work(
        nn.Linear(f, c, bias=False),
        sample_shape=(f,),
        classes=c,
        batch_size=b,
        settings=SETTINGS,
        memory=HUGE_L1,
    ).work
    x, w, z, label, index = 4 * b * f, 4 * f * c, 4 * b * c, 8 * b, 8 * b
    expected = {
        "gather samples": x + index + x,
        "gather labels": label + index + label,
        "forward product": x + w + z,
        "log softmax": z + z,
        "loss": z + label + 4 + 4,
        "ones": 4 + 4,
        "loss backward": 4 + z + label + 4 + z,
        "log softmax backward": z + z + z,
        "weight gradient": z + x + w,
        "update": w + w + w,
    }
    assert work["byte_l1"] == sum(expected.values())
    assert work["launch"] == len(expected)
    assert work["byte_l2"] == work["byte_dram_read"] == 0


def test_momentum_adds_its_own_traffic_and_two_launches() -> None:
    def work(momentum: float) -> dict[str, float]:
        settings = LocalSettings(epochs=1, batch_size=8, learning_rate=0.1, momentum=momentum)
        return dict(
            step_work(
                build_network("mlp"),
                sample_shape=(64,),
                classes=10,
                batch_size=8,
                settings=settings,
                memory=HUGE_L1,
            ).work
        )

    parameter_bytes = 4 * (64 * 128 + 128 + 128 * 10 + 10)
    plain, with_velocity = work(0.0), work(0.9)
    assert with_velocity["launch"] == plain["launch"] + 2
    # velocity *= m reads and writes it; velocity += g reads two and writes one
    assert with_velocity["byte_l1"] == plain["byte_l1"] + 5 * parameter_bytes


def test_operations_without_a_formula_are_named() -> None:
    result = step_work(
        build_network("mlp"), sample_shape=(64,), classes=10, batch_size=8, settings=SETTINGS, memory=MEMORY
    )
    assert "aten::relu" in result.without_formula
    assert not {"aten::addmm", "aten::mm", "aten::t", "aten::view"} & set(result.without_formula)


def test_larger_layers_move_farther_out() -> None:
    def work(width: int) -> dict[str, float]:
        network = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        return dict(
            step_work(
                network, sample_shape=(64,), classes=10, batch_size=32, settings=SETTINGS, memory=MEMORY
            ).work
        )

    assert "byte_llc" not in work(128)
    assert work(16_384)["byte_llc"] > 0
    assert "byte_dram_read" not in work(16_384)
    assert work(100_000)["byte_dram_read"] > 0
    assert level_of(32_768, MEMORY) == "l1"
    assert level_of(32_769, MEMORY) == "l2"


def test_client_work_is_its_steps_with_a_shorter_last_one() -> None:
    network = build_network("mlp")
    counted = TrainingWork(network, sample_shape=(64,), classes=10, settings=SETTINGS, memory=MEMORY)
    # 70 samples: two steps of 32 and one of 6, in each of two epochs
    expected = (counted.step(32).work * 2 + counted.step(6).work) * 2
    assert dict(counted.of_client(70)) == dict(expected)
    assert dict(counted.of_client(64)) == dict(counted.step(32).work * 4)
    assert dict(counted.of_client(5)) == dict(counted.step(5).work * 2)


def test_counting_changes_nothing() -> None:
    network = build_network("mlp")
    before = weights_of(network)
    network.eval()
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    step_work(network, sample_shape=(64,), classes=10, batch_size=4, settings=SETTINGS, memory=MEMORY)
    assert torch.equal(torch.rand(2), expected)
    assert not network.training
    assert all(torch.equal(before[name], value) for name, value in network.named_parameters())
