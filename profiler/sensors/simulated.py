"""A counter of a simulated device: it ticks, quantises, wraps, averages, drifts from the truth, and fails.

The device feeds it power over virtual time; it shows what a real counter would. With an averaging window
the sensor sees only the last part of every tick and takes it for the whole tick, as data-centre GPUs do
(Yang et al., SC'24, arXiv 2312.02741).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from calibration_data import CounterSpec
from profiler.errors import SensorPermissionError, SensorReadError
from profiler.sensors.base import Reading
from profiler.simulated_spec import Fault, SimulatedSensorSpec

SPIKE_J = 100_000.0


@dataclass(frozen=True)
class _Segment:
    """Constant power from ``start_s`` on; ``start_j`` is the true energy at that time."""

    start_s: float
    start_j: float
    power_w: float


class _Counter:
    """One domain."""

    def __init__(
        self, domain: str, spec: SimulatedSensorSpec, faults: list[Fault], rng: random.Random
    ) -> None:
        self._spec = spec
        self._faults = faults
        # The last tick before the device was made; its power then is taken to be that of its first moment.
        self._phase_s = -rng.random() * spec.update_period_s
        self._seen_j = rng.random() * (spec.range_j or 1000.0)
        self._tick = 0
        self._now_s = 0.0
        self._now_j = 0.0
        self._history: deque[_Segment] = deque()
        self._stuck_at_uj: int | None = None
        self._window_s = min(spec.averaging_window_s or spec.update_period_s, spec.update_period_s)
        self.domain = domain

    def feed(self, duration_s: float, power_w: float) -> None:
        """Let time pass at a constant power."""
        self._history.append(_Segment(self._now_s, self._now_j, power_w))
        self._now_s += duration_s
        self._now_j += duration_s * power_w
        last = int((self._now_s - self._phase_s) / self._spec.update_period_s)
        while self._tick < last:
            end_s = self._tick_s(self._tick + 1)
            if end_s - self._window_s >= self._history[-1].start_s:
                # From here on every tick lies within the newest segment.
                self._see((last - self._tick) * power_w * self._spec.update_period_s)
                self._tick = last
            else:
                seen_w = (self._true_j(end_s) - self._true_j(end_s - self._window_s)) / self._window_s
                self._see(seen_w * self._spec.update_period_s)
                self._tick += 1
        oldest_needed_s = self._tick_s(self._tick) - self._window_s
        while len(self._history) > 1 and self._history[1].start_s <= oldest_needed_s:
            self._history.popleft()

    def read_uj(self) -> int:
        """What the counter shows now, in µJ."""
        self._apply_faults()
        if self._stuck_at_uj is not None:
            return self._stuck_at_uj
        return self._shown_uj()

    def _shown_uj(self) -> int:
        quantum_uj = self._spec.quantum_j * 1e6
        shown_uj = int(int(self._seen_j * 1e6 / quantum_uj) * quantum_uj)
        return shown_uj if self._spec.range_j is None else shown_uj % int(self._spec.range_j * 1e6)

    def _see(self, energy_j: float) -> None:
        drift = 1 + self._spec.drift_rel_per_h * self._now_s / 3600
        self._seen_j += energy_j * self._spec.gain * max(0.0, drift)

    def _tick_s(self, index: int) -> float:
        return self._phase_s + index * self._spec.update_period_s

    def _true_j(self, time_s: float) -> float:
        segment = next((s for s in reversed(self._history) if s.start_s <= time_s), self._history[0])
        return segment.start_j + (time_s - segment.start_s) * segment.power_w

    def _apply_faults(self) -> None:
        for fault in [fault for fault in self._faults if fault.at_s <= self._now_s]:
            match fault.kind:
                case "vanish":
                    raise SensorReadError(f"{self.domain} has vanished.", next_step="See: calijoule devices.")
                case "permission":
                    raise SensorPermissionError(f"{self.domain} may no longer be read.")
                case "read_error":
                    self._faults.remove(fault)
                    raise SensorReadError(f"{self.domain} could not be read (simulated I/O error).")
                case "stuck":
                    self._faults.remove(fault)
                    self._stuck_at_uj = self._shown_uj()
                case "reset":
                    self._faults.remove(fault)
                    self._seen_j = 0.0
                case "spike":
                    self._faults.remove(fault)
                    self._seen_j += SPIKE_J


class SimulatedSensor:
    """All domains of a simulated device, read at one virtual instant."""

    def __init__(
        self, name: str, spec: SimulatedSensorSpec, faults: tuple[Fault, ...], rng: random.Random
    ) -> None:
        self._time_s = 0.0
        self._counters = [
            _Counter(domain, spec, [f for f in faults if f.domain in (None, domain)], rng)
            for domain in spec.domains
        ]
        self.specs = tuple(
            CounterSpec(
                domain=domain,
                interface="simulated",
                source=f"sim:{name}",
                resolution_uj=spec.quantum_j * 1e6,
                range_uj=None if spec.range_j is None else int(spec.range_j * 1e6),
                update_period_s=spec.update_period_s,
                averaging_window_s=spec.averaging_window_s,
            )
            for domain in spec.domains
        )

    def feed(self, duration_s: float, power_w: dict[str, float]) -> None:
        """Let virtual time pass at a constant power of each domain."""
        self._time_s += duration_s
        for counter in self._counters:
            counter.feed(duration_s, power_w[counter.domain])

    def read(self) -> Reading:
        """Counters at the current virtual time.

        Raises:
            SensorReadError: a scripted fault.
        """
        return Reading(
            time_ns=round(self._time_s * 1e9),
            energy_uj={counter.domain: counter.read_uj() for counter in self._counters},
        )

    def close(self) -> None:
        """Nothing to release."""
