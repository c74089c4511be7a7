from __future__ import annotations

import random

import numpy as np
import pytest
from fakes.synthetic_records import POINTS, TRUTH, campaign

from calibration_data import CounterSpec, MeasurementError
from calibration_data.records import CalibrationRecord
from calibration_data.terms import DRAM_TERMS
from cost_models import RecordsDisagreeError
from cost_models.design_matrix import (
    DEFAULT_REPEATABILITY,
    MIN_REPEATABILITY,
    Column,
    DesignMatrix,
    build_design_matrix,
    sorted_records,
)


def design_of(records: list[CalibrationRecord]) -> DesignMatrix:
    return build_design_matrix(sorted_records(records))


def test_the_true_costs_solve_a_noise_free_system_exactly() -> None:
    design = design_of(campaign(noise=0.0))
    # What DRAM terms cost the package is zero in this truth: their shares are all in the DRAM domain.
    costs = [
        0.0 if column.side == "package" and column.term in DRAM_TERMS else TRUTH[column.term]
        for column in design.columns
    ]
    np.testing.assert_allclose(design.matrix @ costs, design.energy_j, rtol=1e-12)


def test_there_is_one_row_per_window_and_response() -> None:
    records = campaign(replicates=4)
    design = design_of(records)
    assert len(design.energy_j) == 2 * len(records) * (4 + 2)
    assert sorted(np.bincount(design.windows)) == [2] * (len(records) * 6)


def test_a_dram_domain_gives_dram_terms_two_shares_and_idle_power_of_its_own() -> None:
    columns = design_of(campaign()).columns
    for term in ("byte_dram_read", "byte_dram_write", "line_random_dram"):
        assert {Column("package", term), Column("dram", term)} <= set(columns)
    assert Column("dram", "dram_idle_w") in columns
    assert Column("package", "dram_idle_w") not in columns
    assert Column("dram", "byte_l1") not in columns


def test_without_a_dram_domain_idle_dram_is_no_term() -> None:
    design = design_of(campaign(domains=("package-0",)))
    assert "dram_idle_w" not in design.terms
    assert {column.side for column in design.columns} == {"package"}


def test_core_and_psys_are_never_added() -> None:
    plain = design_of(campaign(domains=("package-0",), noise=0.0))
    nested = design_of(campaign(domains=("package-0", "core-0", "psys"), noise=0.0))
    np.testing.assert_array_equal(plain.energy_j, nested.energy_j)


def test_several_packages_are_one_response() -> None:
    one = design_of(campaign(domains=("package-0", "dram-0"), noise=0.0))
    two = design_of(campaign(domains=("package-0", "package-1", "dram-0", "dram-1"), noise=0.0))
    np.testing.assert_allclose(one.energy_j, two.energy_j, rtol=1e-12)


def test_repeatability_is_the_scatter_that_was_put_in() -> None:
    design = design_of(campaign(noise=0.02, replicates=20, domains=("package-0", "dram-0")))
    assert design.repeatability["package"] == pytest.approx(0.02, rel=0.1)
    assert design.repeatability["dram"] == pytest.approx(0.02, rel=0.1)


def test_the_scatter_of_the_tick_is_not_counted_twice() -> None:
    records = campaign(noise=0.01, quantum_j=5.0, replicates=20, domains=("package-0",))
    assert design_of(records).repeatability["package"] == pytest.approx(0.01, rel=0.3)


def test_repeatability_has_a_floor_and_a_default() -> None:
    assert design_of(campaign(noise=0.0)).repeatability["package"] == MIN_REPEATABILITY
    assert design_of(campaign(replicates=1)).repeatability["package"] == DEFAULT_REPEATABILITY


def test_quantisation_adds_over_the_domains_of_a_side() -> None:
    design = design_of(campaign(domains=("package-0", "package-1"), quantum_j=0.6))
    np.testing.assert_allclose(design.quantisation_u_j, 0.6 / np.sqrt(6) * np.sqrt(2))


def test_dropped_and_warm_up_windows_do_not_count() -> None:
    records = campaign(noise=0.0)
    wild = (
        records[3]
        .replicates[0]
        .model_copy(update={"energy_j": {"package-0": 1e6, "dram-0": 1e6}, "notes": ("throttled",)})
    )
    spoiled = [
        *records[:3],
        records[3].model_copy(update={"dropped": (wild,), "warm_ups": (wild,)}),
        *records[4:],
    ]
    np.testing.assert_array_equal(design_of(records).energy_j, design_of(spoiled).energy_j)


def test_the_order_of_the_records_does_not_matter() -> None:
    records = campaign()
    shuffled = random.Random(1).sample(records, len(records))
    one, other = design_of(records), design_of(shuffled)
    np.testing.assert_array_equal(one.matrix, other.matrix)
    np.testing.assert_array_equal(one.energy_j, other.energy_j)


def changed(record: CalibrationRecord, **fields: object) -> CalibrationRecord:
    return record.model_copy(update=fields)


def test_records_of_different_devices_are_refused() -> None:
    records = campaign()
    other = records[0].device.model_copy(update={"model_name": "another"})
    with pytest.raises(RecordsDisagreeError, match="differ in their device"):
        sorted_records([*records, changed(records[0], device=other)])


def test_measured_and_simulated_records_do_not_mix() -> None:
    records = campaign()
    with pytest.raises(RecordsDisagreeError, match="differ in their provenance"):
        sorted_records([*records, changed(records[0], provenance="simulated")])


def test_a_simulated_device_cannot_have_measured_records() -> None:
    simulated = [changed(record, provenance="measured") for record in campaign(kind="simulated")]
    with pytest.raises(RecordsDisagreeError, match="'simulated'"):
        sorted_records(simulated)


def test_records_with_other_domains_are_refused() -> None:
    with pytest.raises(RecordsDisagreeError, match="differ in their domains"):
        sorted_records([*campaign(), *campaign(domains=("package-0",), seed=1)])


def test_a_record_given_twice_is_refused() -> None:
    records = campaign()
    with pytest.raises(RecordsDisagreeError, match="given twice"):
        sorted_records([*records, records[5]])


def test_no_records_are_refused() -> None:
    with pytest.raises(RecordsDisagreeError, match="no record"):
        sorted_records([])


def test_without_package_and_gpu_there_is_no_total() -> None:
    with pytest.raises(RecordsDisagreeError, match="no package and no GPU"):
        design_of(campaign(domains=("dram-0",)))
    with pytest.raises(RecordsDisagreeError, match="no package and no GPU"):
        design_of(campaign(domains=("core-0", "psys")))


def test_a_counter_that_stands_still_is_named() -> None:
    records = campaign(points=POINTS[:3])
    stuck = records[1].replicates[0].model_copy(update={"energy_j": {"package-0": 50.0, "dram-0": 0.0}})
    records[1] = changed(records[1], replicates=(stuck,))
    with pytest.raises(MeasurementError, match="spin-t1: the dram counter stood still"):
        design_of(records)


def test_a_sensor_may_list_domains_in_any_order() -> None:
    records = campaign()
    turned = [changed(r, sensors=tuple(reversed(r.sensors))) for r in records]
    assert isinstance(turned[0].sensors[0], CounterSpec)
    np.testing.assert_array_equal(design_of(records).energy_j, design_of(turned).energy_j)
