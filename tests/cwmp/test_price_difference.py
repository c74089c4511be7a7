from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.known_costs import known_cost_model
from torch import nn

from calibration_data import MemoryHierarchy
from cost_models import CostModel, save_cost_model
from cwmp.__main__ import main
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.price_difference import compare_prices, price_verdict

SMALL = MemoryHierarchy(l1_bytes=1024, l2_bytes=65_536, llc_bytes=1 << 22, line_bytes=64, cores=16)


def priced(model: CostModel) -> CostVector:
    network = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 600))
    return cost_vector(network, model, boundary="update", density=0.1)


def scaled(factor: float) -> CostModel:
    truth = {name: item.value or 0.0 for name, item in known_cost_model().coefficients.items()}
    return known_cost_model(relative_u=0.01, overrides={name: factor * v for name, v in truth.items()})


def test_twice_the_costs_are_twice_the_prices_and_the_same_order() -> None:
    prices = compare_prices(priced(scaled(1.0)), priced(scaled(2.0)))
    assert [price.tensor for price in prices] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(price.ratio == pytest.approx(2.0) and price.differs for price in prices)
    first, second = price_verdict(prices)
    assert first == "4 of 4 tensors have a price that differs by more than its uncertainty."
    assert second == (
        "All prices change alike (×2): for its joules a budget buys 0.5 times as many coordinates, "
        "in the same order."
    )


def test_smaller_caches_change_prices_against_each_other() -> None:
    prices = compare_prices(priced(known_cost_model()), priced(known_cost_model(memory=SMALL)))
    by_name = {price.tensor: price for price in prices}
    assert (by_name["1.weight"].first_level, by_name["1.weight"].second_level) == ("l2", "l2")
    assert (by_name["0.weight"].first_level, by_name["0.weight"].second_level) == ("l1", "l1")
    assert (by_name["1.bias"].first_level, by_name["1.bias"].second_level) == ("l1", "l2")
    assert by_name["1.bias"].ratio > by_name["0.weight"].ratio
    assert "rules that look at prices keep other coordinates" in list(price_verdict(prices))[1]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, model in (("a", scaled(1.0)), ("b", scaled(1.5))):
        save_cost_model(tmp_path / f"{name}.json", model)
    return str(tmp_path / "a.json"), str(tmp_path / "b.json")


def test_the_command_prints_and_writes_the_comparison(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "diff.json"
    assert main(["diff", *files, "--network", "mlp", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "13 of 13 costs differ by more than their uncertainties" in printed
    assert "All prices change alike (×1.5)" in printed
    found = json.loads(out.read_text())
    assert found["files"] == list(files)
    assert {price["tensor"] for price in found["prices"]} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert found["verdict"][-1] in printed


def test_without_a_network_no_price_is_made(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *files]) == 0
    assert "tensor" not in capsys.readouterr().out


def test_the_model_that_cannot_price_is_named(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", files[0], "published:haswell-ep", "--network", "mlp"]) == 2
    assert capsys.readouterr().err.startswith(
        "Error: published:haswell-ep: The cost model has no value for launch"
    )
