"""Opens and closes measurement windows. From here on energy is in joules and time in seconds.

A window is the difference of two readings of cumulative counters:

    begin ── synchronise, read ──┐ work ┌── synchronise, read ── end
                                 └ poll ┘   every half of the shortest time in which a counter can wrap

Every reading, of any window or of the poller, moves one running total per domain by the wrapped
difference since the reading before it. Windows of any length, nested or overlapping, are differences of
these totals, exact to the microjoule through any number of wraps.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import sqrt
from typing import ParamSpec, TypeVar

from calibration_data import CounterSpec, MeasurementError, UsageError, WindowReading
from profiler.clock import Clock, MonotonicClock
from profiler.errors import ImplausiblePowerError, SensorMissingError, WindowOrderError
from profiler.sensors.base import Sensor
from profiler.wraparound import counter_difference

PLAUSIBLE_POWER_W = 10_000.0
"""No package, DRAM or GPU draws more; a window that says so read a counter that was reset or is broken."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Window:
    """A window of ``EnergyMeter.window``; ``reading`` is there once it has closed without an exception."""

    name: str
    _reading: WindowReading | None = None

    @property
    def reading(self) -> WindowReading:
        """Joules and seconds of the window.

        Raises:
            WindowOrderError: the window is still open, or an exception discarded it.
        """
        if self._reading is None:
            raise WindowOrderError(f"Window {self.name!r} has no reading: it is open or was discarded.")
        return self._reading


@dataclass
class _Totals:
    """Unwrapped µJ of one sensor's domains since the meter first read it."""

    time_ns: int
    last_uj: dict[str, int]
    total_uj: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Edge:
    time_ns: int
    total_uj: dict[str, int]


@dataclass
class _OpenWindow:
    """Where a window began, and the first failure of a reading since: the window is lost with it."""

    begin: _Edge
    failure: MeasurementError | None = None


class EnergyMeter:
    """Measures the energy of windows with all domains of some sensors.

    Args:
        sensors: cumulative counters; their domains must have different names.
        clock: drives the poller; the sensors' readings carry their own times from the same clock.
        synchronize: called before both edges of each window, for devices that work asynchronously.

    Raises:
        SensorMissingError: there is no sensor.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        *,
        clock: Clock | None = None,
        synchronize: Callable[[], None] | None = None,
    ) -> None:
        if not sensors:
            raise SensorMissingError(
                "There is no sensor to measure with.", next_step="See: calijoule devices."
            )
        self._sensors = tuple(sensors)
        self._clock = clock or MonotonicClock()
        self._synchronize = synchronize or (lambda: None)
        self._specs = {spec.domain: spec for sensor in sensors for spec in sensor.specs}
        if len(self._specs) != sum(len(sensor.specs) for sensor in sensors):
            raise UsageError("Two sensors measure a domain of the same name.")
        self._lock = threading.Lock()
        self._totals: dict[int, _Totals] = {}
        self._open: dict[str, _OpenWindow] = {}
        self._stop_polling: Callable[[], None] | None = None

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """Specs of every domain."""
        return tuple(self._specs.values())

    def begin(self, name: str) -> None:
        """Open a window.

        Raises:
            WindowOrderError: a window of that name is open.
            SensorReadError: a counter could not be read.
        """
        if name in self._open:
            raise WindowOrderError(f"A window named {name!r} is already open.")
        self._start_polling()
        self._synchronize()
        with self._lock:
            if not self._open:
                # What a counter did between windows is nobody's energy: count anew from here.
                self._totals.clear()
            self._open[name] = _OpenWindow(self._edge())

    def end(self, name: str) -> WindowReading:
        """Close a window and return its joules.

        Raises:
            WindowOrderError: no window of that name is open.
            SensorReadError: a counter could not be read, now or while the window was open.
            CounterResetError: a counter without a range fell.
            ImplausiblePowerError: a counter moved faster than any part can draw power.
            MeasurementError: no time passed between the two edges.
        """
        if name not in self._open:
            raise WindowOrderError(f"No window named {name!r} is open.")
        try:
            self._synchronize()
            with self._lock:
                window = self._open[name]
                if window.failure is not None:
                    raise window.failure
                end = self._edge()
        finally:
            del self._open[name]
        begin = window.begin
        duration_s = (end.time_ns - begin.time_ns) / 1e9
        if duration_s <= 0:
            raise MeasurementError(f"The window {name!r} ended at the instant at which it began.")
        energy_j = {domain: (end.total_uj[domain] - begin.total_uj[domain]) / 1e6 for domain in self._specs}
        u_j = {
            domain: quantisation_u_j(spec, energy_j[domain], duration_s)
            for domain, spec in self._specs.items()
        }
        return WindowReading(duration_s=duration_s, energy_j=energy_j, quantisation_u_j=u_j)

    @contextmanager
    def window(self, name: str = "window") -> Iterator[Window]:
        """Measure the body of a ``with``; an exception in it discards the window."""
        window = Window(name)
        self.begin(name)
        try:
            yield window
        except BaseException:
            self._open.pop(name, None)
            raise
        window._reading = self.end(name)

    def measured(
        self, report: Callable[[str, WindowReading], None]
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorator: each call becomes a window, whose reading goes to ``report(name, reading)``."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            @functools.wraps(function)
            def measured_function(*args: P.args, **kwargs: P.kwargs) -> R:
                with self.window(function.__qualname__) as window:
                    result = function(*args, **kwargs)
                report(window.name, window.reading)
                return result

            return measured_function

        return decorate

    def close(self) -> None:
        """Stop the poller; the sensors stay open, since they belong to whoever opened them."""
        if self._stop_polling is not None:
            self._stop_polling()
            self._stop_polling = None
        self._open.clear()

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _edge(self) -> _Edge:
        """Read every sensor and return the running totals; the lock is held."""
        self._advance_totals()
        total_uj: dict[str, int] = {}
        for totals in self._totals.values():
            total_uj |= totals.total_uj
        return _Edge(self._totals[0].time_ns, total_uj)

    def _advance_totals(self) -> None:
        """Read every sensor; a failure is lasting for every window that is open."""
        try:
            self._read_sensors()
        except MeasurementError as error:
            for window in tuple(self._open.values()):
                window.failure = window.failure or error
            raise

    def _read_sensors(self) -> None:
        for index, sensor in enumerate(self._sensors):
            reading = sensor.read()
            totals = self._totals.get(index)
            if totals is None:
                self._totals[index] = _Totals(
                    reading.time_ns, dict(reading.energy_uj), dict.fromkeys(reading.energy_uj, 0)
                )
                continue
            elapsed_s = (reading.time_ns - totals.time_ns) * 1e-9
            for domain, now_uj in reading.energy_uj.items():
                spec = self._specs[domain]
                moved_uj = counter_difference(totals.last_uj[domain], now_uj, spec.range_uj)
                limit_j = PLAUSIBLE_POWER_W * (elapsed_s + (spec.update_period_s or 0.1))
                if moved_uj * 1e-6 > limit_j:
                    raise ImplausiblePowerError(
                        f"{domain} moved by {moved_uj * 1e-6:.6g} J in {elapsed_s:.3g} s, more than any part"
                        " can draw; the counter was reset or is broken.",
                        next_step="Measure again; if it repeats, check the sensor with: calijoule devices.",
                    )
                totals.total_uj[domain] += moved_uj
                totals.last_uj[domain] = now_uj
            totals.time_ns = reading.time_ns

    def _start_polling(self) -> None:
        ranges = [spec.range_uj for spec in self._specs.values() if spec.range_uj is not None]
        if self._stop_polling is None and ranges:
            self._stop_polling = self._clock.every(min(ranges) * 1e-6 / PLAUSIBLE_POWER_W / 2, self._poll)

    def _poll(self) -> None:
        with self._lock:
            if self._open:
                # The failure is kept in the windows and raised when they end.
                with suppress(MeasurementError):
                    self._advance_totals()


def quantisation_u_j(spec: CounterSpec, energy_j: float, duration_s: float) -> float:
    """Standard uncertainty of a window from the counter's tick and resolution, in joules.

    Each edge falls anywhere in a tick, a rectangular distribution of width P·tick with variance
    (P·tick)²/12 (GUM 4.3.7); a window has two independent edges. The resolution adds alike.
    """
    power_w = energy_j / duration_s
    tick_j = power_w * (spec.update_period_s or 0.0)
    step_j = (spec.resolution_uj or 0.0) * 1e-6
    return sqrt((tick_j**2 + step_j**2) / 6)
