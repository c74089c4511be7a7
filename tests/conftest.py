from __future__ import annotations

import random
from pathlib import Path

import pytest

from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import SimulatedDeviceSpec, load_spec


@pytest.fixture
def server_spec() -> SimulatedDeviceSpec:
    return load_spec("server-cpu")


@pytest.fixture
def quiet_server(server_spec: SimulatedDeviceSpec) -> SimulatedDevice:
    """The shipped server without run-to-run noise."""
    sensor = server_spec.sensor.model_copy(update={"noise_rel": 0.0})
    return SimulatedDevice(server_spec.model_copy(update={"sensor": sensor}), name="sim:server-cpu")


@pytest.fixture
def rng() -> random.Random:
    return random.Random(20260323)


@pytest.fixture
def records_path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"
