import math

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import MeasurementError, Work
from cwmp.budget import PHASES
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.networks import build_network
from cwmp.selection.budgeted import plan_budget, select_within
from cwmp.training.local_training import LocalSettings
from cwmp.training.phase_energy import PhaseEnergy, summed_energy
from cwmp.training.phase_meter import (
    TICKS_PER_WINDOW,
    NoMeter,
    PhaseMeter,
    Seen,
    SensorMeter,
    SimulatedMeter,
    phase_meter,
)
from cwmp.training.phases import aggregate_works, client_energy, client_works
from cwmp.training.training_work import step_work
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import Fault, load_spec

WORK = Work({"byte_l1": 4e6, "byte_l2": 1e6, "flop_fp32": 1e6, "launch": 3})


def device(
    name: str = "server-cpu", noise_rel: float = 0.0, *faults: Fault, seed: int = 0
) -> SimulatedDevice:
    spec = load_spec(name)
    sensor = spec.sensor.model_copy(update={"noise_rel": noise_rel, "quantum_j": 1e-9})
    spec = spec.model_copy(update={"sensor": sensor, "faults": faults})
    return SimulatedDevice(spec, name=f"sim:{name}", seed=seed)


def true_net_j(on: SimulatedDevice, work: Work) -> float:
    """Joules of some work beyond idling, from the device's own truth and rates."""
    truth = on.spec.truth
    seconds = max(amount / on.spec.rate(term) for term, amount in work.items())
    power_w = truth["awake_w"] + truth["core_w"] * on.memory.cores
    return sum(truth[term] * amount for term, amount in work.items()) + power_w * seconds


def seen_by(meter: PhaseMeter, *works: Work) -> Seen:
    meter.begin_client(1, 0)
    return meter.run(lambda: None)[1](works)


@pytest.mark.parametrize("name", ["server-cpu", "edge-board"])
def test_a_simulated_phase_costs_what_the_device_truly_spends(name: str) -> None:
    """Far shorter than a tick (microseconds against milliseconds), and still right within its uncertainty."""
    on = device(name)
    seen = seen_by(SimulatedMeter(on, seed=1), WORK)
    assert seen.energy_j == pytest.approx(true_net_j(on, WORK), rel=2e-3)
    assert seen.provenance == "simulated"
    assert seen.replays > 1
    parts = seen_by(SimulatedMeter(on, seed=1), WORK, Work(), WORK * 2)
    assert parts.energy_j == pytest.approx(3 * true_net_j(on, WORK), rel=2e-3)


def test_a_longer_window_sees_parts_of_unequal_power_alike() -> None:
    """Parts of about a tick each: whole ticks at the edges of a short window are of one part or another."""
    on = device()
    parts = (Work({"flop_fp32": 2e9}), Work({"byte_dram_read": 2e8}), Work({"launch": 2e4}))
    true_j = sum(true_net_j(on, part) for part in parts)
    long = seen_by(phase_meter(on, seed=1, window_s=20.0), *parts)
    short = seen_by(phase_meter(on, seed=1), *parts)
    assert long.replays > 100 * short.replays
    assert long.energy_j == pytest.approx(true_j, rel=2e-3)
    assert long.standard_uncertainty_j < short.standard_uncertainty_j / 10


def test_a_real_phase_is_replayed_until_the_sensor_can_see_it() -> None:
    """The same meter as for real sensors, on a device whose code takes virtual time when it is called."""
    on, work = device(), WORK * 100
    meter = SensorMeter(on)
    meter.begin_client(1, 0)
    calls = 0

    def body() -> str:
        nonlocal calls
        calls += 1
        on.execute(work)
        return "result"

    result, see = meter.run(body)
    seen = see((Work(),))
    assert result == "result"
    assert seen.energy_j == pytest.approx(true_net_j(on, work), rel=2e-3)
    seconds = on.duration_s(work, on.memory.cores)
    assert seen.replays * seconds >= TICKS_PER_WINDOW * 0.001
    assert calls > seen.replays
    assert math.isclose(seen.replays * seconds, TICKS_PER_WINDOW * 0.001, rel_tol=0.01)


def test_uncertainty_covers_the_truth_with_noise_and_ticks() -> None:
    covered = 0
    clients = 60
    meter = SimulatedMeter(device(noise_rel=0.002), seed=3)
    for client in range(clients):
        meter.begin_client(1, client)
        seen = meter.run(lambda: None)[1]((WORK,))
        assert seen.energy_j is not None
        assert seen.standard_uncertainty_j is not None
        covered += abs(seen.energy_j - true_net_j(device(), WORK)) <= 2 * seen.standard_uncertainty_j
    assert covered >= 0.9 * clients


def test_joules_depend_on_seed_round_and_client_alone() -> None:
    def joules(seed: int, round_index: int, client: int) -> float | None:
        meter = SimulatedMeter(device(noise_rel=0.01, seed=99), seed=seed)
        meter.begin_client(5, 5)
        meter.run(lambda: None)[1]((WORK,))
        meter.begin_client(round_index, client)
        return meter.run(lambda: None)[1]((WORK,)).energy_j

    assert joules(1, 2, 3) == joules(1, 2, 3)
    assert len({joules(1, 2, 3), joules(2, 2, 3), joules(1, 3, 3), joules(1, 2, 4)}) == 4


def test_missing_joules_have_a_reason() -> None:
    assert seen_by(NoMeter(), WORK).reason == "no device was given to measure with"
    without_truth = seen_by(SimulatedMeter(device("edge-board"), seed=0), Work({"byte_llc": 1e6}))
    assert without_truth.energy_j is None
    assert "no true cost for byte_llc" in str(without_truth.reason)
    broken = SensorMeter(device("server-cpu", 0.0, Fault(kind="vanish", at_s=0.06)))
    broken.begin_client(1, 0)
    result, see = broken.run(lambda: 7)
    assert result == 7
    assert see(()).energy_j is None
    assert "vanished" in str(see(()).reason)


def test_a_phase_that_fails_fails() -> None:
    meter = SensorMeter(device())
    meter.begin_client(1, 0)

    def body() -> None:
        raise MeasurementError("of its own")

    with pytest.raises(MeasurementError, match="of its own"):
        meter.run(body)


def test_the_meter_fits_the_device() -> None:
    assert isinstance(phase_meter(device(), seed=0), SimulatedMeter)
    assert isinstance(phase_meter(None, seed=0), NoMeter)


# predictions


def priced(boundary: str = "update", **model: object) -> CostVector:
    return cost_vector(
        build_network("mlp"),
        known_cost_model(**model),  # type: ignore[arg-type]
        boundary="update" if boundary == "update" else "update+uplink",
        density=1.0,
        link=None if boundary == "update" else "lte-2012",
    )


def phases_of(costs: CostVector, meter: PhaseMeter) -> tuple[dict[str, PhaseEnergy], float]:
    """Joules by phase of one selection, and those that the budget limits."""
    budget = plan_budget(costs, rule="cwmp", budget_j=None, budget_fraction=0.2, confidence=0.95)
    wanted = {
        name: torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
        for name, p in build_network("mlp").named_parameters()
    }
    choice = select_within(wanted, budget, rule="cwmp", seed=0)
    settings = LocalSettings(epochs=1, batch_size=32, learning_rate=0.1)
    training = step_work(
        build_network("mlp"),
        sample_shape=(64,),
        classes=10,
        batch_size=32,
        settings=settings,
        memory=costs.pricing.memory,
    ).work
    works = client_works(costs, choice.cost, choice.selection.masks, training, 8 * choice.selection.kept)
    meter.begin_client(1, 0)
    see = {phase: meter.replay(lambda: None) for phase in PHASES}
    energy = client_energy(costs, choice.cost, works, {phase: see[phase](works[phase]) for phase in PHASES})
    return {phase: energy[phase] for phase in PHASES}, choice.cost.total_j.value


@pytest.mark.parametrize("boundary", ["update", "update+uplink"])
def test_select_pack_uplink_and_apply_are_what_the_budget_limits(boundary: str) -> None:
    energy, limited_j = phases_of(priced(boundary), NoMeter())
    parts = [energy[phase].predicted_j or 0.0 for phase in ("select", "pack", "uplink", "apply")]
    assert sum(parts) == pytest.approx(limited_j, rel=1e-12)
    assert (parts[2] > 12.76) if boundary == "update+uplink" else parts[2] == 0.0


def test_a_perfect_model_predicts_what_the_simulated_device_spends() -> None:
    energy, _ = phases_of(priced(), SimulatedMeter(device(), seed=0))
    for phase in ("train", "select", "pack", "aggregate", "apply"):
        assert energy[phase].predicted_j == pytest.approx(energy[phase].measured_j, rel=2e-3)


def test_what_the_model_does_not_know_has_a_reason_and_no_number() -> None:
    energy, _ = phases_of(priced(refused=frozenset({"flop_fp64"})), NoMeter())
    assert energy["aggregate"].predicted_j is None
    assert "flop_fp64" in str(energy["aggregate"].reason)
    assert energy["apply"].predicted_j is not None


def test_the_server_reads_the_message_and_touches_the_lines_of_its_sum() -> None:
    costs = priced()
    masks = {name: torch.zeros(part.layout.shape) > 0 for name, part in costs.tensors.items()}
    masks["2.weight"].view(-1)[[0, 1, 8]] = True  # float64: two lines of eight
    reading, *adding = aggregate_works(costs, masks, 24)
    assert dict(reading) == {"byte_l1": 24.0, "byte_l2": 24.0, "launch": 1.0}
    touched = adding[list(costs.tensors).index("2.weight")]
    # 1280 float64 and their message are 20 KB: they live in the first level
    assert dict(touched) == {"byte_l1": 3 * 16.0, "flop_fp64": 6.0}
    assert all(not work for name, work in zip(costs.tensors, adding, strict=True) if name != "2.weight")


def test_sums_of_phases() -> None:
    known = PhaseEnergy(
        predicted_j=1.0,
        predicted_u_j=0.25,
        measured_j=2.0,
        measured_u_j=0.3,
        provenance="simulated",
        replays=2,
    )
    other = known.model_copy(update={"measured_u_j": 0.4})
    unseen = PhaseEnergy(predicted_j=1.0, predicted_u_j=0.25, reason="no sensor")
    everywhere = dict.fromkeys(PHASES, known)
    total = summed_energy([everywhere, {**everywhere, "pack": other, "train": unseen}])
    assert total["pack"].predicted_u_j == 0.5  # the same coefficients: linear
    assert total["pack"].measured_u_j == pytest.approx(0.5)  # windows of their own: in quadrature
    assert (total["pack"].measured_j, total["pack"].replays) == (4.0, 4)
    assert total["train"].measured_j is None
    assert total["train"].predicted_j == 2.0
    assert total["train"].reason == "no sensor"
