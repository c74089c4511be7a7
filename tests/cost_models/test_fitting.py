from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes.synthetic_records import MEMORY, POINTS, TRUTH, campaign, path
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from calibration_data import MeasurementError, Work, total_domains
from calibration_data.records import CalibrationRecord
from cost_models import Coefficient, CostModel, RecordsDisagreeError, fit_cost_model
from cost_models.coefficients import judge_coefficients
from cost_models.design_matrix import build_design_matrix, sorted_records
from cost_models.regression import EnergyRegression

GPU_TRUTH = {
    "idle_w": 55.0,
    "awake_w": 30.0,
    "core_w": 2.0,
    "flop_fp32": 12e-12,
    "flop_fp64": 25e-12,
    "byte_l1": 12e-12,
    "byte_l2": 40e-12,
    "byte_dram_read": 110e-12,
    "byte_dram_write": 130e-12,
    "line_random_dram": 9e-9,
    "launch": 2e-5,
}


def fitted(records: Sequence[CalibrationRecord], seed: int = 0) -> CostModel:
    return fit_cost_model(records, records_sha256=["0" * 64], seed=seed)


def coefficients_of(records: list[CalibrationRecord]) -> dict[str, Coefficient]:
    """Coefficients alone, without the fits that leave families out."""
    records = sorted_records(records)
    design = build_design_matrix(records)
    fit = EnergyRegression(resamples=200).fit(
        design.matrix,
        design.energy_j,
        relative_u=design.relative_u,
        absolute_u=design.quantisation_u_j,
        clusters=design.clusters,
        strata=design.strata,
    )
    return {item.name: item for item in judge_coefficients(records[0], design, fit)}


@pytest.fixture(scope="module")
def server() -> tuple[list[CalibrationRecord], CostModel]:
    records = campaign(noise=0.005, replicates=5)
    return records, fitted(records)


def assert_recovers(model: CostModel, truth: Mapping[str, float], *, within: float) -> None:
    names = [name for name in truth if model.coefficients[name].status == "identified"]
    values = dict(zip(names, model.values(names), strict=True))
    for name in names:
        low, high = model.coefficients[name].ci95 or (0.0, 0.0)
        # Not every 95 % interval holds the truth; one three half-widths away would be a wrong fit.
        assert abs(values[name] - truth[name]) < 1.5 * (high - low), name
        assert values[name] == pytest.approx(truth[name], rel=within), name


def test_known_costs_are_recovered_from_package_and_dram(
    server: tuple[list[CalibrationRecord], CostModel],
) -> None:
    _, model = server
    assert {name for name, c in model.coefficients.items() if c.status == "identified"} == set(TRUTH)
    assert_recovers(model, TRUTH, within=0.2)
    assert {c.provenance for c in model.coefficients.values()} == {"measured"}


def test_without_a_dram_domain_dram_costs_are_inferred_and_idle_power_holds_both() -> None:
    model = fitted(campaign(noise=0.003, replicates=5, domains=("package-0",)))
    assert "dram_idle_w" not in model.coefficients
    truth = {name: value for name, value in TRUTH.items() if name != "dram_idle_w"}
    truth["idle_w"] += TRUTH["dram_idle_w"]
    assert_recovers(model, truth, within=0.3)
    provenances = {name: c.provenance for name, c in model.coefficients.items()}
    assert provenances["byte_dram_read"] == provenances["byte_dram_write"] == "inferred"
    assert provenances["line_random_dram"] == "inferred"
    assert provenances["byte_llc"] == provenances["idle_w"] == "measured"


def test_costs_of_a_gpu_are_recovered_from_its_one_domain() -> None:
    memory = replace(MEMORY, llc_bytes=None, line_bytes=32)
    points = [
        replace(point, rates={name: rate for name, rate in point.rates.items() if name != "byte_llc"})
        for point in POINTS
        if point.level != "llc"
    ]
    model = fitted(
        campaign(
            GPU_TRUTH,
            points=points,
            domains=("gpu-0",),
            kind="cuda",
            memory=memory,
            noise=0.003,
            replicates=5,
        )
    )
    assert "byte_llc" not in model.coefficients
    assert_recovers(model, GPU_TRUTH, within=0.35)


def test_simulated_records_make_everything_simulated() -> None:
    for domains in (("package-0", "dram-0"), ("package-0",)):
        model = fitted(campaign(kind="simulated", domains=domains))
        assert model.provenance == "simulated"
        assert {c.provenance for c in model.coefficients.values()} == {"simulated"}


def test_what_dram_costs_its_controller_is_part_of_the_cost() -> None:
    """Package energy that goes with DRAM traffic belongs to the byte, in whichever domain it is booked."""
    records = campaign(noise=0.0)
    moved = []
    for record in records:
        windows = []
        for window in record.replicates:
            extra_j = 40e-12 * record.window_work(window)["byte_dram_read"]
            energy_j = {**window.energy_j, "package-0": window.energy_j["package-0"] + extra_j}
            windows.append(window.model_copy(update={"energy_j": energy_j}))
        moved.append(record.model_copy(update={"replicates": tuple(windows)}))
    model = fitted(moved)
    (value,) = model.values(["byte_dram_read"])
    assert value == pytest.approx(TRUTH["byte_dram_read"] + 40e-12, rel=1e-6)


def test_terms_that_no_record_exercises_are_refused_by_name() -> None:
    model = fitted([record for record in campaign() if record.family != "launch"])
    launch = model.coefficients["launch"]
    assert (launch.status, launch.value, launch.ci95) == ("refused", None, None)
    assert launch.reason == "no record exercises it"


def test_a_number_format_that_nothing_exercises_is_not_listed(
    server: tuple[list[CalibrationRecord], CostModel],
) -> None:
    assert "flop_int8" not in server[1].coefficients


def test_a_collinear_design_is_refused_with_the_names_of_the_partners() -> None:
    """An intensity sweep alone: bytes of all levels move together, and time goes with them."""
    points = [point for point in POINTS if point.family in ("idle", "intensity")]
    points = [point for point in points if point.level in (None, "dram")]
    points += [
        replace(
            point,
            name=f"{point.name}-half",
            rates={n: r / 2 if "flop" in n else r for n, r in point.rates.items()},
        )
        for point in points
        if point.level
    ]
    model = fitted(campaign(points=points))
    refused = {name: c for name, c in model.coefficients.items() if c.status == "refused"}
    assert "byte_l1" in refused
    assert "cannot be told apart from" in refused["byte_l1"].reason
    assert any(other in refused["byte_l1"].reason for other in ("byte_l2", "byte_llc"))
    assert "awake_w" in refused["core_w"].reason
    assert "flop" not in refused["core_w"].reason
    assert all(c.value is None and c.ci95 is None for c in refused.values())
    assert not set(refused) & set(model.document.covariance.names)
    assert model.document.diagnostics.scaled_condition_number is None
    assert model.document.diagnostics.vif["byte_l1"] is None
    assert model.coefficients["idle_w"].status == "identified"


def test_a_free_operation_gets_an_upper_limit_and_no_value() -> None:
    item = coefficients_of(campaign({**TRUTH, "byte_l1": 0.0}, seed=2))["byte_l1"]
    assert (item.status, item.value, item.standard_uncertainty) == ("bounded", None, None)
    assert item.ci95 is not None
    assert item.ci95[0] == 0.0
    assert 0 < item.ci95[1] < TRUTH["byte_l1"]
    assert "allow zero" in item.reason


def test_upper_limits_hold_nineteen_times_in_twenty() -> None:
    """A cost well below what the records can see; the limit is one-sided at 95 %."""
    truth = {**TRUTH, "byte_l1": 0.3e-12}
    held = []
    for seed in range(24):
        item = coefficients_of(campaign(truth, seed=seed))["byte_l1"]
        held.append(item.ci95 is not None and item.ci95[0] <= truth["byte_l1"] <= item.ci95[1])
    assert sum(held) >= 20


def test_a_wide_interval_gives_limits_only() -> None:
    coefficients = coefficients_of(campaign(noise=0.05, seed=1, domains=("package-0",)))
    wide = [c for c in coefficients.values() if c.status == "bounded" and c.ci95 and c.ci95[0] > 0]
    assert wide
    for item in wide:
        low, high = item.ci95 or (0.0, 0.0)
        assert high - low > 0.5 * (high + low)
        assert "95 % interval is ±" in item.reason


def test_scaling_all_energies_scales_all_costs() -> None:
    one, other = fitted(campaign()), fitted(campaign(gain=2.5))
    names = one.document.covariance.names
    assert names == other.document.covariance.names
    np.testing.assert_allclose(other.values(names), 2.5 * one.values(names), rtol=1e-9)
    np.testing.assert_allclose(other.covariance(names), 2.5**2 * one.covariance(names), rtol=1e-6)


def test_the_order_of_the_records_changes_nothing() -> None:
    records = campaign()
    shuffled = random.Random(3).sample(records, len(records))
    one, other = fitted(records).document, fitted(shuffled).document
    assert one.coefficients == other.coefficients
    assert one.covariance == other.covariance
    assert one.diagnostics == other.diagnostics


def test_in_sample_error_is_the_mean_over_windows(server: tuple[list[CalibrationRecord], CostModel]) -> None:
    records, model = server
    errors = []
    for record in records:
        for window in record.replicates:
            measured_j = sum(window.energy_j[domain] for domain in total_domains(window.energy_j))
            errors.append(abs(model.predict_j(record.window_work(window)).value / measured_j - 1))
    assert model.document.diagnostics.mape_in_sample == pytest.approx(np.mean(errors), rel=1e-9)


def test_left_out_error_is_that_of_a_fit_without_the_family(
    server: tuple[list[CalibrationRecord], CostModel],
) -> None:
    records, model = server
    without = fitted([record for record in records if record.family != "intensity"])
    errors = []
    for record in records:
        for window in record.replicates:
            if record.family == "intensity":
                predicted_j = without.predict_j(record.window_work(window)).value
                errors.append(abs(predicted_j / sum(window.energy_j.values()) - 1))
    family = model.document.diagnostics.families["intensity"]
    # The idle windows around the left-out configurations stay in, so the fits differ a little.
    assert family.mape_left_out == pytest.approx(np.mean(errors), rel=0.1)


def test_a_family_that_alone_exercises_a_term_cannot_be_predicted(
    server: tuple[list[CalibrationRecord], CostModel],
) -> None:
    family = server[1].document.diagnostics.families["launch"]
    assert family.mape_left_out is None
    assert family.coverage95_left_out is None
    assert family.reason == "no other family tells launch: 15 windows not predicted"


def test_left_out_intervals_cover_where_the_model_is_right() -> None:
    covered = [
        fitted(
            campaign(configuration_noise=0.01, seed=seed)
        ).document.diagnostics.coverage95_leave_one_family_out
        for seed in range(3)
    ]
    assert 0.9 <= np.mean([share for share in covered if share is not None]) <= 0.99


def test_a_missing_background_term_shows_in_the_left_out_error() -> None:
    """Without awake power in the truth's columns the error in sample stays small; left out it does not."""
    records = campaign(noise=0.002)
    blind = [
        record.model_copy(
            update={"replicates": tuple(w.model_copy(update={"active_s": 0.0}) for w in record.replicates)}
        )
        for record in records
    ]
    good, bad = fitted(records).document.diagnostics, fitted(blind).document.diagnostics
    assert good.mape_leave_one_family_out is not None
    assert bad.mape_leave_one_family_out is not None
    assert bad.mape_leave_one_family_out > 10 * good.mape_leave_one_family_out


def test_the_covariance_is_that_of_the_exported_uncertainties(
    server: tuple[list[CalibrationRecord], CostModel],
) -> None:
    _, model = server
    names = model.document.covariance.names
    u = [model.coefficients[name].standard_uncertainty for name in names]
    np.testing.assert_allclose(np.sqrt(np.diag(model.covariance(names))), u, rtol=1e-9)
    assert np.linalg.eigvalsh(model.covariance(names) / np.outer(u, u))[0] > -1e-9


def test_throughput_is_the_best_rate_seen(server: tuple[list[CalibrationRecord], CostModel]) -> None:
    _, model = server
    assert model.document.throughput["flop_fp64"] == pytest.approx(8 * 25e9)
    assert model.document.throughput["byte_l1"] == pytest.approx(8 * 60e9)
    assert model.duration_s(Work({"flop_fp64": 8 * 25e9, "byte_l1": 1.0})) == pytest.approx(1.0)


def test_the_document_says_where_the_model_holds_and_what_it_came_from(
    server: tuple[list[CalibrationRecord], CostModel],
) -> None:
    records, model = server
    document = model.document
    assert document.device == records[0].device
    assert document.domains == ("dram-0", "package-0")
    assert document.time_attribution == "active"
    assert document.records_sha256 == ("0" * 64,)
    assert document.validity.dtypes == ("fp64", "fp32")
    assert document.validity.levels == ("l1", "l2", "llc", "dram")
    assert document.validity.threads == (0, 8)
    assert document.validity.conditions == {"governor": ("performance",)}
    assert document.diagnostics.n_windows == len(records) * 7
    assert document.diagnostics.repeatability["package"] == pytest.approx(0.005, rel=0.2)


def test_it_reports_every_step() -> None:
    records = campaign(points=POINTS[:5])
    steps: list[str] = []
    fit_cost_model(records, records_sha256=[], report=steps.append)
    assert steps == ["all families", "without awake", "without duty", "without idle"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_records_are_refused_by_term_and_not_by_crashing(count: int) -> None:
    model = fitted(campaign(points=POINTS[6 : 6 + count]))
    assert any(c.status == "refused" for c in model.coefficients.values())


def test_sparse_quantised_windows_do_not_break_the_fit() -> None:
    model = fitted(campaign(quantum_j=5.0, window_s=0.5))
    assert model.coefficients["idle_w"].status == "identified"
    (idle_w,) = model.values(["idle_w"])
    assert idle_w == pytest.approx(TRUTH["idle_w"], rel=0.1)


PLACES = ("energy", "quantisation", "duration", "idle", "loops", "work", "conditions", "family")


@settings(max_examples=60, deadline=None)
@given(place=st.sampled_from(PLACES), exponent=st.integers(-300, 300), index=st.integers(0, 5))
def test_absurd_numbers_end_in_a_model_or_in_a_named_error(place: str, exponent: int, index: int) -> None:
    """Whatever a record file may hold: never a traceback, a warning or an infinite cost."""
    records = campaign(points=[POINTS[i] for i in (0, 1, 3, 6, 8, 20)])
    number = 10.0**exponent
    record = records[index]
    window = record.replicates[0]
    everywhere = dict.fromkeys(window.energy_j, number)
    changes: dict[str, dict[str, Any]] = {
        "energy": {"replicates": (window.model_copy(update={"energy_j": everywhere}),)},
        "quantisation": {"replicates": (window.model_copy(update={"quantisation_u_j": everywhere}),)},
        "duration": {"replicates": (window.model_copy(update={"duration_s": number, "active_s": 0.0}),)},
        "idle": {"idle_before": window.model_copy(update={"duration_s": number})},
        "loops": {"loops": 10 ** (abs(exponent) // 20)},
        "work": {"work_per_loop": {"byte_l1": number}},
        "conditions": {"conditions": {f"state {i}": "x" for i in range(abs(exponent))}},
        "family": {"family": "x" * max(1, abs(exponent))},
    }
    changed = record.model_copy(update=changes[place])
    try:
        records[index] = CalibrationRecord.model_validate_json(changed.model_dump_json(by_alias=True))
        model = fitted(records)
    except (ValidationError, MeasurementError, RecordsDisagreeError):
        return
    for item in model.coefficients.values():
        assert all(np.isfinite(limit) for limit in item.ci95 or ())


def test_a_random_half_of_the_plan_never_gives_a_wrong_number() -> None:
    """Whatever is left out: a number that is given agrees with the truth, or there is none."""
    records = campaign(noise=0.005)
    rng = random.Random(11)
    wrong = given = 0
    for _ in range(20):
        for name, item in coefficients_of(rng.sample(records, 16)).items():
            if item.ci95 is not None:
                given += 1
                wrong += not 0.999 * item.ci95[0] <= TRUTH[name] <= 1.001 * item.ci95[1]
    assert given > 100
    assert wrong <= 0.08 * given


def test_paths_of_the_synthetic_plan_pass_every_level() -> None:
    assert set(path("dram", 1.0, 1.0)) == {
        "byte_l1",
        "byte_l2",
        "byte_llc",
        "byte_dram_read",
        "byte_dram_write",
    }
