"""A simulated device obeys its own truth, and its counters obey a counter's physics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import InvalidFileError, UsageError, Work
from profiler.errors import SensorPermissionError, SensorReadError
from profiler.meter import EnergyMeter
from profiler.microbenchmark import Microbenchmark
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import Fault, SimulatedDeviceSpec, load_spec, shipped_names


def changed(spec: SimulatedDeviceSpec, **sensor: object) -> SimulatedDeviceSpec:
    return spec.model_copy(update={"sensor": spec.sensor.model_copy(update={"noise_rel": 0.0, **sensor})})


def joules(device: SimulatedDevice, action: object) -> dict[str, float]:
    with EnergyMeter(device.sensors, clock=device.clock) as meter, meter.window() as window:
        action()  # type: ignore[operator]
    return dict(window.reading.energy_j)


def test_idle_energy_is_idle_power_times_time(quiet_server: SimulatedDevice) -> None:
    energy_j = joules(quiet_server, lambda: quiet_server.idle(10.0))
    truth = quiet_server.spec.truth
    assert energy_j["package-0"] == pytest.approx(truth["idle_w"] * 10, rel=2e-4)
    assert energy_j["dram-0"] == pytest.approx(truth["dram_idle_w"] * 10, rel=2e-4)


def test_work_costs_its_truth_and_dram_books_its_own(quiet_server: SimulatedDevice) -> None:
    truth = quiet_server.spec.truth
    work = Work({"flop_fp32": 3e12, "byte_l1": 1e11, "byte_dram_read": 2e11})
    execution = quiet_server.execute(work)
    seconds = execution.active_s
    energy_j = joules(quiet_server, lambda: quiet_server.execute(work))
    package_j = (
        (truth["idle_w"] + truth["awake_w"] + 16 * truth["core_w"]) * seconds
        + 3e12 * truth["flop_fp32"]
        + 1e11 * truth["byte_l1"]
    )
    dram_j = truth["dram_idle_w"] * seconds + 2e11 * truth["byte_dram_read"]
    assert energy_j["package-0"] == pytest.approx(package_j, rel=1e-3)
    assert energy_j["dram-0"] == pytest.approx(dram_j, rel=1e-3)


def test_without_a_dram_domain_everything_is_on_the_package(server_spec: SimulatedDeviceSpec) -> None:
    work = Work({"byte_dram_read": 2e11})
    both = SimulatedDevice(changed(server_spec))
    one = SimulatedDevice(changed(server_spec, domains=("package-0",)))
    split_j = joules(both, lambda: both.execute(work))
    assert joules(one, lambda: one.execute(work))["package-0"] == pytest.approx(
        sum(split_j.values()), rel=1e-3
    )


def test_the_slowest_resource_decides_the_time(quiet_server: SimulatedDevice) -> None:
    rates = quiet_server.spec.rates
    slow = Work({"byte_dram_read": rates["byte_dram_read"], "flop_fp32": rates["flop_fp32"] / 10})
    assert quiet_server.execute(slow).active_s == pytest.approx(1.0)
    assert quiet_server.execute(Work({"flop_fp32": rates["flop_fp32"]}), threads=4).active_s == pytest.approx(
        4
    )


@given(
    seconds=st.lists(st.floats(0.0003, 3.0), min_size=1, max_size=8),
    tick_s=st.sampled_from([0.001, 0.013, 0.1]),
    averaging_s=st.sampled_from([None, 0.025]),
)
def test_a_counter_is_never_a_tick_or_quantum_away_from_steady_power(
    seconds: list[float], tick_s: float, averaging_s: float | None
) -> None:
    spec = changed(load_spec("server-cpu"), update_period_s=tick_s, averaging_window_s=averaging_s)
    device = SimulatedDevice(spec)
    before = device.sensors[0].read().energy_uj["package-0"]
    for duration_s in seconds:
        device.idle(duration_s)
    shown_j = (device.sensors[0].read().energy_uj["package-0"] - before) * 1e-6
    true_j = spec.truth["idle_w"] * sum(seconds)
    assert abs(shown_j - true_j) <= spec.truth["idle_w"] * tick_s + 2 * spec.sensor.quantum_j


def test_a_partial_averaging_window_misses_what_it_does_not_see(server_spec: SimulatedDeviceSpec) -> None:
    spec = changed(server_spec, update_period_s=0.1, averaging_window_s=0.025)
    work = Work({"flop_fp32": spec.rates["flop_fp32"] * 0.05})
    truth = spec.truth
    busy_w = truth["awake_w"] + 16 * truth["core_w"] + spec.rates["flop_fp32"] * truth["flop_fp32"]
    true_j = 20 * truth["idle_w"] + 10 * busy_w

    def seen_j(seed: int) -> float:
        device = SimulatedDevice(spec, seed=seed)

        def pulses() -> None:
            for _ in range(200):
                device.execute(work)
                device.idle(0.05)

        return joules(device, pulses)["package-0"]

    # In phase with the tick, what is seen depends on where the pulse falls in it.
    seen = [seen_j(seed) / true_j for seed in range(12)]
    assert max(seen) > 1.2
    assert min(seen) < 0.8


def test_gain_scales_what_is_shown(server_spec: SimulatedDeviceSpec) -> None:
    device = SimulatedDevice(changed(server_spec, gain=1.05))
    assert joules(device, lambda: device.idle(10.0))["package-0"] == pytest.approx(45.0 * 10 * 1.05, rel=1e-3)


def test_windows_stay_exact_through_many_wraps(server_spec: SimulatedDeviceSpec) -> None:
    device = SimulatedDevice(changed(server_spec, range_j=500.0))
    energy_j = joules(device, lambda: device.idle(100.0))["package-0"]
    assert energy_j == pytest.approx(4500.0, rel=1e-4)


def test_noise_varies_from_run_to_run_with_the_stated_deviation(server_spec: SimulatedDeviceSpec) -> None:
    device = SimulatedDevice(server_spec, seed=3)
    relative = [joules(device, lambda: device.idle(1.0))["package-0"] / 45.0 - 1 for _ in range(400)]
    deviation = (sum(value**2 for value in relative) / len(relative)) ** 0.5
    assert deviation == pytest.approx(0.01, rel=0.15)


def test_one_seed_gives_the_same_joules(server_spec: SimulatedDeviceSpec) -> None:
    first, second = (SimulatedDevice(server_spec, seed=7) for _ in range(2))
    assert joules(first, lambda: first.idle(1.0)) == joules(second, lambda: second.idle(1.0))
    other = SimulatedDevice(server_spec, seed=8)
    assert joules(first, lambda: first.idle(1.0)) != joules(other, lambda: other.idle(1.0))


@pytest.mark.parametrize(
    ("kind", "error"),
    [("read_error", SensorReadError), ("vanish", SensorReadError), ("permission", SensorPermissionError)],
)
def test_a_fault_raises_and_never_reads_as_zero(
    server_spec: SimulatedDeviceSpec, kind: str, error: type[Exception]
) -> None:
    fault = Fault.model_validate({"kind": kind, "at_s": 1.0, "domain": "package-0"})
    device = SimulatedDevice(changed(server_spec).model_copy(update={"faults": (fault,)}))
    device.sensors[0].read()
    device.idle(2.0)
    with pytest.raises(error):
        device.sensors[0].read()


def test_a_stuck_counter_stands_still(server_spec: SimulatedDeviceSpec) -> None:
    fault = Fault(kind="stuck", at_s=1.0, domain="package-0")
    device = SimulatedDevice(changed(server_spec).model_copy(update={"faults": (fault,)}))
    device.idle(2.0)
    first = device.sensors[0].read().energy_uj["package-0"]
    device.idle(2.0)
    assert device.sensors[0].read().energy_uj["package-0"] == first


def test_throttling_slows_and_says_so(server_spec: SimulatedDeviceSpec) -> None:
    spec = changed(server_spec).model_copy(update={"faults": (Fault(kind="throttle", at_s=0.0),)})
    device = SimulatedDevice(spec)
    kernel = device.prepare(Microbenchmark(point="fma", family="fma", kernel="fma", threads=16, dtype="fp32"))
    slow = kernel.run(10_000)
    device.idle(20.0)
    fast = kernel.run(10_000)
    assert slow.throttled
    assert not fast.throttled
    assert slow.active_s == pytest.approx(2 * fast.active_s)


def test_work_without_a_true_cost_is_refused_by_name(quiet_server: SimulatedDevice) -> None:
    with pytest.raises(UsageError, match="flop_int8"):
        quiet_server.execute(Work({"flop_int8": 1.0}))


def test_a_device_accounts_by_its_truth_what_its_counters_show(server_spec: SimulatedDeviceSpec) -> None:
    sensor = server_spec.sensor.model_copy(update={"noise_rel": 0.0})
    device = SimulatedDevice(server_spec.model_copy(update={"sensor": sensor}))
    work = Work({"flop_fp32": 1e12, "byte_l1": 3e12, "byte_dram_read": 2e11, "launch": 1e6})
    with EnergyMeter(device.sensors, clock=device.clock) as meter, meter.window("work") as window:
        device.execute(work)
    assert device.true_energy_j(work) == pytest.approx(window.reading.total_j, rel=1e-3)
    assert device.true_energy_j(work * 2) == pytest.approx(2 * device.true_energy_j(work))
    assert device.true_energy_j(Work()) == 0
    with pytest.raises(UsageError, match="flop_int8"):
        device.true_energy_j(Work({"flop_int8": 1.0}))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_devices_load(name: str) -> None:
    assert load_spec(name).name == name


def test_a_missing_device_names_what_there_is() -> None:
    with pytest.raises(UsageError, match="server-cpu"):
        load_spec("no-such-device")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"truth": {"idle_w": -1.0}}, "truth"),
        ({"truth": {"warp_drive": 1.0, "idle_w": 1.0}}, "truth"),
        ({"truth": {"awake_w": 1.0}}, "truth"),
        ({"schema_version": 2}, "schema_version"),
        ({"memory": {"l1_bytes": 0, "l2_bytes": 1, "line_bytes": 64, "cores": 1}}, "memory"),
        ({"sensor": {"domains": []}}, "domains"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_bad_device_file_names_the_field(tmp_path: Path, change: dict[str, object], field: str) -> None:
    good = load_spec("edge-board").model_dump(mode="json", by_alias=True)
    path = tmp_path / "device.json"
    path.write_text(json.dumps(good | change))
    with pytest.raises(InvalidFileError, match=field):
        load_spec(str(path))
