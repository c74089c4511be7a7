"""Histograms of gradients say what rules keep, as sorting them does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import UsageError
from cwmp.gradient_histogram import GradientHistogram
from cwmp.predicted_gain import empirical_gains, gains_on


@given(seed=st.integers(0, 2**31), tail=st.floats(0.5, 4), scale=st.floats(1e-8, 1e8))
@settings(max_examples=40, deadline=None)
def test_what_is_above_a_threshold_is_within_a_bin_of_a_count(seed: int, tail: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = scale * torch.randn(4000, generator=generator, dtype=torch.float64).sign()
    gradient *= torch.rand(4000, generator=generator, dtype=torch.float64) ** tail
    histogram = GradientHistogram.of(gradient)
    magnitude = gradient.abs()
    for share in (0.5, 0.1, 0.01):
        threshold = float(magnitude.quantile(1 - share))
        wider, narrower = magnitude > threshold / 1.045, magnitude > threshold * 1.045
        assert int(narrower.sum()) <= histogram.kept(threshold) <= int(wider.sum())
        squared = histogram.squared(threshold)
        low, high = (float((magnitude[chosen] ** 2).sum()) for chosen in (narrower, wider))
        assert low * (1 - 1e-9) <= squared <= high * (1 + 1e-9)
    assert histogram.squared_norm == pytest.approx(float((gradient**2).sum()))


def test_predictions_from_another_draw_are_what_sorting_keeps() -> None:
    """Heavy tails, scales and prices that differ by tensor; the update predicted from is another draw."""
    shapes = {"first": 400_000, "second": 100_000, "third": 20_000}
    scales = {"first": 0.1, "second": 1.0, "third": 5.0}
    prices_j = {"first": 1e-9, "second": 1e-8, "third": 3e-9}

    def draw(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        normal = {name: torch.randn(count, generator=generator) for name, count in shapes.items()}
        return {name: scales[name] * value * value.abs() for name, value in normal.items()}

    histograms = {name: GradientHistogram.of(gradient) for name, gradient in draw(1).items()}
    shares = (0.01, 0.05, 0.2, 1.0)
    for predicted, achieved in zip(
        empirical_gains(histograms, prices_j, shares), gains_on(draw(2), prices_j, shares), strict=True
    ):
        assert predicted.basis == "earlier update"
        assert predicted.cwmp == pytest.approx(achieved.cwmp, rel=0.03)
        assert predicted.topk == pytest.approx(achieved.topk, rel=0.03)
        assert predicted.cwmp_l1 == pytest.approx(achieved.cwmp_l1, rel=0.03)


def test_zeros_are_never_kept_and_cost_nothing() -> None:
    gradient = torch.zeros(1000)
    gradient[:100] = 1.0
    histograms = {"half": GradientHistogram.of(gradient), "none": GradientHistogram.of(torch.zeros(10))}
    ample, scarce = empirical_gains(histograms, {"half": 1.0, "none": 1.0}, (0.5, 0.05))
    assert ample.cwmp == ample.topk == 1.0
    assert scarce.cwmp == pytest.approx(0.505, abs=0.01)
    assert empirical_gains({"none": GradientHistogram.of(torch.zeros(10))}, {"none": 1.0})[0].cwmp == 0.0


def test_a_price_and_a_share_are_needed() -> None:
    histograms = {"weight": GradientHistogram.of(torch.ones(3))}
    with pytest.raises(UsageError, match="price of weight"):
        empirical_gains(histograms, {})
    with pytest.raises(UsageError, match="budget shares"):
        empirical_gains(histograms, {"weight": 1.0}, (0.0,))
