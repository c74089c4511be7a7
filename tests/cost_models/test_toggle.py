"""Work on zeros is a band beside the costs: found where it is, and without a part in the fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration_data.families import TOGGLE_FAMILY
from calibration_data.records import CalibrationRecord
from cost_models.fitting import fit_cost_model
from cost_models.toggle import toggle_bands
from profiler.campaign import run_campaign
from profiler.plan import Plan, make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec, load_spec

KERNELS = ("idle", "spin", "fma", "load", "launch")


def device(spec: SimulatedDeviceSpec, zeros_rel: float) -> SimulatedDevice:
    sensor = spec.sensor.model_copy(update={"noise_rel": 0.002})
    return SimulatedDevice(spec.model_copy(update={"sensor": sensor, "zeros_rel": zeros_rel}), seed=1)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[CalibrationRecord]:
    simulated = device(load_spec("edge-board"), 0.5)
    full, quick = make_plan(simulated, "full"), make_plan(simulated, "quick")
    points = tuple(point for point in full.points if point.kernel in KERNELS)
    plan = Plan(name="quick", seed=0, points=points, protocol=quick.protocol)
    return list(run_campaign(simulated, plan, Path(tmp_path_factory.mktemp("toggle")) / "records.jsonl"))


def test_the_band_is_that_of_the_device(records: list[CalibrationRecord]) -> None:
    """Zeros halve the joules of operations, not those of awake cores."""
    truth = load_spec("edge-board").truth
    bands = toggle_bands(records)
    by_point = {record.point: record for record in records}
    assert len(bands) == 2
    for point, band in bands.items():
        work = by_point[point].window_work(by_point[point].replicates[0])
        of_cores = sum(truth.get(term, 0.0) * work[term] for term in ("awake_w", "core_w"))
        of_operations = sum(truth[term] * amount for term, amount in work.without_times().items())
        expected = (of_cores + of_operations / 2) / (of_cores + of_operations)
        assert band.zeros_rel == pytest.approx(expected, abs=0.03)
        assert band.ci95[1] - band.ci95[0] < 0.1


def test_no_cost_depends_on_zeros(records: list[CalibrationRecord]) -> None:
    with_zeros = fit_cost_model(records)
    without = fit_cost_model([record for record in records if record.family != TOGGLE_FAMILY])
    assert dict(with_zeros.coefficients) == dict(without.coefficients)
    assert set(with_zeros.document.diagnostics.toggle) == set(toggle_bands(records))
    assert not without.document.diagnostics.toggle
    assert TOGGLE_FAMILY not in with_zeros.document.diagnostics.families
    assert TOGGLE_FAMILY not in with_zeros.document.diagnostics.held_out


def test_zeros_without_a_partner_have_no_band(records: list[CalibrationRecord]) -> None:
    assert toggle_bands([record for record in records if record.family == TOGGLE_FAMILY]) == {}
