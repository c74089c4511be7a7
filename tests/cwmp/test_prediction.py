"""Predicted joules against the account of simulated devices that neither the fit nor the counter has seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes.known_costs import known_cost_model
from fakes.zoo import ZOO, first
from torch import nn

from benchmarks.recovery import draw_device
from calibration_data import Work
from cost_models import CostModel, fit_cost_model
from cwmp.errors import UnknownMemoryError
from cwmp.prediction import CountedWork, EnergyCounterMode, Prediction, WorkCounter, predict
from cwmp.training.phase_meter import phase_meter
from profiler.campaign import run_campaign
from profiler.plan import make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec, load_spec


class PreNorm(nn.Module):
    """A decoder block with rotary-like in-place slices and a causal mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


def language_model() -> tuple[nn.Module, torch.Tensor]:
    blocks = [PreNorm(64, 4) for _ in range(2)]
    return nn.Sequential(nn.Embedding(3000, 64), *blocks, nn.Linear(64, 3000)), torch.randint(3000, (4, 32))


def mobile() -> tuple[nn.Module, torch.Tensor]:
    def block(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.Hardswish(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width),
            nn.BatchNorm2d(4 * width),
            nn.Conv2d(4 * width, width, 1),
        )

    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2), block(16), block(16), nn.AdaptiveAvgPool2d(1))
    return network, torch.randn(8, 3, 40, 40)


def recurrent() -> tuple[nn.Module, torch.Tensor]:
    return nn.LSTM(24, 48, num_layers=2, batch_first=True), torch.randn(8, 12, 24)


def wide() -> tuple[nn.Module, torch.Tensor]:
    """Larger than the caches."""
    return nn.Sequential(nn.Linear(2000, 3000), nn.ReLU(), nn.Linear(3000, 1000)), torch.randn(4, 2000)


NETWORKS = {"language": language_model, "mobile": mobile, "recurrent": recurrent, "wide": wide}


def counted_step(network: nn.Module, samples: torch.Tensor, spec: SimulatedDeviceSpec) -> CountedWork:
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        first(network(samples)).square().mean().backward()
        optimizer.step()

    step()
    with WorkCounter(spec.memory) as counter:
        step()
    return counter.counted


@pytest.fixture(scope="module", params=[7300, 7301, 3002])
def calibrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SimulatedDevice, CostModel]:
    """A device and the model that a quick campaign gives of it."""
    seed = request.param
    device = SimulatedDevice(SimulatedDeviceSpec.model_validate(draw_device(seed, noise_rel=0.02)), seed=seed)
    path: Path = tmp_path_factory.mktemp("campaign") / "records.jsonl"
    model = fit_cost_model(run_campaign(device, make_plan(device, "quick", seed=seed), path), seed=seed)
    return device, model


@pytest.mark.parametrize("name", NETWORKS)
def test_joules_of_a_training_step_are_those_that_the_device_accounts(
    calibrated: tuple[SimulatedDevice, CostModel], name: str
) -> None:
    device, model = calibrated
    counted = counted_step(*NETWORKS[name](), device.spec)
    prediction = predict(counted, model)
    works = [item.work * item.calls for item in counted.calls]
    true_j = sum(device.true_energy_j(work) for work in works)
    assert prediction.gross_j.value == pytest.approx(true_j, rel=0.05)
    low, high = prediction.gross_j.interval95
    assert low - 0.02 * true_j <= true_j <= high + 0.02 * true_j
    # without idle power, by the truth itself
    truth, cores = device.spec.truth, device.memory.cores
    seconds = sum(device.duration_s(work, cores) for work in works)
    net_j = seconds * (truth["awake_w"] + cores * truth["core_w"]) + sum(
        truth[term] * amount for work in works for term, amount in work.items()
    )
    assert prediction.net_j.value == pytest.approx(net_j, rel=0.05)
    assert prediction.duration_s == pytest.approx(seconds, rel=0.02)
    assert prediction.provenance == "simulated"
    assert prediction.not_covered == ()


def test_its_sensors_say_the_same(calibrated: tuple[SimulatedDevice, CostModel]) -> None:
    device, model = calibrated
    counted = counted_step(*mobile(), device.spec)
    _, see = phase_meter(device, seed=1, window_s=20.0).run(lambda: None)
    seen = see([item.work * item.calls for item in counted.calls])
    assert seen.energy_j == pytest.approx(predict(counted, model).net_j.value, rel=0.05)
    assert seen.provenance == "simulated"


def of_server(run: Callable[[], object], model: CostModel | None = None) -> Prediction:
    with EnergyCounterMode(model or known_cost_model(relative_u=0.02)) as counter:
        run()
    return counter.prediction


def step_of(name: str) -> Callable[[], None]:
    network, samples = ZOO[name][0](), ZOO[name][1]()
    return lambda: first(network(samples)).square().mean().backward()


@pytest.mark.parametrize("name", ZOO)
def test_operators_and_layers_add_up_to_the_step(name: str) -> None:
    prediction = of_server(step_of(name))
    for shares in (prediction.operators, prediction.layers):
        assert math.fsum(share.net_j.value for share in shares) == pytest.approx(prediction.net_j.value)
        assert sum(share.torch_flop for share in shares) == prediction.torch_flop
        assert all(share.net_j.value > 0 for share in shares)
        u = [share.net_j.standard_uncertainty for share in shares]
        assert max(u) <= prediction.net_j.standard_uncertainty * (1 + 1e-9) <= sum(u) * (1 + 1e-6)
    joules = [share.net_j.value for share in prediction.operators]
    assert joules == sorted(joules, reverse=True)


def test_one_operator_by_hand() -> None:
    spec = load_spec("server-cpu")
    a, b = torch.ones(64, 64), torch.ones(64, 64)
    prediction = of_server(lambda: a @ b, known_cost_model())
    flop, size = 2 * 64**3, 3 * 4 * 64 * 64
    # three matrices of 16 KiB fit into the second level; the lines of the result are read before
    seconds = max(
        flop / spec.rates["flop_fp32"], size / spec.rates["byte_l1"], size * 4 / 3 / spec.rates["byte_l2"]
    )
    truth = spec.truth
    net_j = (
        flop * truth["flop_fp32"]
        + size * truth["byte_l1"]
        + size * 4 / 3 * truth["byte_l2"]
        + truth["launch"]
        + seconds * (truth["awake_w"] + 16 * truth["core_w"])
    )
    assert prediction.net_j.value == pytest.approx(net_j)
    assert prediction.gross_j.value == pytest.approx(
        net_j + seconds * (truth["idle_w"] + truth["dram_idle_w"])
    )
    assert prediction.duration_s == pytest.approx(seconds)
    assert prediction.torch_flop == flop


def test_correlated_costs_do_not_average_out() -> None:
    apart = of_server(step_of("encoder"), known_cost_model(relative_u=0.05)).net_j
    together = of_server(step_of("encoder"), known_cost_model(relative_u=0.05, correlation=1.0)).net_j
    assert together.standard_uncertainty == pytest.approx(0.05 * together.value)
    assert apart.standard_uncertainty < together.standard_uncertainty


def test_refused_costs_are_named_and_make_a_lower_limit() -> None:
    whole = of_server(step_of("shared"), known_cost_model())
    partial = of_server(step_of("shared"), known_cost_model(refused=frozenset({"launch"})))
    (gap,) = partial.not_covered
    launches = whole.work["launch"]
    assert (gap.what, gap.amount, gap.calls, gap.unit) == ("launch", launches, launches, "launch")
    assert "refuse" in gap.reason
    missing_j = launches * load_spec("server-cpu").truth["launch"]
    assert partial.net_j.value == pytest.approx(whole.net_j.value - missing_j)


def test_absent_costs_and_unknown_rates_are_named() -> None:
    model = known_cost_model()
    bfloat = of_server(step_of("bfloat"), model)
    assert {(gap.what, gap.unit) for gap in bfloat.not_covered} == {("flop_bf16", "FLOP")}
    assert any("throughput" in gap.reason for gap in bfloat.not_covered)
    rates = {name: rate for name, rate in model.document.throughput.items() if name != "launch"}
    slow = CostModel(model.document.model_copy(update={"throughput": rates}))
    assert [gap.what for gap in of_server(step_of("shared"), slow).not_covered] == ["launch"]


def test_integer_products_are_named() -> None:
    whole = torch.ones(3, 3, dtype=torch.int64)
    prediction = of_server(lambda: whole @ whole)
    (gap,) = prediction.not_covered
    assert (gap.what, gap.amount, gap.unit) == ("FLOP of aten::mm", 54, "FLOP")
    assert prediction.torch_flop == 54


def test_arithmetic_without_a_formula_is_named_with_its_weight() -> None:
    x = torch.ones(1000)
    prediction = of_server(lambda: x.exp().exp(), known_cost_model())
    assert prediction.without_formula == {"aten::exp": 2}
    assert prediction.without_formula_j == pytest.approx(2000 * load_spec("server-cpu").truth["flop_fp32"])


def test_flop_beyond_torchs_counter_are_named() -> None:
    prediction = of_server(step_of("lstm"))
    assert prediction.torch_flop == 0
    assert prediction.work["flop_fp32"] == sum(prediction.flop_differences.values()) > 0
    assert {operator for operator, _ in prediction.flop_differences} == {
        "aten::mkldnn_rnn_layer",
        "aten::mkldnn_rnn_layer_backward",
    }


@pytest.mark.parametrize(("attribution", "charged"), [("idle", {"idle_w", "dram_idle_w"}), ("none", set())])
def test_time_is_charged_as_the_model_was_fitted(attribution: str, charged: set[str]) -> None:
    model = known_cost_model()
    other = CostModel(model.document.model_copy(update={"time_attribution": attribution}))
    prediction = of_server(step_of("shared"), other)
    assert {name for name in prediction.work if name.endswith("_w")} == charged
    assert prediction.work.without_times() == of_server(step_of("shared"), model).work.without_times()
    assert any("time" in note for note in prediction.notes)


def test_layers_are_grouped_by_depth() -> None:
    network, samples = ZOO["encoder"][0](), ZOO["encoder"][1]()
    model = known_cost_model()
    with WorkCounter(load_spec("server-cpu").memory) as counter:
        network(samples)
    shallow, deep = predict(counter.counted, model, depth=1), predict(counter.counted, model)
    assert [share.name for share in shallow.layers] == ["TransformerEncoder"]
    assert len(deep.layers) > 5
    assert shallow.net_j == deep.net_j


def test_a_model_of_no_device_has_no_place_for_tensors() -> None:
    model = known_cost_model()
    coefficients = [
        item.model_copy(update={"provenance": "literature"}) for item in model.document.coefficients
    ]
    update = {"device": None, "provenance": "literature", "coefficients": tuple(coefficients)}
    with pytest.raises(UnknownMemoryError, match="no device"):
        EnergyCounterMode(CostModel(model.document.model_copy(update=update)))


def test_nothing_takes_nothing() -> None:
    prediction = of_server(lambda: None)
    assert prediction.net_j.value == prediction.gross_j.value == prediction.duration_s == 0
    assert prediction.work == Work()
    assert prediction.operators == prediction.layers == prediction.not_covered == ()
