from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from calibration_data import UsageError
from calibration_data.terms import TERMS
from cost_models import CostModel, MissingCoefficientError, load_cost_model
from cost_models.store import published_names
from cost_models.validation import findings
from cwmp.cost_vector import cost_vector


def published(name: str) -> CostModel:
    return load_cost_model(Path(f"published:{name}"))


@pytest.mark.parametrize("name", published_names())
def test_every_number_of_a_published_model_says_where_it_comes_from(name: str) -> None:
    model = published(name)
    assert model.provenance == "literature"
    assert all("doi:" in source or "arXiv:" in source or "," in source for source in model.document.sources)
    assert model.document.sources
    for item in model.coefficients.values():
        assert item.provenance == "literature"
        assert len(item.reason) > 20
    assert not [finding for finding in findings(model) if finding.level == "warning"]
    assert model.device is not None
    assert model.device.device == f"published:{name}"


@pytest.mark.parametrize("name", published_names())
def test_what_no_source_gives_is_refused_and_not_left_out(name: str) -> None:
    model = published(name)
    assert model.device is not None
    other_kind = {"dram_idle_w", "byte_llc"}
    if model.device.kind == "cpu":
        other_kind = {"flop_tf32", "flop_bf16", "flop_fp16", "flop_int8"}
    assert set(model.coefficients) == set(TERMS) - other_kind


def test_the_a100_has_the_numbers_of_its_source() -> None:
    """Antepara et al., SC'25, Table 3: 1.59, 4.71 and 13.11 pJ/bit; 19.4 pJ/bit from HBM to a core."""
    model = published("a100")
    levels = ("byte_l1", "byte_l2", "byte_dram_read")
    assert [1e12 * value / 8 for value in model.values(levels)] == pytest.approx(
        [1.59, 4.71, 13.11], rel=1e-4
    )
    assert sum(model.values(levels)) == pytest.approx(155e-12, rel=0.01)
    read_write = model.covariance(["byte_dram_read", "byte_dram_write"])
    assert read_write[0, 1] == pytest.approx(read_write[0, 0])


@pytest.mark.parametrize("name", ["a100", "gh200"])
def test_a_published_model_prices_a_network(name: str) -> None:
    vector = cost_vector(nn.Linear(64, 64), published(name), boundary="update", density=0.1)
    assert vector.provenance == "literature"
    assert all(price > 0 for price in vector.prices_j.values())
    assert any("Only limits are known of flop_fp32, launch" in note for note in vector.notes)


def test_what_a_published_model_lacks_is_named_until_it_is_supplied() -> None:
    model = published("haswell-ep")
    with pytest.raises(MissingCoefficientError, match="launch"):
        cost_vector(nn.Linear(64, 64), model, boundary="update", density=0.1)
    supplied = model.with_assumed({"launch": 2e-6})
    assert cost_vector(nn.Linear(64, 64), supplied, boundary="update", density=0.1).prices_j


@pytest.mark.parametrize("name", ["h100", "", "../../secret", "a100.json", "\x1b[2J"])
def test_an_unknown_name_lists_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="published:a100, published:gh200") as caught:
        published(name)
    assert "\x1b" not in str(caught.value)
