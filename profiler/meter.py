"""Opens and closes measurement windows. From here on energy is in joules and time in seconds.

    begin ── synchronise, read, wait for a tick ──┐ work ┌── synchronise, read, wait for a tick ── end
                                                  └ poll ┘   before a counter can wrap

A window starts when ``begin`` returns and stops when ``end`` is called (and the device is idle); what the
counters moved while ``end`` waits is taken off again (``profiler.window_energy``).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from calibration_data import (
    CounterSpec,
    MeasurementError,
    NoUsableSensorError,
    UsageError,
    WindowReading,
)
from profiler.alignment import Align, Alignment
from profiler.clock import Clock, MonotonicClock
from profiler.closing import Closing, OpenWindow
from profiler.counters import PLAUSIBLE_POWER_W, Counters, Tick, TickTiming
from profiler.errors import CounterResetError, ImplausiblePowerError, SensorMissingError, WindowOrderError
from profiler.ticks import wait_for_ticks

if TYPE_CHECKING:
    # Every sensor would be imported with it.
    from profiler.sensors.base import Sensor

LONGEST_POLL_S = 0.05
"""The counters of an open window are read this often: a counter that stands still, jumps back or starts anew
in between is then noticed, where two readings a window would make a plausible number of it."""

POLLS_IN_SLOW_PERIOD = 4
"""A counter whose ticks are watched in the background is looked after this often."""

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


class EnergyMeter:
    """Measures the energy of windows with all domains of some sensors.

    Args:
        sensors: cumulative counters; their domains must have different names.
        clock: the sensors' readings carry their times from the same clock.
        synchronize: called before both edges of each window, for devices that work asynchronously.
        align: ``auto`` waits for a tick of the leading counters (those of the total) at both edges, and for
            one more after the end where the power changed and a tick is cheap; slow counters (from 5 ms) are
            watched in the background, and then waited for only at the end. ``always`` waits for that one
            more tick at any price, and for counters that tick less than twice a second too; ``never`` costs
            two reads a window, leaves the ticks to the uncertainty, and cannot see that a counter stopped
            within a window. Simulated counters are aligned only by ``always``: virtual time is free, so
            their windows are made long instead.
        gain_u_rel: relative standard uncertainty of a sensor's gain by domain, where it is known.

    Unless ``never``, making a meter takes eight ticks of the slowest counter, to learn how they come.

    Raises:
        SensorMissingError: there is no sensor.
        UsageError: two domains have the same name, or a gain is given for a domain that is not measured.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        *,
        clock: Clock | None = None,
        synchronize: Callable[[], None] | None = None,
        align: Align = "auto",
        gain_u_rel: Mapping[str, float] | None = None,
    ) -> None:
        if not sensors:
            raise SensorMissingError(
                "There is no sensor to measure with.", next_step="See: calijoule devices."
            )
        self._clock = clock or MonotonicClock()
        self._synchronize = synchronize
        self._counters = Counters(sensors)
        unknown = sorted(set(gain_u_rel or {}) - set(self._counters.specs))
        if unknown:
            raise UsageError(f"A gain is given for {', '.join(unknown)}, which no sensor measures.")
        self._alignment = Alignment(self._counters, self._clock, align)
        self._closing = Closing(self._counters, self._alignment, gain_u_rel or {})
        self._lock = threading.Lock()
        self._open: dict[str, OpenWindow] = {}
        self._last_edge: Mapping[str, Tick] = {}
        self._stop_polling: Callable[[], None] | None = None
        self._poll_s = LONGEST_POLL_S
        # What a sensor has to complain about comes out at the first window.
        with suppress(MeasurementError, NoUsableSensorError):
            self._alignment.discover()
            self._last_edge = self._counters.ticks()
        if self._alignment.watched():
            self._start_polling()

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """Specs of every domain."""
        return tuple(self._counters.specs.values())

    @property
    def clock(self) -> Clock:
        """Time as the sensors see it."""
        return self._clock

    @property
    def timing(self) -> Mapping[str, TickTiming]:
        """How every counter ticks: as discovered, else as its spec says."""
        return dict(self._counters.timing)

    def begin(self, name: str) -> None:
        """Open a window.

        Raises:
            WindowOrderError: a window of that name is open.
            SensorReadError: a counter could not be read.
        """
        if name in self._open:
            raise WindowOrderError(f"A window named {name!r} is already open.")
        self._start_polling()
        if self._synchronize is not None:
            self._synchronize()
        with self._lock:
            if self._open:
                self._read()
            else:
                self._read_anew()
            self._wait(self._alignment.before_begin())
            window = OpenWindow(self._counters.read_s, self._counters.ticks(), self._last_edge)
            self._open[name] = window
        # The last thing to do: from here on the energy is the work's.
        window.begin_ns = self._clock.now_ns()

    def end(self, name: str) -> WindowReading:
        """Close a window and return its joules.

        Raises:
            WindowOrderError: no window of that name is open.
            SensorReadError: a counter could not be read, now or while the window was open.
            CounterResetError: a counter without a range fell.
            ImplausiblePowerError: a counter moved faster than any part can draw power.
            MeasurementError: no time passed between the two edges.
        """
        end_ns = self._clock.now_ns()
        window = self._open.get(name)
        if window is None:
            raise WindowOrderError(f"No window named {name!r} is open.")
        try:
            if self._synchronize is not None:
                self._synchronize()
                end_ns = self._clock.now_ns()
            with self._lock:
                if window.failure is not None:
                    raise window.failure
                if end_ns <= window.begin_ns:
                    raise MeasurementError(f"The window {name!r} ended at the instant at which it began.")
                self._read()
                reading = self._closing.reading(window, end_ns, self._wait)
                self._last_edge = self._counters.ticks()
        finally:
            del self._open[name]
        return reading

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

    def _wait(self, domains: Iterable[str]) -> dict[str, list[Tick]]:
        try:
            return wait_for_ticks(self._counters, self._clock, domains)
        except MeasurementError as error:
            self._fail(error)
            raise

    def _read_anew(self) -> None:
        """What a counter did between windows is nobody's energy: count anew from here."""
        try:
            self._counters.read()
        except (CounterResetError, ImplausiblePowerError):
            self._last_edge = {}
            self._counters.forget()
            self._counters.read()

    def _read(self) -> None:
        try:
            self._counters.read()
        except MeasurementError as error:
            self._fail(error)
            raise
        watched = self._alignment.watched()
        ticks = self._counters.ticks() if watched else {}
        for domain in watched:
            tick = ticks[domain]
            for window in tuple(self._open.values()):
                if tick.total_uj != window.opening[domain].total_uj:
                    window.first.setdefault(domain, tick)

    def _fail(self, error: MeasurementError) -> None:
        """A failure is lasting for every window that is open."""
        for window in tuple(self._open.values()):
            window.failure = window.failure or error

    def _start_polling(self) -> None:
        if self._stop_polling is not None:
            return
        periods_s = [
            spec.range_uj * 1e-6 / PLAUSIBLE_POWER_W / 2 for spec in self.specs if spec.range_uj is not None
        ]
        if any(spec.interface != "simulated" for spec in self.specs):
            periods_s.append(LONGEST_POLL_S)
        periods_s += [
            self._counters.timing[domain].period_s / POLLS_IN_SLOW_PERIOD
            for domain in self._alignment.watched()
        ]
        if periods_s:
            self._poll_s = min(periods_s)
            self._stop_polling = self._clock.every(self._poll_s, self._poll)

    def _poll(self) -> None:
        if self._read_between():
            self._alignment.watch(self._read_between, self._poll_s)

    def _read_between(self) -> bool:
        """Read, unless an edge is being read just now."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            # A failure is kept in the open windows and raised when they end.
            with suppress(MeasurementError):
                self._read()
        finally:
            self._lock.release()
        return True
