"""Joules of whole rounds, predicted by models fitted to a campaign, against what the device truly spends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from calibration_data import Work
from cost_models import fit_cost_model
from cwmp.config import training_config
from cwmp.training.federated import initial_state, run_round
from cwmp.training.federation import build_federation
from cwmp.training.phase_meter import Seen, SeeWork, Works
from profiler.campaign import run_campaign
from profiler.devices import open_device
from profiler.plan import make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import load_spec

T = TypeVar("T")


class TruthMeter:
    """Accounts each phase by the device's own costs, without noise and without a sensor."""

    def __init__(self, device: SimulatedDevice) -> None:
        self.device = device

    def begin_client(self, round_index: int, client: int) -> None:
        pass

    def run(self, body: Callable[[], T]) -> tuple[T, SeeWork]:
        return body(), self.truth

    def replay(self, body: Callable[[], object]) -> SeeWork:
        return self.truth

    def truth(self, works: Works) -> Seen:
        return Seen(energy_j=sum(map(self.net_j, works)), provenance="simulated")

    def net_j(self, work: Work) -> float:
        truth = self.device.spec.truth
        idle_w = truth["idle_w"] + truth.get("dram_idle_w", 0.0)
        seconds = self.device.duration_s(work, self.device.memory.cores)
        return self.device.true_energy_j(work) - idle_w * seconds


@pytest.mark.parametrize(
    ("name", "network"), [("server-cpu", "mlp"), ("edge-board", "cnn"), ("datacenter-gpu", "mlp")]
)
def test_a_rounds_joules_are_those_that_the_device_spends(name: str, network: str, tmp_path: Path) -> None:
    campaign = open_device(f"sim:{name}")
    model = fit_cost_model(run_campaign(campaign, make_plan(campaign, "quick"), tmp_path / "records.jsonl"))
    config = training_config(network=network, clients=3, budget_fraction=0.1, local_epochs=1, rounds=1)
    built = build_federation(config, model)
    federation = replace(built, meter=TruthMeter(SimulatedDevice(load_spec(name))))
    _, report = run_round(federation, initial_state(federation))
    phases = [energy for phase, energy in report.energy.items() if phase != "uplink"]
    predicted_j = math.fsum(energy.predicted_j or math.nan for energy in phases)
    true_j = math.fsum(energy.measured_j or math.nan for energy in phases)
    assert predicted_j == pytest.approx(true_j, rel=0.05)
    for energy in phases:
        assert energy.predicted_j is not None
        assert energy.measured_j is not None
        assert energy.predicted_u_j is not None
        assert energy.predicted_j == pytest.approx(energy.measured_j, rel=0.05)
        assert abs(energy.predicted_j - energy.measured_j) < 4 * energy.predicted_u_j
        # An interval that anything would be inside says nothing.
        assert energy.predicted_u_j < 0.05 * energy.predicted_j
