"""Measures the phases of a client's round.

A phase of a small network takes microseconds, and a sensor ticks in milliseconds. So a phase is executed
once to see how long it takes, and then replayed:

    idle │ phase │ phase … phase │ phase phase phase phase … phase │ next phase …
    50     once    2 ticks         window of at least 20 ticks          joules of one = window / replays

A counter shows the energy up to its last tick, so a window reports what was drawn up to one tick before each
of its edges. The two ticks before it, filled with the same phase, make both edges alike; without them a
window of 20 ticks after idling would lack half a tick, 2.5 %.

A real device replays the code itself; every phase is a pure function of its input, so a replay changes
nothing. A simulated device executes the counted work in virtual time. Both are net of the idle power that
was measured just before on the same device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch

from calibration_data import (
    CalijouleError,
    MeasurementError,
    NoUsableSensorError,
    WindowReading,
    Work,
    total_domains,
)
from cwmp.seeding import derived_seed
from profiler import EnergyMeter
from profiler.device import Device
from profiler.idle import IdleBaseline, measure_idle
from profiler.simulated_device import SimulatedDevice

T = TypeVar("T")
Works = Sequence[Work]
"""Parts of a phase that follow each other."""

TICKS_PER_WINDOW = 20
IDLE_TICKS = 50
SETTLE_TICKS = 2
WARM_UP_TICKS = 2
MAX_REPLAYS = 10_000
UNKNOWN_TICK_S = 0.1
SIMULATED_EXECUTIONS = 5
"""Replays on a simulated device are joined into as many executions, each with its own run-to-run noise."""

_NOT_SEEN = (MeasurementError, NoUsableSensorError)
"""A sensor that fails or vanishes costs the joules of a phase, not the run."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What sensors saw of one execution of a phase.

    Attributes:
        energy_j: joules net of idle power; None with a reason.
        standard_uncertainty_j: of ``energy_j``.
        provenance: ``measured`` or ``simulated``; None without joules.
        replays: executions in the window.
        reason: why there are no joules.
    """

    energy_j: float | None = None
    standard_uncertainty_j: float | None = None
    provenance: Literal["measured", "simulated"] | None = None
    replays: int = 0
    reason: str | None = None


SeeWork = Callable[[Works], Seen]
"""Gives the joules of a phase once its work has been counted."""


class PhaseMeter(Protocol):
    """Runs phases and says what they took. A phase is a pure function of what it closes over."""

    def begin_client(self, round_index: int, client: int) -> None:
        """Measure the idle power before a client's round."""
        ...

    def run(self, body: Callable[[], T]) -> tuple[T, SeeWork]:
        """Run a phase for its result and its joules."""
        ...

    def replay(self, prepare: Callable[[], Callable[[], object]]) -> SeeWork:
        """Run a phase, whose result is known already, as far as its joules need it.

        Args:
            prepare: gives the phase; only called where it is run.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class NoMeter:
    """Runs phases and measures nothing."""

    reason: str = "no device was given to measure with"

    def begin_client(self, round_index: int, client: int) -> None:
        """Nothing to measure."""

    def run(self, body: Callable[[], T]) -> tuple[T, SeeWork]:
        """Run a phase once."""
        return body(), self._not_seen

    def replay(self, prepare: Callable[[], Callable[[], object]]) -> SeeWork:
        """Nothing to run."""
        return self._not_seen

    def _not_seen(self, works: Works) -> Seen:
        return Seen(reason=self.reason)


class SimulatedMeter:
    """Executes the counted work of each phase on a simulated device.

    Each client and round gets a fresh device with its own derived seed, so that a resumed run sees the same
    joules as an uninterrupted one.
    """

    def __init__(self, device: SimulatedDevice, *, seed: int, window_s: float = 0.0) -> None:
        self._seed = seed
        self._window_s = window_s
        self._device = device
        self._window = _NetWindow(device, window_s)

    def begin_client(self, round_index: int, client: int) -> None:
        """Make the device of this client and round and measure its idle power."""
        seed = derived_seed(self._seed, "device", round_index=round_index, client=client)
        self._device = SimulatedDevice(self._device.spec, name=self._device.name, seed=seed)
        self._window = _NetWindow(self._device, self._window_s)

    def run(self, body: Callable[[], T]) -> tuple[T, SeeWork]:
        """Run a phase once for its result; its work runs in virtual time."""
        return body(), self._execute

    def replay(self, prepare: Callable[[], Callable[[], object]]) -> SeeWork:
        """The work alone, in virtual time."""
        return self._execute

    def _execute(self, works: Works) -> Seen:
        parts = [work.without_times() for work in works if work.without_times()]
        if not parts:
            return Seen(energy_j=0.0, standard_uncertainty_j=0.0, provenance="simulated", replays=1)
        try:
            seconds = self._run(parts, 1.0)
            ticks = self._window.tick_s / seconds
            replays = max(1, math.ceil(self._window.wanted_s / seconds))
            executions = min(replays, SIMULATED_EXECUTIONS)
            self._run(parts, WARM_UP_TICKS * ticks)
            return self._window.measure(lambda: self._run(parts, replays / executions), executions, replays)
        except CalijouleError as error:
            return Seen(reason=str(error))

    def _run(self, parts: Works, replays: float) -> float:
        """Execute some replays as one, part by part; the virtual seconds that they took."""
        return sum(self._device.execute(part * replays).active_s for part in parts)


class SensorMeter:
    """Measures phases with the sensors of the machine that trains.

    Args:
        device: its clock and sensors. On a GPU a phase is over when its queue is empty.
        window_s: shortest window; one of 20 ticks is long enough for work of even power.
    """

    def __init__(self, device: Device, *, window_s: float = 0.0) -> None:
        self._device = device
        self._window_s = window_s
        self._window = _NetWindow(device, window_s)

    def begin_client(self, round_index: int, client: int) -> None:
        """Measure the idle power of the machine."""
        self._window = _NetWindow(self._device, self._window_s)

    def run(self, body: Callable[[], T]) -> tuple[T, SeeWork]:
        """Run a phase once for its result, and again as often as the sensors need."""
        clock, finish = self._device.clock, _finish(self._device)
        finish()
        started_ns = clock.now_ns()
        result = body()
        finish()
        seconds = max(clock.now_ns() - started_ns, 1) * 1e-9
        ticks = self._window.tick_s / seconds
        replays = min(math.ceil(self._window.wanted_s / seconds), MAX_REPLAYS)
        for _ in range(min(math.ceil(WARM_UP_TICKS * ticks), MAX_REPLAYS)):
            body()
        finish()
        try:
            seen = self._window.measure(body, replays, replays)
        except _NOT_SEEN as error:
            seen = Seen(reason=str(error))
        return result, lambda works: seen

    def replay(self, prepare: Callable[[], Callable[[], object]]) -> SeeWork:
        """Run a phase as often as the sensors need."""
        return self.run(prepare())[1]


def _finish(device: Device) -> Callable[[], None]:
    """Waits until what torch has been asked for is done; a CPU does it at once."""
    return torch.cuda.synchronize if device.kind == "cuda" else lambda: None


class _NetWindow:
    """Windows on one device, net of the idle power that was measured when this was made."""

    def __init__(self, device: Device, window_s: float) -> None:
        self._meter = EnergyMeter(device.sensors, clock=device.clock, synchronize=_finish(device))
        self._provenance = device.provenance
        periods_s = [spec.update_period_s or UNKNOWN_TICK_S for spec in self._meter.specs]
        self.tick_s = max(periods_s)
        self.wanted_s = max(TICKS_PER_WINDOW * self.tick_s, window_s)
        self._idle: IdleBaseline | MeasurementError | NoUsableSensorError
        # The tick that is running may have begun in the work before.
        device.clock.sleep(SETTLE_TICKS * self.tick_s)
        try:
            with self._meter:
                idle_s = max(IDLE_TICKS * self.tick_s, window_s)
                self._idle = measure_idle(self._meter, idle_s, sleep=device.clock.sleep)
        except _NOT_SEEN as error:
            self._idle = error

    def measure(self, execute: Callable[[], object], executions: int, replays: int) -> Seen:
        """Joules of one of ``replays`` replays that happen in so many executions.

        Raises:
            MeasurementError: the idle power or the window could not be trusted.
        """
        if isinstance(self._idle, _NOT_SEEN):
            raise self._idle
        with self._meter, self._meter.window("phase") as window:
            for _ in range(executions):
                execute()
        return self._net(window.reading, self._idle, replays)

    def _net(self, reading: WindowReading, idle: IdleBaseline, replays: int) -> Seen:
        net_j = variance = 0.0
        for domain in total_domains(reading.energy_j):
            if domain not in idle.power_w:
                raise MeasurementError(f"The counter of {domain} stood still while the device was idle.")
            net_j += reading.energy_j[domain] - idle.power_w[domain] * reading.duration_s
            variance += reading.quantisation_u_j[domain] ** 2
            variance += (idle.standard_uncertainty_w[domain] * reading.duration_s) ** 2
        return Seen(
            energy_j=net_j / replays,
            standard_uncertainty_j=math.sqrt(variance) / replays,
            provenance=self._provenance,
            replays=replays,
        )


def phase_meter(device: Device | None, *, seed: int, window_s: float = 0.0) -> PhaseMeter:
    """The meter that fits a device. Local training runs on the CPU, so only a CPU's sensors see it.

    Args:
        device: opened with its sensors; None measures nothing.
        seed: of the noise of a simulated device.
        window_s: shortest window; 20 ticks where that is longer.
    """
    if device is None:
        return NoMeter()
    if isinstance(device, SimulatedDevice):
        return SimulatedMeter(device, seed=seed, window_s=window_s)
    if device.kind != "cpu":
        return NoMeter(reason=f"local training runs on the CPU, which {device.name} does not see")
    return SensorMeter(device, window_s=window_s)
