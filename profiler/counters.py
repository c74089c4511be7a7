"""Running totals of all counters, and when each of them last moved.

Every reading, whoever asked for it, moves one running total per domain by the wrapped difference since the
reading before it, so that windows of any length, nested or overlapping, are differences of these totals,
exact to the microjoule through any number of wraps.

A counter shows the energy up to its last tick, not up to now. When that tick was is known only as well as
the counter was watched:

    ├ read: old value ─── tick somewhere here ─── read: new value ┤      the tick: middle ± half of the gap
    ├─────────── one update period ──────────┤                          never more than a period ago
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

from calibration_data import CounterSpec, MeasurementError, UsageError
from profiler.errors import CounterResetError, ImplausiblePowerError
from profiler.wraparound import counter_difference

if TYPE_CHECKING:
    # Every sensor would be imported with these.
    from profiler.sensors.base import Reading, Sensor

PLAUSIBLE_POWER_W = 10_000.0
"""No package, DRAM or GPU draws more; a window that says so read a counter that was reset or is broken."""

UNKNOWN_PERIOD_S = 0.1
"""Taken for the update period of a counter that does not say it: the longest of common ones."""

SHARP = 0.5
"""A tick is sharp if it is known to this part of the update period, whole width."""

SLOW_READ = 0.5
"""A read that takes this part of the update period, or more, blurs the ticks."""


IDLE_PERIODS = 1.5
"""A counter that has not moved for this many update periods has had a tick without energy."""


STUCK_PERIODS = 3.0
"""A counter that is known to tick and stands still for this many update periods is stuck."""

STUCK_LEAST_S = 0.05
"""However often it ticks, it stands still for so long: what updates it, a hypervisor say, can be late."""


UNSURE_LEAST_S = 0.2
"""A counter that has moved, and whose ticks could not be seen well, stands still for so long to be stuck."""

MOVED_OFTEN = 3
"""So many readings have seen a counter move that is known to tick."""


def patience_s(period_s: float, periods: float) -> float:
    """How long a counter may stand still: some update periods, and never less than ``STUCK_LEAST_S``."""
    return max(periods * period_s, STUCK_LEAST_S)


@dataclass(frozen=True, kw_only=True)
class TickTiming:
    """What is known about the ticks of one counter.

    Attributes:
        period_s: mean time between two ticks.
        jitter_s: standard deviation of the time between two ticks.
        resolution_uj: smallest step of the counter, in µJ.
        variation_w: standard deviation of the power from tick to tick, where it changes from each tick to
            the next; 0 if it was steady.
        power_w: mean power while the counter was discovered; None if it was not.
        unseen_s: part of each update period over which the sensor does not average.
        discovered: seen on the device, not taken from a data sheet.
    """

    period_s: float
    jitter_s: float = 0.0
    resolution_uj: float = 0.0
    variation_w: float = 0.0
    power_w: float | None = None
    unseen_s: float = 0.0
    discovered: bool = False


def nominal_timing(spec: CounterSpec) -> TickTiming:
    """What the data sheet says."""
    period_s = UNKNOWN_PERIOD_S if spec.update_period_s is None else max(spec.update_period_s, 1e-9)
    return TickTiming(
        period_s=period_s,
        resolution_uj=spec.resolution_uj or 0.0,
        unseen_s=max(0.0, period_s - (spec.averaging_window_s or period_s)),
    )


class Tick(NamedTuple):
    """The last tick of a counter at some moment; made at every reading, so it must be made quickly.

    Attributes:
        total_uj: running total that it shows.
        time_s: middle of the interval in which the tick was.
        half_width_s: half of that interval.
        sharp: the interval is short against the update period.
        power_w: mean power of the update period that this tick ended; None if it is not known.
        power_u_w: standard uncertainty of ``power_w`` from the times of its two ticks.
    """

    total_uj: int
    time_s: float
    half_width_s: float
    sharp: bool
    power_w: float | None = None
    power_u_w: float = 0.0


@dataclass(slots=True)
class _Counter:
    raw_uj: int
    read_s: float
    moved_s: float
    tick: Tick
    moves: int = 0


class Counters:
    """Unwraps the counters of some sensors.

    Args:
        sensors: their domains must have different names.

    Attributes:
        specs: of every domain.
        timing: of every domain; from the specs until it has been discovered.
        read_s: seconds on the sensors' clock at the last reading.

    Raises:
        UsageError: two domains have the same name.
    """

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = tuple(sensors)
        self.specs: dict[str, CounterSpec] = {
            spec.domain: spec for sensor in sensors for spec in sensor.specs
        }
        if len(self.specs) != sum(len(sensor.specs) for sensor in sensors):
            raise UsageError("Two sensors measure a domain of the same name.")
        self.timing: dict[str, TickTiming] = {
            domain: nominal_timing(spec) for domain, spec in self.specs.items()
        }
        self._counters: dict[str, _Counter] = {}
        self.read_s = 0.0
        self._slow: set[str] = set()
        self._stood_still_s: dict[str, float] = {}

    @property
    def slow(self) -> frozenset[str]:
        """Domains whose last reading took long against their update period."""
        return frozenset(self._slow)

    def stood_still_since(self, since_s: float) -> frozenset[str]:
        """Domains that are known to tick and were seen not to, after some moment of the sensors' clock."""
        return frozenset(domain for domain, seen_s in self._stood_still_s.items() if seen_s > since_s)

    def ticks(self) -> Mapping[str, Tick]:
        """The last tick of every counter, as of the last reading."""
        return {domain: counter.tick for domain, counter in self._counters.items()}

    def forget(self) -> None:
        """Start anew with the next reading."""
        self._counters.clear()

    def read(self) -> None:
        """Read every sensor once.

        Raises:
            SensorReadError: a counter could not be read.
            CounterResetError: a counter without a range fell, or a reading is out of its range.
            ImplausiblePowerError: a counter moved faster than any part can draw power.
        """
        problem: MeasurementError | None = None
        for sensor in self._sensors:
            reading = sensor.read()
            self.read_s = reading.time_ns * 1e-9
            for domain, raw_uj in reading.energy_uj.items():
                try:
                    self._advance(domain, raw_uj, reading)
                except (CounterResetError, ImplausiblePowerError) as error:
                    problem = problem or error
        if problem is not None:
            raise problem

    def _advance(self, domain: str, raw_uj: int, reading: Reading) -> None:
        read_s = reading.time_ns * 1e-9
        period_s = self.timing[domain].period_s
        # Reading the others takes as long each time, so it moves all ticks alike; unless it is slow.
        blur_s = reading.read_ns * 1e-9
        if blur_s > SLOW_READ * period_s:
            self._slow.add(domain)
        else:
            self._slow.discard(domain)
            blur_s /= 2 * len(reading.energy_uj)
        counter = self._counters.get(domain)
        if counter is None:
            self._counters[domain] = _Counter(
                raw_uj, read_s, read_s, _unseen_tick(0, read_s, period_s, blur_s)
            )
            return
        gap_s = read_s - counter.read_s
        before_uj, tick = counter.raw_uj, counter.tick
        # Whatever the difference turns out to be, the next one counts from here.
        counter.raw_uj, counter.read_s = raw_uj, read_s
        moved_uj = counter_difference(before_uj, raw_uj, self.specs[domain].range_uj)
        if not moved_uj:
            still_s = read_s - counter.moved_s
            patient_s = patience_s(period_s, STUCK_PERIODS)
            if not self.timing[domain].discovered:
                patient_s = max(patient_s, UNSURE_LEAST_S) if counter.moves >= MOVED_OFTEN else inf
            if still_s > patient_s:
                self._stood_still_s[domain] = read_s
            if read_s - tick.time_s > IDLE_PERIODS * period_s:
                # At no power a counter ticks and shows the same.
                counter.tick = _unseen_tick(tick.total_uj, read_s, period_s, blur_s)
            return
        counter.moved_s = read_s
        counter.moves += 1
        _refuse_implausible(domain, moved_uj * 1e-6, gap_s, period_s)
        counter.tick = self._tick_after(domain, tick, moved_uj, read_s, gap_s, blur_s)

    def _tick_after(
        self, domain: str, before: Tick, moved_uj: int, read_s: float, gap_s: float, blur_s: float
    ) -> Tick:
        timing = self.timing[domain]
        width_s = min(gap_s, timing.period_s) + blur_s
        tick_s = read_s - min(gap_s, timing.period_s) / 2
        sharp = gap_s > 0 and width_s <= SHARP * timing.period_s
        power_w, power_u_w = None, 0.0
        if sharp:
            # Seen closely, so only one tick has passed since the one before.
            if before.sharp:
                interval_s = tick_s - before.time_s
                interval_u_s = hypot(width_s / 2, before.half_width_s) / sqrt(3)
            else:
                interval_s, interval_u_s = timing.period_s, timing.jitter_s
            power_w = moved_uj * 1e-6 / interval_s
            power_u_w = power_w * interval_u_s / interval_s
        return Tick(
            total_uj=before.total_uj + moved_uj,
            time_s=tick_s,
            half_width_s=width_s / 2,
            sharp=sharp,
            power_w=power_w,
            power_u_w=power_u_w,
        )


def _unseen_tick(total_uj: int, read_s: float, period_s: float, blur_s: float) -> Tick:
    """A tick that nobody watched: somewhere in the update period before the reading."""
    return Tick(
        total_uj=total_uj,
        time_s=read_s - period_s / 2,
        half_width_s=(period_s + blur_s) / 2,
        sharp=False,
    )


def _refuse_implausible(domain: str, moved_j: float, elapsed_s: float, period_s: float) -> None:
    if moved_j > PLAUSIBLE_POWER_W * (elapsed_s + period_s):
        raise ImplausiblePowerError(
            f"{domain} moved by {moved_j:.6g} J in {elapsed_s:.3g} s, more than any part can draw; the"
            " counter was reset or is broken.",
            next_step="Measure again; if it repeats, check the sensor with: calijoule devices.",
        )
