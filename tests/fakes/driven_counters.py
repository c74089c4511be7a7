"""Counters of known power over time, computed when they are read: no thread drives them.

A counter ticks with jitter, shows whole steps, starts again at its range, may see only the last part of each
update period, and may fail in named ways at a scripted time. Reading takes time, on a virtual clock that
moves by it or on the machine's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Literal, Protocol

from calibration_data import CounterSpec
from profiler.clock import Clock
from profiler.errors import SensorReadError
from profiler.sensors.base import Reading

FaultKind = Literal["stuck", "reset", "jump back", "jump ahead", "read error", "vanish", "slow read"]


class Power(Protocol):
    """Power over time, known by its integral."""

    def energy_j(self, time_s: float) -> float:
        """Energy from 0 to ``time_s``."""
        ...


@dataclass(frozen=True)
class Steady:
    power_w: float

    def energy_j(self, time_s: float) -> float:
        return self.power_w * time_s


@dataclass(frozen=True)
class SquareWave:
    high_w: float
    low_w: float
    period_s: float = 0.173
    phase_s: float = 0.0

    def energy_j(self, time_s: float) -> float:
        periods, rest_s = divmod(time_s + self.phase_s, self.period_s)
        half_s = self.period_s / 2
        whole_j = periods * half_s * (self.high_w + self.low_w)
        return whole_j + min(rest_s, half_s) * self.high_w + max(0.0, rest_s - half_s) * self.low_w


@dataclass
class Switched:
    """Power that a test switches, for work between idle times."""

    clock: Clock
    power_w: float
    _since_s: float = 0.0
    _steps: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._steps.append((self.clock.now_ns() * 1e-9, 0.0, self.power_w))

    def switch(self, power_w: float) -> None:
        now_s = self.clock.now_ns() * 1e-9
        self._steps.append((now_s, self.energy_j(now_s), power_w))

    def energy_j(self, time_s: float) -> float:
        start_s, start_j, power_w = next(
            (step for step in reversed(self._steps) if step[0] <= time_s), self._steps[0]
        )
        return start_j + (time_s - start_s) * power_w


class ReadingClock:
    """Virtual time that moves when something sleeps, or reads."""

    def __init__(self) -> None:
        self._now_ns = 10**9
        self._actions: list[tuple[int, int, Callable[[], None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        until_ns = self._now_ns + round(seconds * 1e9)
        while self._actions and min(self._actions)[0] <= until_ns:
            due_ns, period_ns, action = min(self._actions, key=lambda entry: entry[0])
            self._actions.remove((due_ns, period_ns, action))
            self._now_ns = max(self._now_ns, due_ns)
            action()
            self._actions.append((self._now_ns + period_ns, period_ns, action))
        self._now_ns = max(self._now_ns, until_ns)

    def pass_time(self, seconds: float) -> None:
        """Let time pass without anything that is due, as within a read."""
        self._now_ns += round(seconds * 1e9)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        period_ns = round(period_s * 1e9)
        self._actions.append((self._now_ns + period_ns, period_ns, action))

        def stop() -> None:
            self._actions = [entry for entry in self._actions if entry[2] != action]

        return stop


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: FaultKind
    at_s: float


class DrivenCounter:
    """One domain.

    Args:
        power: what it counts.
        tick_s: mean update period.
        jitter: each tick comes up to this part of the period early or late.
        phase: of the ticks, in periods.
        quantum_uj: smallest step.
        range_uj: it starts again at 0 here.
        averaging_s: it sees only this last part of each period, and takes it for the whole.
        fault: what breaks, and when.
    """

    def __init__(
        self,
        power: Power,
        *,
        tick_s: float = 0.001,
        jitter: float = 0.0,
        phase: float = 0.0,
        quantum_uj: float = 61.03515625,
        range_uj: int | None = 262_143_328_850,
        offset_uj: int = 0,
        averaging_s: float | None = None,
        fault: Fault | None = None,
        seed: int = 0,
    ) -> None:
        self.power = power
        self.tick_s = tick_s
        self.quantum_uj = quantum_uj
        self.range_uj = range_uj
        self.fault = fault
        self._jitter = jitter
        self._phase = phase
        self._offset_uj = offset_uj
        self.averaging_s = averaging_s
        self._summed, self._sum_j = -1, 0.0
        self._seed = seed

    def at_uj(self, time_s: float) -> int:
        """What it shows."""
        fault = self.fault
        failed = fault is not None and time_s >= fault.at_s
        if fault is not None and failed and fault.kind in ("read error", "vanish"):
            raise SensorReadError(f"The counter answers: {fault.kind}.")
        if fault is not None and failed and fault.kind == "stuck":
            time_s = fault.at_s
        energy_uj = self._seen_j(time_s) * 1e6 + self._offset_uj
        if fault is not None and failed and fault.kind == "reset":
            energy_uj -= self._seen_j(fault.at_s) * 1e6 + self._offset_uj
        if fault is not None and failed and fault.kind == "jump back":
            energy_uj -= 20e6
        if fault is not None and failed and fault.kind == "jump ahead":
            energy_uj += 5e10
        shown_uj = floor(floor(energy_uj / self.quantum_uj) * self.quantum_uj)
        return shown_uj if self.range_uj is None else shown_uj % self.range_uj

    def _seen_j(self, time_s: float) -> float:
        index = floor(time_s / self.tick_s - self._phase) + 1
        while self._tick_s(index) > time_s:
            index -= 1
        if self.averaging_s is None:
            return self.power.energy_j(self._tick_s(index))
        if index < self._summed:
            self._summed, self._sum_j = -1, 0.0
        share = self.tick_s / self.averaging_s
        for number in range(self._summed + 1, index + 1):
            end_s = (number + self._phase) * self.tick_s
            seen_j = self.power.energy_j(end_s) - self.power.energy_j(end_s - self.averaging_s)
            self._sum_j += share * seen_j
        self._summed = index
        return self._sum_j

    def _tick_s(self, index: int) -> float:
        # Early or late by a multiplicative hash of the index (Knuth, TAOCP vol. 3, 6.4): quick to compute.
        early = ((index * 2654435761 + self._seed) % 2**32 / 2**31 - 1) * self._jitter
        return (index + self._phase + early) * self.tick_s


class DrivenSensor:
    """Some counters, read one after the other.

    Args:
        counters: by domain.
        clock: theirs; a ``ReadingClock`` moves by the time that a read takes.
        read_s: time for one counter, drawn up to a third longer or shorter.
        nominal_s: update period that the specs claim; that of the counter if None.
    """

    def __init__(
        self,
        counters: Mapping[str, DrivenCounter],
        clock: Clock,
        *,
        read_s: float = 10e-6,
        nominal_s: float | None = None,
        seed: int = 0,
    ) -> None:
        self.counters = dict(counters)
        self.reads = 0
        self._clock = clock
        self._read_s = read_s
        self._rng = random.Random(seed)
        self.specs: Sequence[CounterSpec] = tuple(
            CounterSpec(
                domain=domain,
                interface="driven",
                source="test",
                resolution_uj=counter.quantum_uj,
                range_uj=counter.range_uj,
                update_period_s=counter.tick_s if nominal_s is None else nominal_s,
                averaging_window_s=counter.averaging_s,
            )
            for domain, counter in self.counters.items()
        )

    def read(self) -> Reading:
        self.reads += 1
        started_ns = self._clock.now_ns()
        energy_uj = {domain: self._read(counter) for domain, counter in self.counters.items()}
        ended_ns = self._clock.now_ns()
        return Reading(
            time_ns=(started_ns + ended_ns) // 2, energy_uj=energy_uj, read_ns=ended_ns - started_ns
        )

    def _read(self, counter: DrivenCounter) -> int:
        fault = counter.fault
        slow = fault is not None and fault.kind == "slow read" and self._clock.now_ns() * 1e-9 >= fault.at_s
        read_s = 0.5 if slow else self._read_s * self._rng.uniform(2 / 3, 4 / 3)
        before_s = self._rng.random() * read_s
        self._pass(before_s)
        energy_uj = counter.at_uj(self._clock.now_ns() * 1e-9)
        self._pass(read_s - before_s)
        return energy_uj

    def _pass(self, seconds: float) -> None:
        if isinstance(self._clock, ReadingClock):
            self._clock.pass_time(seconds)
        elif seconds > 1e-3:
            self._clock.sleep(seconds)

    def close(self) -> None:
        """Nothing to release."""
