"""Windows that another program disturbed, slow drift, and priors: costs stay where the truth is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fakes.synthetic_records import TRUTH, campaign

from calibration_data import UsageError, Work
from calibration_data.records import CalibrationRecord, Window
from cost_models import fit_cost_model
from cost_models.coefficients import judge_coefficients
from cost_models.design_matrix import build_design_matrix, sorted_records
from cost_models.document import Coefficient
from cost_models.drift import Drift, take_off_drift
from cost_models.regression import EnergyRegression


def changed(
    records: list[CalibrationRecord], change: Callable[[Window, int], Window]
) -> list[CalibrationRecord]:
    """Records whose windows were changed; the second argument counts them."""
    count = 0
    result = []
    for record in records:
        windows = []
        for window in record.replicates:
            windows.append(change(window, count))
            count += 1
        around = [change(window, -1) for window in (record.idle_before, record.idle_after)]
        result.append(
            record.model_copy(
                update={"replicates": tuple(windows), "idle_before": around[0], "idle_after": around[1]}
            )
        )
    return result


def scaled(window: Window, factor: float) -> Window:
    return window.model_copy(update={"energy_j": {d: e * factor for d, e in window.energy_j.items()}})


def costs_of(records: list[CalibrationRecord]) -> tuple[dict[str, Coefficient], EnergyRegression, Drift]:
    records = sorted_records(records)
    design, drift = take_off_drift(build_design_matrix(records))
    fit = EnergyRegression(resamples=200, common_u=drift.common_u).fit(
        design.matrix,
        design.energy_j,
        relative_u=design.relative_u,
        absolute_u=design.quantisation_u_j,
        clusters=design.clusters,
        strata=design.strata,
    )
    return {item.name: item for item in judge_coefficients(records[0], design, fit)}, fit, drift


def errors(costs: dict[str, Coefficient]) -> np.ndarray:
    return np.array([abs(c.value / TRUTH[c.name] - 1) for c in costs.values() if c.value is not None])


@pytest.mark.parametrize("factor", [1.3, 3.0])
def test_five_percent_of_disturbed_windows_hardly_move_a_cost(factor: float) -> None:
    """Another program runs during one window in twenty: always more joules, never fewer."""
    ratios, covered = [], []
    for seed in range(4):
        clean = campaign(noise=0.005, replicates=5, seed=seed)
        rng = np.random.default_rng(seed)
        hit = rng.random(10_000) < 0.05
        dirty = changed(clean, lambda window, n, hit=hit: scaled(window, factor if hit[n] and n >= 0 else 1))
        before, after = costs_of(clean)[0], costs_of(dirty)
        ratios.append(np.median(errors(after[0])) / np.median(errors(before)))
        assert np.sum(after[1].inflation_ > 1) >= 0.8 * np.sum(hit[: 5 * len(clean)])
        covered += [
            item.ci95[0] <= TRUTH[name] <= item.ci95[1]
            for name, item in after[0].items()
            if item.status == "identified" and item.ci95 is not None
        ]
    assert np.mean(ratios) < 2
    assert np.mean(covered) >= 0.9


def test_a_whole_disturbed_configuration_does_not_move_the_others() -> None:
    clean = campaign(noise=0.005, replicates=5, seed=7)
    dirty = [
        record.model_copy(update={"replicates": tuple(scaled(w, 1.5) for w in record.replicates)})
        if record.point == "intensity-l2-fp32"
        else record
        for record in clean
    ]
    assert np.median(errors(costs_of(dirty)[0])) < 2 * np.median(errors(costs_of(clean)[0])) + 0.002


def test_undisturbed_windows_all_count_in_full() -> None:
    for seed in range(3):
        _, fit, drift = costs_of(campaign(noise=0.01, replicates=5, seed=seed))
        assert np.all(fit.inflation_ == 1)
        assert drift.rate_per_h == {}
        assert drift.common_u == 0


def test_a_model_says_how_many_windows_count_less() -> None:
    records = campaign(noise=0.005, replicates=5)
    dirty = changed(records, lambda window, n: scaled(window, 2.0) if n in (3, 40, 77) else window)
    assert fit_cost_model(dirty).document.diagnostics.n_disturbed == 3


@pytest.mark.parametrize("total", [0.05, -0.05])
def test_drift_is_taken_off_and_stays_in_the_intervals(total: float) -> None:
    """Readings move by 5 % over an hour; configurations came in random order."""
    records = campaign(noise=0.003, replicates=5, seed=1)
    order = np.random.default_rng(5).permutation(len(records))
    moved = []
    for record, place in zip(records, order, strict=True):
        at_s = 3600 * place / (len(records) - 1)
        factor = 1 + total * (place / (len(records) - 1) - 0.5)

        def drifted(window: Window, n: int, at_s: float = at_s, factor: float = factor) -> Window:
            return scaled(window, factor).model_copy(update={"started_s": at_s})

        moved += changed([record], drifted)
    costs, _, drift = costs_of(moved)
    assert set(drift.rate_per_h) >= {1, 3}, "asleep, package and DRAM"
    for rate in drift.rate_per_h.values():
        assert rate == pytest.approx(total, rel=0.35)
    assert drift.common_u == pytest.approx(abs(total) / 2, rel=0.35)
    assert np.median(errors(costs)) < 0.01
    for name, item in costs.items():
        if item.status == "identified" and item.ci95 is not None:
            # Whether the first or the last moment reads right: both are inside.
            assert item.ci95[0] <= TRUTH[name] * (1 - total / 2) * 1.02
            assert item.ci95[1] >= TRUTH[name] * (1 + total / 2) * 0.98


@pytest.mark.parametrize("wrong_by", [0.1, 3.0, 30.0])
def test_a_prior_moves_no_identified_cost_by_a_hundredth(wrong_by: float) -> None:
    records = sorted_records(campaign(noise=0.01, replicates=3, seed=3))
    design = build_design_matrix(records)
    prior = np.array([TRUTH[column.term] * wrong_by for column in design.columns])
    prior[0] = np.nan

    def fitted(prior: np.ndarray | None) -> EnergyRegression:
        return EnergyRegression(resamples=50, prior=prior).fit(
            design.matrix,
            design.energy_j,
            relative_u=design.relative_u,
            absolute_u=design.quantisation_u_j,
            clusters=design.clusters,
            strata=design.strata,
        )

    plain, guided = fitted(None), fitted(prior)
    relative_u = np.sqrt(np.diag(plain.covariance_)) / np.maximum(plain.coef_, 1e-300)
    identified = relative_u < 0.25
    assert identified.sum() >= 10
    np.testing.assert_allclose(guided.coef_[identified], plain.coef_[identified], rtol=0.01)


def test_a_prior_speaks_where_the_data_do_not() -> None:
    """Two columns that always go together: their sum is known, the prior divides it."""
    amounts = np.repeat(np.arange(1.0, 9.0), 3)[:, None] * np.array([[1.0, 1.0]])
    energy_j = amounts @ np.array([3.0, 1.0])
    fit = EnergyRegression(prior=np.array([3.3, 1.1])).fit(
        amounts,
        energy_j,
        relative_u=np.full(24, 0.01),
        absolute_u=np.zeros(24),
        clusters=np.repeat(np.arange(8), 3),
        strata=np.zeros(24, dtype=np.intp),
    )
    assert fit.coef_.sum() == pytest.approx(4.0, rel=1e-3)
    assert fit.coef_[0] / fit.coef_[1] == pytest.approx(2.5, rel=0.3)


def test_priors_from_published_ranges_leave_a_whole_plan_as_it_is() -> None:
    records = campaign(noise=0.005, replicates=3)
    plain, guided = fit_cost_model(records), fit_cost_model(records, priors=True)
    names = plain.document.covariance.names
    assert names == guided.document.covariance.names
    np.testing.assert_allclose(guided.values(names), plain.values(names), rtol=0.01)


def test_the_gain_is_one_error_of_all_costs_and_stays_apart() -> None:
    records = campaign(noise=0.005, replicates=3)
    model = fit_cost_model(records, gain_u_rel=0.05)
    assert model.coefficients == fit_cost_model(records).coefficients
    work = Work({"byte_l1": 1e9, "byte_dram_read": 1e9, "idle_w": 1.0})
    plain, whole = model.predict_j(work), model.predict_j(work, with_gain=True)
    assert whole.value == plain.value
    assert whole.standard_uncertainty**2 == pytest.approx(
        plain.standard_uncertainty**2 + (0.05 * plain.value) ** 2
    )
    with pytest.raises(UsageError, match="gain"):
        fit_cost_model(records).predict_j(work, with_gain=True)


def test_an_inferred_dram_cost_says_what_it_is() -> None:
    items = fit_cost_model(campaign(noise=0.003, replicates=5, domains=("package-0",))).coefficients
    assert items["byte_dram_read"].provenance == "inferred"
    assert "memory controller" in items["byte_dram_read"].reason
    assert fit_cost_model(campaign(noise=0.003)).coefficients["byte_dram_read"].reason == ""
